"""BLOSUM62 (Henikoff and Henikoff 1992): scores, and the substitution probabilities that they stand for."""

from typing import Any

import numpy as np

from protlm.sequence.alphabet import STANDARD

LAMBDA = 0.3176
"""Nats of a unit, half a bit rounded (Altschul et al. 1997)."""

_PERCENT = (
    *(8.25, 1.38, 5.46, 6.72, 3.86, 7.07, 2.27, 5.91, 5.80, 9.65),  # ACDEFGHIKL
    *(2.41, 4.06, 4.74, 3.93, 5.53, 6.65, 5.36, 6.86, 1.10, 2.92),  # MNPQRSTVWY
)
BACKGROUND = np.array(_PERCENT) / sum(_PERCENT)
"""(20,) float64: amino acid frequencies of Swiss-Prot, by its release statistics."""


def blosum62_matrix() -> np.ndarray:
    """B (20, 20) float64, in half bits, in the order of `STANDARD`."""
    from Bio.Align import substitution_matrices

    table: Any = substitution_matrices.load("BLOSUM62")
    return np.array([[table[a, b] for b in STANDARD] for a in STANDARD])


def substitution_probabilities() -> np.ndarray:
    """P(b|a) (20, 20) float64, rows a: how often b is aligned with a, proportional to p_a p_b exp(lambda B_ab).

    >>> rows = substitution_probabilities()
    >>> STANDARD[rows[STANDARD.index("W")].argmax()]
    'W'
    """
    joint = np.outer(BACKGROUND, BACKGROUND) * np.exp(LAMBDA * blosum62_matrix())
    return joint / joint.sum(1, keepdims=True)
