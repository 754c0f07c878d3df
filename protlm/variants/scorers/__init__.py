"""Scorers of variants with a common interface: BLOSUM62, a profile of homologs, a language model, a blend of both."""

from typing import Protocol, Self

import numpy as np

from protlm.homology.alignment import Alignment
from protlm.variants.notation import Variants


class Scorer(Protocol):
    """Scores variants of one protein, which `fit` gets; higher is more likely to be tolerated.

    Attributes:
        name: of the column with its scores.
    """

    name: str

    def fit(self, wild_type: str, alignment: Alignment | None = None) -> Self:
        """Prepares for a protein of L residues, with an alignment of its homologs if the scorer uses one."""
        ...

    def score(self, variants: Variants) -> np.ndarray:
        """(n,) float64; the wild type scores 0, and variants that the scorer cannot score have NaN."""
        ...
