"""The scores of a scan: its table, its picture, and what to say of it.

Legend: n rows of the table, or all single substitutions of one protein.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from protlm.correlation import spearman
from protlm.errors import counted
from protlm.files import atomic_output
from protlm.plots.positions import heat_map
from protlm.sequence.fasta import Record
from protlm.tables import write_table
from protlm.variants.assessment import REASON, Assessment
from protlm.variants.scan_page import write_page
from protlm.variants.score_matrix import matrix_of
from protlm.variants.tracks import tracks_of
from protlm.variants.variant_table import DIGITS, MEASURED, MUTANT, SCORE, SEQUENCE, VariantTable

EFFECTIVE, PERCENTILE, ALONE = "effective_sequences", "percentile", "blosum62_only"
LABELS = {
    "blosum62": "BLOSUM62, half bits",
    "profile": "log p(variant) - log p(wild type), profile of homologs",
    "model": "log p(variant) - log p(wild type), model",
    "blend": "log-odds of variant and wild type, nats",
}
"""What the scores of a scorer are, for pictures."""


class ScanResult:
    """Scores of variants of one protein or several.

    Args:
        assessed: identifier -> numbers of its rows in the table, None without a table, and their assessment.
        table: of the variants, if they are not all single substitutions.
        records: of the proteins.
        offset: number of residues of the numbering before the sequence.
        notes: lines about the input.
    """

    def __init__(
        self,
        assessed: Mapping[str, tuple[Sequence[int] | None, Assessment]],
        table: VariantTable | None,
        records: Sequence[Record],
        offset: int = 0,
        notes: Sequence[str] = (),
    ) -> None:
        self.assessed, self.table, self.notes = assessed, table, notes
        self._records, self._offset = records, offset
        self.rows = len(table.table.rows) if table else len(self.only.variants)

    @property
    def only(self) -> Assessment:
        """That of the only protein."""
        ((_, assessment),) = self.assessed.values()
        return assessment

    @cached_property
    def scores(self) -> np.ndarray:
        """(n,) float64 by the requested scorer; NaN for rows without a score."""
        return self._scattered([each.values for _, each in self.assessed.values()], np.nan)

    def columns(self, sequences: bool = True) -> dict[str, Any]:
        """Name -> the n values of each column: those of the table, the scores and what they rest on.

        A column of the table keeps its name; one of ours is then called protlm_NAME.
        """
        every = [each for _, each in self.assessed.values()]
        if self.table:
            columns: dict[str, Any] = self.table.columns()
        else:
            columns = {MUTANT: self.only.variants.names}
            if sequences:
                columns[SEQUENCE] = list(self.only.variants.sequences())
        reasons = self._scattered([np.array(each.reasons, dtype=object) for each in every], "")
        for row, problem in self.table.invalid().items() if self.table else ():
            reasons[row] = problem
        ours = {
            SCORE: self.scores,
            PERCENTILE: self._scattered([each.percentile for each in every], np.nan),
            EFFECTIVE: self._scattered([each.effective for each in every], np.nan),
            ALONE: self._scattered([_flags(each) for each in every], ""),
            REASON: reasons,
        }
        for name in dict.fromkeys(name for each in every for name in each.scores):
            parts = [each.scores.get(name, np.full(len(each.variants), np.nan)) for each in every]
            ours[name] = self._scattered(parts, np.nan)
        taken = {name.casefold() for name in columns}
        for name, values in ours.items():
            columns[f"protlm_{name}" if name.casefold() in taken else name] = values
        return columns

    def write(self, path: Path | None, sequences: bool = True) -> None:
        """Writes a CSV table, to standard output if `path` is None; optionally without the mutated sequences."""
        columns = self.columns(sequences)
        digits = _digits(columns)
        cells = [[_cell(value, digits.get(name, 0)) for value in values] for name, values in columns.items()]
        write_table(path, list(columns), zip(*cells, strict=True))

    def draw(self, path: Path) -> None:
        """Draws the single substitutions of the only protein as a heat map, with tracks of what they rest on."""
        one = self.only
        values = matrix_of(one.variants, one.values)
        with atomic_output(path) as partial:
            heat_map(partial, values, one.variants.sequence, LABELS[one.chosen], True, tracks_of(one))

    def write_page(self, path: Path) -> None:
        """Writes the interactive page of the only protein."""
        columns = self.columns(sequences=False)
        columns.pop(SEQUENCE, None)
        write_page(path, self._records[0], self.only, columns, _digits(columns), self._offset)

    def describe(self) -> list[str]:
        """Lines that report what was scored and how, with Spearman's correlation if there are measurements."""
        every = [each for _, each in self.assessed.values()]
        count = sum(len(each.variants) for each in every)
        lines = [f"{counted(count, 'variant')} of {counted(len(every), 'protein')}"]
        for name, (_, each) in self.assessed.items():
            lines += [f"{name}{': ' if name else ''}{line}" for line in (each.summary(), *each.unscored())]
        lines += [*self.notes, *(self.table.describe() if self.table else [])]
        measured = self.table.measured() if self.table else None
        if measured is not None and np.isfinite(value := spearman(self.scores, measured)):
            known = int((np.isfinite(measured) & np.isfinite(self.scores)).sum())
            lines.append(f"Spearman's correlation with {MEASURED} of {counted(known, 'variant')}: {value:.3f}")
        return lines

    def _scattered(self, parts: Sequence[np.ndarray], otherwise: Any) -> np.ndarray:
        """Values of the variants of each protein, by row; `otherwise` in rows that are invalid."""
        values = np.full(self.rows, otherwise, dtype=parts[0].dtype if parts else float)
        for (rows, _), part in zip(self.assessed.values(), parts, strict=True):
            values[slice(None) if rows is None else rows] = part
        return values


def _flags(assessment: Assessment) -> np.ndarray:
    """(n,) objects: True, False, or "" for variants without a score."""
    flags = assessment.blosum62_only.astype(object)
    flags[np.isnan(assessment.values)] = ""
    return flags


def _digits(columns: Mapping[str, Any]) -> dict[str, int]:
    """Decimals of the columns of numbers."""
    return {
        name: 1 if name.removeprefix("protlm_") in (PERCENTILE, EFFECTIVE) else DIGITS
        for name, values in columns.items()
        if isinstance(values, np.ndarray) and values.dtype.kind == "f"
    }


def _cell(value: Any, digits: int) -> str:
    """A value as written to files: numbers with so many decimals, NaN as ""."""
    if not isinstance(value, float):
        return str(value)
    return "" if np.isnan(value) else f"{round(value, digits) + 0.0:.{digits}f}"  # + 0.0: no negative zero
