"""Tables of variants in the columns of ProteinGym: checked against the wild type, and written with scores."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from protlm.errors import UserError
from protlm.tables import Table, read_table, write_table
from protlm.variants.notation import Variants, name_of, parse

MUTANT, SEQUENCE, MEASURED, BINARY = "mutant", "mutated_sequence", "DMS_score", "DMS_score_bin"
SCORE = "protlm_score"
DIGITS = 6
"""Decimals of scores in files, which is the precision of differences of float32 logarithms."""
PROTEIN = "protein"
"""Column with the identifier of the wild type, if there are several."""


class VariantTable:
    """The variants of a CSV file, from its column `mutant` or, if absent, `mutated_sequence`.

    Args:
        path: of the file, or its table.
        wild_type: a sequence, or several by identifier; then the column `protein` names that of each variant.
        offset: see `parse`.

    Attributes:
        table: all cells.
        variants: those of the only wild type.
        groups: identifier ("" for a single wild type) -> numbers of its rows, and its variants.
    """

    def __init__(self, path: str | Path | Table, wild_type: str | Mapping[str, str], offset: int = 0) -> None:
        self.table = table = path if isinstance(path, Table) else read_table(path)
        if not table.rows:
            raise UserError(f"{table.path}: no rows after the header; expected one variant per row")
        if SCORE in table:
            raise UserError(f"{table.path}: already has a column {SCORE!r}; rename it")
        if MUTANT not in table and SEQUENCE not in table:
            table[MUTANT]  # raises the error that lists the columns
        if isinstance(wild_type, str):
            wild_types, of_row = {"": wild_type}, [""] * len(table.rows)
        else:
            wild_types, of_row = dict(wild_type), table[PROTEIN]
        rows: dict[str, list[int]] = {}
        for row, protein in enumerate(of_row):
            if protein not in wild_types:
                raise UserError(f"{table.location(row)}: protein {protein!r} is not in the FASTA file")
            rows.setdefault(protein, []).append(row)
        self.groups = {name: (members, self._read(wild_types[name], members, offset)) for name, members in rows.items()}

    @property
    def variants(self) -> Variants:
        ((_, variants),) = self.groups.values()
        return variants

    def _read(self, wild_type: str, rows: list[int], offset: int) -> Variants:
        table = self.table
        cells = {name: table[name] for name in (MUTANT, SEQUENCE) if name in table}
        given = [cells[SEQUENCE][row].upper() for row in rows] if SEQUENCE in cells else []
        names = [cells[MUTANT][row] for row in rows] if MUTANT in cells else []
        if not names:
            for row, sequence in zip(rows, given, strict=True):
                try:
                    names.append(name_of(wild_type, sequence, offset))
                except ValueError as error:
                    raise UserError(f"{table.location(row)}: {SEQUENCE} has {error}") from error
        variants = parse(wild_type, names, offset, lambda number: table.location(rows[number]))
        for row, name, sequence, expected in zip(rows, names, given, variants.sequences(), strict=False):
            if sequence != expected:
                raise UserError(
                    f"{table.location(row)}: {SEQUENCE} is not the wild type with {name}; expected both columns to "
                    "agree, or only one of them"
                )
        return variants

    def measured(self) -> np.ndarray | None:
        """DMS_score (n,) float64, NaN where empty; None without this column."""
        return self.table.numbers(MEASURED, missing=True) if MEASURED in self.table else None

    def columns(self) -> dict[str, list[str]]:
        """Name -> cells (n,) in ProteinGym's order: mutant, mutated_sequence, DMS_score, DMS_score_bin, then others."""
        names, sequences = [""] * len(self.table.rows), [""] * len(self.table.rows)
        for rows, variants in self.groups.values():
            for row, name, sequence in zip(rows, variants.names, variants.sequences(), strict=True):
                names[row], sequences[row] = name, sequence
        first = [name for name in (PROTEIN,) if name in self.table and "" not in self.groups]
        ours = {MUTANT: names, SEQUENCE: sequences}
        order = dict.fromkeys((*first, MUTANT, SEQUENCE, MEASURED, BINARY, *self.table.columns))
        return {
            name: ours[name] if name in ours else self.table[name]
            for name in order
            if name in ours or name in self.table
        }

    def write(self, path: Path | None, scores: np.ndarray) -> None:
        """Writes all columns and the scores (n,); to standard output if `path` is None."""
        columns = self.columns()
        cells = zip(*columns.values(), map(format_score, scores.tolist()), strict=True)
        write_table(path, [*columns, SCORE], cells)


def format_score(score: float) -> str:
    """A score as written to files."""
    return f"{round(score, DIGITS) + 0.0:.{DIGITS}f}"  # + 0.0: no negative zero
