"""BLOSUM62: which substitutions are common in any protein."""

from typing import Self

import numpy as np

from protlm.homology.alignment import Alignment
from protlm.variants.blosum import blosum62
from protlm.variants.notation import Variants


class Blosum62Scorer:
    """The sum of B(wt, mt) over the substitutions of a variant, in half bits; NaN for insertions and deletions.

    As in ProteinGym, B(wt, wt) is not subtracted: on the six scans of docs/decisions.md this is the better half of the
    matrix. So the 0 of the wild type is a convention, and scores compare substitutions with one another.

    >>> from protlm.variants.notation import parse
    >>> Blosum62Scorer().fit("MKTAY").score(parse("MKTAY", ["K2R", "M1L:Y5F", "WT", "K2del"])).tolist()
    [2.0, 5.0, 0.0, nan]
    """

    name = "blosum62"

    def fit(self, wild_type: str, alignment: Alignment | None = None) -> Self:
        return self

    def score(self, variants: Variants) -> np.ndarray:
        return np.where(variants.substitutions, blosum62(variants), np.nan)
