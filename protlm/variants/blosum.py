"""BLOSUM62 scores of variants: a baseline that ignores the protein."""

import numpy as np

from protlm.homology.blosum62 import blosum62_matrix
from protlm.variants.notation import Variants


def blosum62(variants: Variants) -> np.ndarray:
    """The sum of B(wt, mt) over the substitutions of each variant, (n,) float64, in half bits.

    Source: Henikoff and Henikoff 1992. B(wt, wt) is not subtracted; synonymous changes count 0.

    >>> from protlm.variants.notation import parse
    >>> blosum62(parse("MKTAY", ["K2R", "M1L:Y5F", "WT"])).tolist()
    [2.0, 5.0, 0.0]
    """
    scores = blosum62_matrix()[variants.wild_type, variants.mutant] * (variants.wild_type != variants.mutant)
    return np.bincount(variants.variant, scores, minlength=len(variants))
