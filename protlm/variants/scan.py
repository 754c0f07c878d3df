"""The variants that a command is asked to score, of one protein or several, and what it writes of them."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from protlm.errors import UserError, counted
from protlm.files import atomic_output
from protlm.inference.engine import Computer
from protlm.metrics import spearman
from protlm.plots.positions import heat_map
from protlm.sequence.fasta import FastaFile, Record
from protlm.tables import Table, read_table, write_table
from protlm.variants.notation import Variants, all_singles
from protlm.variants.score import Progress, chosen_method, matrix, score_variants
from protlm.variants.variant_table import MUTANT, PROTEIN, SCORE, SEQUENCE, VariantTable, format_score


class Scan:
    """Variants from a table, from a list, or all single substitutions.

    Args:
        proteins: the wild type; or several, if a table has a column `protein` with their identifiers.
        source: what messages call them.
        path: of a table, see `VariantTable`; None for none.
        names: variants, if there is no table; none for all single substitutions.
        offset: see `parse`.

    Raises:
        UserError: for variants that do not fit, or more than one protein without a column that tells them apart.
    """

    def __init__(
        self, proteins: Iterable[Record], source: str, path: Path | None, names: Sequence[str] = (), offset: int = 0
    ) -> None:
        records = list(proteins)
        self.notes = proteins.tally.describe() if isinstance(proteins, FastaFile) else []
        self.source, self.table = source, None
        self.wild_types = {record.id: record.sequence for record in records}
        if not records:
            raise UserError(f"{source}: no record has a sequence; expected a protein")
        table = read_table(path) if path else Table("--variant", [MUTANT], [[name] for name in names])
        self.several = len(records) > 1 and PROTEIN in table
        if not self.several:
            self.only(f"without a column {PROTEIN!r} in the table of variants" if path else "here", len(records))
        if len(self.wild_types) < len(records):
            raise UserError(f"{source}: an identifier stands twice; expected each once, to tell the proteins apart")
        if not path and not names:
            self.groups = {"": (None, all_singles(records[0].sequence, offset))}
        else:
            self.table = VariantTable(table, self.wild_types if self.several else records[0].sequence, offset)
            self.groups = self.table.groups
        self.measured = self.table.measured() if self.table else None
        if not sum(len(variants) for _, variants in self.groups.values()):
            raise UserError(f"{source}: has none of the twenty amino acids; there is nothing to substitute")
        self.longest = max(len(variants.sequence) for _, variants in self.groups.values())

    def only(self, where: str, count: int | None = None) -> str:
        """The sequence of the only protein, or a UserError with the reason why there has to be one."""
        count = len(self.wild_types) if count is None else count
        if count != 1:
            raise UserError(f"{self.source}: {count:,} proteins; expected one {where}")
        return next(iter(self.wild_types.values()))

    def score(self, computer: Computer, method: str | None, progress: Progress | None = None) -> np.ndarray:
        """Scores (n,) in the order of the table; see `score_variants`."""
        chosen_method(computer.model, method)
        scores = np.empty(sum(len(variants) for _, variants in self.groups.values()))
        for rows, variants in self.groups.values():
            scores[slice(None) if rows is None else rows] = score_variants(computer, variants, method, progress)
        return scores

    def write(self, path: Path | None, scores: np.ndarray, sequences: bool = True) -> None:
        """Writes the table with scores; of all single substitutions also without the mutated sequences."""
        if self.table:
            self.table.write(path, scores)
            return
        variants = self._variants()
        columns: list[Iterable[str]] = [variants.names, *([variants.sequences()] if sequences else [])]
        cells = zip(*columns, map(format_score, scores.tolist()), strict=True)
        write_table(path, [MUTANT, *([SEQUENCE] if sequences else []), SCORE], cells)

    def draw(self, path: Path, scores: np.ndarray) -> None:
        """Draws the single substitutions of the only protein as a heat map."""
        variants = self._variants()
        with atomic_output(path) as partial:
            label = "log p(variant) - log p(wild type)"
            heat_map(partial, matrix(variants, scores), variants.sequence, label, diverging=True)

    def describe(self, scores: np.ndarray) -> list[str]:
        """What was scored, and Spearman's correlation with the measurements if there are any."""
        lines = [
            f"{counted(len(scores), 'variant')} of {counted(len(self.groups), 'protein')}",
            *self.notes,
        ]
        if self.measured is not None:
            known = int(np.isfinite(self.measured).sum())
            if np.isfinite(value := spearman(scores, self.measured)):
                lines.append(f"Spearman's correlation with DMS_score of {known:,}: {value:.3f}")
        return lines

    def _variants(self) -> Variants:
        ((_, variants),) = self.groups.values()
        return variants
