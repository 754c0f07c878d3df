"""Calibration of probabilities: one temperature for all logits (Guo et al. 2017), and the reliability curve."""

import numpy as np

from protlm.supervised.linear_fit import indicators, log_loss
from protlm.supervised.linear_head import answers

BINS = 10
_PRIOR = 0.5


def fitted_temperature(logits: np.ndarray, y: np.ndarray, kind: str) -> float:
    """The temperature from 0.2 to 5 with the least log loss, drawn towards 1 where rows are few.

    A normal prior of its logarithm, with a standard deviation of `_PRIOR`, counts as one row.

    Args:
        logits: (r, k) of rows that the model was not fitted to.
        y: (r,) or (r, k).
        kind: classification or multilabel.
    """
    from scipy.optimize import minimize_scalar

    wanted, rows = indicators(y, kind, logits.shape[1]), 2 * len(logits)
    found = minimize_scalar(
        lambda log: log_loss(wanted, answers(kind, logits, float(np.exp(log))), kind) + (log / _PRIOR) ** 2 / rows,
        bounds=(np.log(0.2), np.log(5.0)),
        method="bounded",
    )
    return float(np.exp(found.x))


def reliability(probabilities: np.ndarray, y: np.ndarray, kind: str) -> tuple[list[dict[str, float]], float]:
    """The reliability curve, and the expected calibration error.

    Args:
        probabilities: (r, k).
        y: (r,) or (r, k).
        kind: of classification the predicted class counts, of multi-label each label.

    Returns:
        For each tenth of confidence that occurs: rows, mean confidence, and the fraction that is right.

    >>> curve, error = reliability(np.array([[0.8, 0.2], [0.2, 0.8]]), np.array([0, 0]), "classification")
    >>> curve, round(error, 2)
    ([{'rows': 2, 'confidence': 0.8, 'accuracy': 0.5}], 0.3)
    """
    if kind == "multilabel":
        confidence, right = probabilities.ravel(), y.ravel() > 0
    else:
        confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == y
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    curve, error = [], 0.0
    for number in range(BINS):
        own = bins == number
        if own.any():
            mean, accuracy = float(confidence[own].mean()), float(right[own].mean())
            curve.append({"rows": int(own.sum()), "confidence": mean, "accuracy": accuracy})
            error += float(own.mean()) * abs(mean - accuracy)
    return curve, error
