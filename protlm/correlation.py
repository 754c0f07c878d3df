"""Rank correlation."""

import math

import numpy as np


def spearman(scores: np.ndarray, measured: np.ndarray) -> float:
    """Spearman's rank correlation of two arrays (n,), where both are finite; NaN if either is constant."""
    from scipy.stats import spearmanr

    both = np.isfinite(scores) & np.isfinite(measured)
    scores, measured = scores[both], measured[both]
    if len(scores) < 2 or np.ptp(scores) == 0 or np.ptp(measured) == 0:
        return math.nan
    return float(np.asarray(spearmanr(scores, measured)[0]))
