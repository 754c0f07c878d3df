"""What a table of ProteinGym measures: fitness, or whether a variant is clinically benign."""

from dataclasses import dataclass

import numpy as np

from protlm.correlation import auroc, spearman
from protlm.errors import UserError
from protlm.tables import BLANKS, Table
from protlm.variants.variant_table import BINARY, MEASURED

SPEARMAN, AUROC = "Spearman", "AUROC"
ANNOTATIONS = ("DMS_bin_score", "annotation", BINARY)
"""Columns of annotations, where there is no `DMS_score`; the first that is there counts."""
BENIGN: dict[str, float] = dict.fromkeys(("benign", "likely benign", "benign/likely benign", "1"), 1.0)
BENIGN |= dict.fromkeys(("pathogenic", "likely pathogenic", "pathogenic/likely pathogenic", "0"), 0.0)
"""Annotation, in lower case -> 1 if the protein works."""
UNCERTAIN = ("uncertain", "conflicting", "vus", "not provided")
"""Beginnings, in lower case, of annotations of ClinVar that count as none."""


@dataclass(frozen=True)
class Measurements:
    """Measurements (n,) of the rows of a table, NaN where blank, and how scores are compared with them."""

    values: np.ndarray
    metric: str

    def agreement(self, scores: np.ndarray) -> float:
        """Spearman's correlation of scores (n,) with fitness, or their AUROC for benign against pathogenic."""
        return spearman(scores, self.values) if self.metric == SPEARMAN else auroc(scores, self.values)


def measurements(table: Table) -> Measurements:
    """Those of a table.

    Raises:
        UserError: if it has neither fitness nor annotations, or an annotation that is neither benign nor pathogenic.
    """
    if MEASURED in table:
        return Measurements(table.parsed(MEASURED)[0], SPEARMAN)
    column = next((name for name in ANNOTATIONS if name in table), None)
    if column is None:
        table[MEASURED]  # raises an error that lists the columns
    assert column is not None
    values = np.full(len(table.rows), np.nan)
    for row, cell in enumerate(table[column]):
        word = cell.casefold().removesuffix(".0")
        if word in BENIGN:
            values[row] = BENIGN[word]
        elif word not in BLANKS and not word.startswith(UNCERTAIN):
            raise UserError(f"{table.location(row)}: {column} is {cell!r}; expected Benign, Pathogenic, 1 or 0")
    return Measurements(values, AUROC)
