"""Scores of single substitutions as a matrix of positions by amino acids."""

import numpy as np

from protlm.sequence.alphabet import STANDARD
from protlm.variants.notation import Variants


def matrix_of(variants: Variants, scores: np.ndarray) -> np.ndarray:
    """Scores (L, 20) of the single substitutions among variants, from (n,): 0 for the wild type, NaN if unknown."""
    values = np.full((len(variants.sequence), len(STANDARD)), np.nan)
    for i, letter in enumerate(variants.sequence):
        if letter in STANDARD:
            values[i, STANDARD.index(letter)] = 0
    single = np.bincount(variants.variant, minlength=len(variants))[variants.variant] == 1
    values[variants.position[single], variants.mutant[single]] = scores[variants.variant[single]]
    return values
