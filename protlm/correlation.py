"""Rank correlation, and how well scores separate two classes."""

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


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    """The probability that a positive scores above a negative, ties counted half; NaN if either class is empty.

    Args:
        scores: (n,), left out where NaN.
        positive: (n,) 1 or 0, left out where NaN.

    >>> auroc(np.array([3.0, 1.0, 2.0]), np.array([1.0, 0.0, 1.0]))
    1.0
    """
    from scipy.stats import rankdata

    both = np.isfinite(scores) & np.isfinite(positive)
    ranks, chosen = rankdata(scores[both]), positive[both] > 0
    count, others = int(chosen.sum()), int((~chosen).sum())
    if not count or not others:
        return math.nan
    return float((ranks[chosen].sum() - count * (count + 1) / 2) / (count * others))
