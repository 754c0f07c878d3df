"""Metrics of order, of rows that count several times: Spearman, NDCG, recall of the best.

Legend: r rows, B draws; weights (B, r) say how often each row counts, so that nothing is sorted again for a draw.
"""

from collections.abc import Callable

import numpy as np

TOP = 0.1
"""Fraction of rows that NDCG and recall look at."""

Weighted = Callable[[np.ndarray], float]
"""A metric as a function of weights (r,)."""


def spearman_of(guess: np.ndarray, y: np.ndarray) -> Weighted:
    """Spearman's correlation, ties at their mean rank; NaN where either is constant.

    >>> spearman_of(np.array([1.0, 2.0, 3.0]), np.array([5.0, 7.0, 6.0]))(np.ones(3))
    0.5
    """
    inverses = [np.unique(values, return_inverse=True)[1] for values in (guess, y)]

    def metric(weights: np.ndarray) -> float:
        total, centred = weights.sum(), []
        for inverse in inverses:
            sizes = np.bincount(inverse, weights)
            ranks = (np.cumsum(sizes) - sizes / 2)[inverse]
            centred.append(ranks - weights @ ranks / total)
        one, other = centred
        spread = (weights @ one**2) * (weights @ other**2)
        return float(weights @ (one * other) / np.sqrt(spread)) if spread > 0 else np.nan

    return metric


def ndcg_of(guess: np.ndarray, y: np.ndarray) -> Weighted:
    """Normalised discounted cumulative gain of the tenth with the highest predictions, as of ProteinGym.

    Gains are values from 0, the least, to 1, the greatest; the n-th is divided by log2(n + 1). NaN if the predictions
    are all the same.
    """
    gains = (y - y.min()) / (np.ptp(y) or 1.0)
    orders = [np.argsort(-values, kind="stable") for values in (guess, y)]
    constant = np.ptp(guess) == 0 or np.ptp(y) == 0

    def metric(weights: np.ndarray) -> float:
        if constant:
            return np.nan
        total = int(weights.sum())
        most = max(1, int(TOP * total))
        discounts = np.append(0.0, np.cumsum(1 / np.log2(np.arange(most) + 2)))
        sums = []
        for order in orders:
            ends = np.minimum(np.cumsum(weights[order]), most).astype(np.int64)
            sums.append(float(gains[order] @ np.diff(discounts[ends], prepend=0.0)))
        return sums[0] / sums[1] if sums[1] > 0 else np.nan

    return metric


def top_recall_of(guess: np.ndarray, y: np.ndarray) -> Weighted:
    """The fraction of the tenth with the highest values that is in the tenth with the highest predictions."""
    orders = [np.argsort(-values, kind="stable") for values in (guess, y)]
    constant = np.ptp(guess) == 0 or np.ptp(y) == 0

    def metric(weights: np.ndarray) -> float:
        if constant:
            return np.nan
        most = max(1, int(TOP * weights.sum()))
        chosen = []
        for order in orders:
            ends = np.minimum(np.cumsum(weights[order]), most)
            own = np.empty(len(order))
            own[order] = np.diff(ends, prepend=0.0)  # copies of each row among the first
            chosen.append(own)
        return float(np.minimum(*chosen).sum() / most)

    return metric
