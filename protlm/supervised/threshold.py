"""The probability from which a rare class is called: that with the highest F1, as no probability may exceed 0.5.

Legend: r rows, P proteins, B draws.
"""

from collections.abc import Sequence

import numpy as np

RARE = 0.2
"""Share of the rarer of two classes up to which it is called from a threshold."""


def rare_class(y: np.ndarray, outputs: int) -> int | None:
    """The rarer of two classes, if at most a fifth of the rows have it; otherwise None."""
    counts = np.bincount(y, minlength=outputs)
    if outputs != 2 or not 0 < counts.min() <= RARE * len(y):
        return None
    return int(counts.argmin())


def called_from(probabilities: np.ndarray, y: np.ndarray, classes: Sequence[str]) -> tuple[str, float] | None:
    """The rarer of two classes and the probability from which to call it; None if no class is rare.

    Args:
        probabilities: (r, k), of rows that the model has not seen.
        y: (r,) their classes.
        classes: (k,) names.
    """
    if (rare := rare_class(y, len(classes))) is None:
        return None
    return classes[rare], best_threshold(probabilities[:, rare], y == rare)


def best_threshold(probabilities: np.ndarray, positive: np.ndarray) -> float:
    """The probability (r,) from which calling rows positive has the highest F1; 0.5 without positives.

    >>> best_threshold(np.array([0.1, 0.4, 0.3, 0.2]), np.array([False, True, True, False]))
    0.3
    """
    if not positive.any():
        return 0.5
    order = np.argsort(-probabilities, kind="stable")
    ordered = probabilities[order]
    ends = np.flatnonzero(np.append(np.diff(ordered) != 0, True))  # of ties
    hits = np.cumsum(positive[order])[ends]
    f1 = 2 * hits / (ends + 1 + positive.sum())
    return float(ordered[ends[f1.argmax()]])


def crossed_f1(probabilities: np.ndarray, positive: np.ndarray, owner: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(B,) F1 at thresholds that each half of the proteins gets from the other, so that no row chooses its own.

    Args:
        probabilities, positive: (r,).
        owner: (r,) number of the protein.
        weights: (B, P).
    """
    half = np.random.default_rng(0).permutation(weights.shape[1])[owner] % 2
    called = np.zeros(len(positive), dtype=bool)
    for own in (0, 1):
        others = half != own
        threshold = best_threshold(probabilities[others], positive[others])
        called[~others] = probabilities[~others] >= threshold
    sums = [np.bincount(owner, values, weights.shape[1]) for values in (called & positive, called, positive)]
    hits, calls, true = (weights @ each for each in sums)
    return np.divide(2 * hits, calls + true, out=np.full(len(weights), np.nan), where=calls + true > 0)
