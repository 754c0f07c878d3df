"""Tables of variants in the columns of ProteinGym: checked against the wild type, and written with scores."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from protlm.errors import UserError, counted
from protlm.tables import BLANKS, Table, read_table, write_table
from protlm.variants.edits import name_of
from protlm.variants.notation import Variants, examine, first_of, parse

MUTANT, SEQUENCE, MEASURED, BINARY = "mutant", "mutated_sequence", "DMS_score", "DMS_score_bin"
SCORE = "protlm_score"
DIGITS = 6
"""Decimals of scores in files, which is the precision of differences of float32 logarithms."""
PROTEIN = "protein"
"""Column with the identifier of the wild type, if there are several."""
INVALID_ROWS = ("error", "skip", "nan")
"""What to do with rows that cannot be scored: refuse the table, leave them out, or keep them without a score."""


class VariantTable:
    """The variants of a CSV file, from its column `mutant` or, where that is absent or blank, `mutated_sequence`.

    Args:
        path: of the file, or its table.
        wild_type: a sequence, or several by identifier; then the column `protein` names that of each variant.
        offset: see `parse`.
        invalid: one of `INVALID_ROWS`.
        column: with the variants, instead of `mutant`.

    Attributes:
        table: the cells, without rows that are left out.
        groups: identifier ("" for a single wild type) -> numbers of its valid rows, and their variants.
        total: number of rows in the file.
        problems: row in the file -> what is wrong with it.
    """

    def __init__(
        self,
        path: str | Path | Table,
        wild_type: str | Mapping[str, str],
        offset: int = 0,
        invalid: str = "error",
        column: str | None = None,
    ) -> None:
        if invalid not in INVALID_ROWS:
            raise UserError(f"invalid {invalid!r}: expected one of {', '.join(INVALID_ROWS)}", "invalid")
        self.table = table = path if isinstance(path, Table) else read_table(path, ragged=True)
        if not table.rows:
            raise UserError(f"{table.path}: no rows after the header; expected one variant per row")
        if SCORE in table:
            raise UserError(f"{table.path}: already has a column {SCORE!r}; rename it")
        if column or (MUTANT not in table and SEQUENCE not in table):
            try:
                table[column or MUTANT]
            except UserError as error:  # which lists the columns
                raise UserError(f"{error}; set column to one of them", "column") from error
        self._column, self._invalid = self._header(column or MUTANT), invalid
        self._several, self.total = not isinstance(wild_type, str), len(table.rows)
        wild_types = {"": wild_type} if isinstance(wild_type, str) else dict(wild_type)
        self._names, self._sequences = self._unblanked(self._column), self._unblanked(self._header(SEQUENCE))
        self.problems, self._advice = {row: table.misshapen(row) for row in table.ragged}, ""
        rows: dict[str, list[int]] = {} if self._several else {"": []}
        for row, protein in enumerate(table[PROTEIN] if self._several else [""] * self.total):
            if protein not in wild_types:
                self.problems.setdefault(row, f"{table.location(row)}: protein {protein!r} is not in the FASTA file")
            elif row not in self.problems:
                rows.setdefault(protein, []).append(row)
        self.groups = {name: (members, self._read(wild_types[name], members, offset)) for name, members in rows.items()}
        if MEASURED in table:
            self.problems = table.parsed(MEASURED)[1] | self.problems
        if self.problems:
            if invalid == "error":
                raise self.refusal()
            self._leave_out(offset)

    def _header(self, name: str) -> str | None:
        """The name of a column as written in the file; None if there is none."""
        number = self.table.find(name)
        return None if number is None else self.table.columns[number]

    def _unblanked(self, column: str | None) -> list[str]:
        """The cells (n,) of a column, "" if blank."""
        cells = self.table[column] if column else [""] * self.total
        return ["" if cell.casefold() in BLANKS else cell for cell in cells]

    def _read(self, wild_type: str, rows: list[int], offset: int) -> Variants:
        """The variants of some rows; adds to `problems`."""
        table, wrong = self.table, {}
        for row in rows:
            if self._sequences[row] and not self._names[row]:
                self._names[row] = name_of(wild_type, self._sequences[row].upper().removesuffix("*"), offset)
        variants, found, advice = examine(wild_type, [self._names[row] for row in rows], offset)
        self._advice = self._advice or advice
        for number, problem in found.items():
            wrong.setdefault(rows[number], table.location(rows[number]) + problem)
        for row, expected in zip(rows, variants.sequences(), strict=True):
            given = self._sequences[row].upper().removesuffix("*")
            if row not in wrong and expected and given not in ("", expected):
                wrong[row] = (
                    f"{table.location(row)}: {SEQUENCE} is not the wild type with {self._names[row]}; expected both "
                    "columns to agree, or only one of them"
                )
        self.problems |= wrong
        return variants

    def _leave_out(self, offset: int) -> None:
        """Keeps valid variants only; the invalid rows stay in the table if they are to be written."""
        kept = [row for row in range(self.total) if self._invalid == "nan" or row not in self.problems]
        number = {row: n for n, row in enumerate(kept)}
        for name, (rows, variants) in list(self.groups.items()):
            valid = [row for row in rows if row not in self.problems]
            if valid or not self._several:
                names = [self._names[row] for row in valid]
                self.groups[name] = [number[row] for row in valid], parse(variants.sequence, names, offset)
            else:
                del self.groups[name]
        self.table = self.table.take(kept)

    def refusal(self) -> UserError:
        """The error that names the first invalid row."""
        them = "it" if len(self.problems) == 1 else "them"
        way = f"; set invalid to 'skip' to leave {them} out, or 'nan' to write {them} without a score"
        return UserError(first_of(self.problems, "row") + self._advice + way, "offset", "invalid")

    def describe(self, most: int | None = None) -> list[str]:
        """Lines that count and list the invalid rows, at most `most` of them."""
        if not self.problems:
            return []
        fate = "left out" if self._invalid == "skip" else "without a score"
        lines = [f"{self.table.path}: {len(self.problems):,} of {counted(self.total, 'row')} invalid, {fate}"]
        listed = sorted(self.problems)[:most]
        lines += [f"{'skipped' if self._invalid == 'skip' else 'no score'}: {self.problems[row]}" for row in listed]
        return lines + ["..."] * (len(listed) < len(self.problems))

    @property
    def variants(self) -> Variants:
        """Those of the only wild type."""
        ((_, variants),) = self.groups.values()
        return variants

    def invalid(self) -> dict[int, str]:
        """Row of `table` -> what is wrong with it, without its location."""
        if self._invalid != "nan":
            return {}
        start = {row: len(Table(self.table.path, [], []).location(row)) for row in self.problems}
        return {row: problem[start[row] :].lstrip(",: ") for row, problem in self.problems.items()}

    def measured(self) -> np.ndarray | None:
        """DMS_score (n,) float64, NaN where blank or invalid; None without this column."""
        return self.table.parsed(MEASURED)[0] if MEASURED in self.table else None

    def columns(self) -> dict[str, list[str]]:
        """Name -> cells (n,) in ProteinGym's order: mutant, mutated_sequence, DMS_score, DMS_score_bin, then others.

        Columns of the file keep their names, in upper or lower case.
        """
        mutant, sequence = self._column or MUTANT, self._header(SEQUENCE) or SEQUENCE
        ours = {
            name: self.table[name] if name in self.table else [""] * len(self.table.rows) for name in (mutant, sequence)
        }
        for rows, variants in self.groups.values():
            for row, name, mutated in zip(rows, variants.names, variants.sequences(), strict=True):
                ours[mutant][row], ours[sequence][row] = name, mutated
        protein = self._header(PROTEIN) if self._several else None
        first = (protein, mutant, sequence, self._header(MEASURED), self._header(BINARY))
        order = dict.fromkeys(filter(None, (*first, *self.table.columns)))
        return {name: ours[name] if name in ours else self.table[name] for name in order}

    def write(self, path: Path | None, scores: np.ndarray) -> None:
        """Writes all columns and the scores (n,); to standard output if `path` is None."""
        columns = self.columns()
        cells = zip(*columns.values(), map(format_score, scores.tolist()), strict=True)
        write_table(path, [*columns, SCORE], cells)


def format_score(score: float) -> str:
    """A score as written to files; "" for NaN."""
    return "" if math.isnan(score) else f"{round(score, DIGITS) + 0.0:.{DIGITS}f}"  # + 0.0: no negative zero
