"""Variants to score: of one protein or several, from a table, a list, or all substitutions."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from protlm.correlation import spearman
from protlm.errors import UserError, counted
from protlm.files import atomic_output
from protlm.inference.engine import Computer
from protlm.plots.positions import heat_map
from protlm.progress import Progress
from protlm.sequence.fasta import FastaFile, Record, none_left
from protlm.tables import Table, read_table, write_table
from protlm.variants.notation import Variants, all_singles
from protlm.variants.score import chosen_method, matrix_of, score_variants
from protlm.variants.variant_table import MEASURED, MUTANT, PROTEIN, SCORE, SEQUENCE, VariantTable, format_score


class Scan:
    """Variants and their wild types.

    Args:
        proteins: the wild type, or several if the table has a column `protein` with their identifiers.
        source: of the proteins, for messages.
        path: of a table, see `VariantTable`.
        names: of variants, if there is no table; without either, all single substitutions are scored.
        offset: see `parse`.
        invalid, column: see `VariantTable`.

    Raises:
        UserError: also if none of the variants is valid.
    """

    def __init__(
        self,
        proteins: Iterable[Record],
        source: str,
        path: Path | None,
        names: Sequence[str] = (),
        offset: int = 0,
        invalid: str = "error",
        column: str | None = None,
    ) -> None:
        records = list(proteins)
        self.notes = proteins.tally.lines() if isinstance(proteins, FastaFile) else []
        self.source, self.table = source, None
        if not records:
            raise none_left(source, proteins.tally if isinstance(proteins, FastaFile) else None)
        self.wild_types = {record.id: record.sequence for record in records}
        if len(self.wild_types) < len(records):
            raise UserError(f"{source}: duplicate identifiers; expected unique ones")
        table = read_table(path, ragged=True) if path else Table("variants", [MUTANT], [[name] for name in names])
        several = len(records) > 1 and PROTEIN in table
        if not several:
            self.only(f"unless the table of variants has a column {PROTEIN!r}" if path else "protein")
        if path or names:
            wild_type = self.wild_types if several else records[0].sequence
            self.table = VariantTable(table, wild_type, offset, invalid, column)
            self.groups = self.table.groups
        else:
            self.groups = {"": (None, all_singles(records[0].sequence, offset))}
        self.measured = self.table.measured() if self.table else None
        self.count = sum(len(variants) for _, variants in self.groups.values())
        if self.table and not self.count:
            raise self.table.refusal()
        if not self.count:
            raise UserError(f"{source}: none of the twenty amino acids occurs; there is nothing to substitute")

    def only(self, where: str) -> str:
        """The sequence of the only protein; raises a UserError that ends with `where` if there are several."""
        if len(self.wild_types) != 1:
            raise UserError(f"{self.source}: {len(self.wild_types):,} proteins; expected one {where}")
        return next(iter(self.wild_types.values()))

    def score(self, computer: Computer, method: str | None, progress: Progress | None = None) -> np.ndarray:
        """Scores (n,) float64 in the order of the table, NaN for invalid rows; see `score_variants`."""
        chosen_method(computer.model, method)

        def compute(variants: Variants) -> np.ndarray:
            return score_variants(computer, variants, method, progress)

        return self.table.scattered(compute) if self.table else compute(self.groups[""][1])

    def write(self, path: Path | None, scores: np.ndarray, sequences: bool = True) -> None:
        """Writes a CSV table with scores; all single substitutions optionally without the mutated sequences."""
        if self.table:
            self.table.write(path, scores)
            return
        ((_, variants),) = self.groups.values()
        columns: list[Iterable[str]] = [variants.names, *([variants.sequences()] if sequences else [])]
        cells = zip(*columns, map(format_score, scores.tolist()), strict=True)
        write_table(path, [MUTANT, *([SEQUENCE] if sequences else []), SCORE], cells)

    def draw(self, path: Path, scores: np.ndarray) -> None:
        """Draws the single substitutions of the only protein as a heat map."""
        ((rows, variants),) = self.groups.values()
        scores = scores if rows is None else scores[rows]
        with atomic_output(path) as partial:
            label = "log p(variant) - log p(wild type)"
            heat_map(partial, matrix_of(variants, scores), variants.sequence, label, diverging=True)

    def describe(self, scores: np.ndarray) -> list[str]:
        """Lines that report the number of scores, with Spearman's correlation if there are measurements."""
        lines = [f"{counted(self.count, 'variant')} of {counted(len(self.groups), 'protein')}", *self.notes]
        lines += self.table.describe() if self.table else []
        if self.measured is not None and np.isfinite(value := spearman(scores, self.measured)):
            known = int((np.isfinite(self.measured) & np.isfinite(scores)).sum())
            lines.append(f"Spearman's correlation with {MEASURED} of {counted(known, 'variant')}: {value:.3f}")
        return lines
