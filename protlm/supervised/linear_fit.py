"""Ridge and logistic regression on standardised features, by scikit-learn; strength and features by cross-validation.

Legend: r rows, d features, k outputs.

Features are compared by ridge regression, for classes on their indicators: one eigendecomposition per fold gives the
error for all strengths. For classes, logistic regression follows, with its own strength. Values are predicted by the
mean over all sets of features, each with its own strength, where cross-validation finds that better than any of them.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from protlm.supervised.linear_head import answers
from protlm.supervised.target import VALUED

STRENGTHS = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
"""Penalties of logistic regression per row: 1 / (C r)."""
RIDGE = tuple(10.0**power for power in np.arange(-4, 1.01, 0.5).tolist())
"""Penalties of ridge regression, relative to r."""
ABSENT = -30.0
"""Logit of a class without examples."""
Sets = tuple[tuple[tuple[str, ...], float], ...]
"""Names of features and strength of the penalty of each regression; predictions are their mean."""
_SELECTED = 20_000  # rows from which features and strengths are chosen, at most
_FITTED = 100_000  # rows of the final fit, at most


@dataclass(frozen=True)
class Choice:
    """What cross-validation has chosen.

    Attributes:
        sets: one or all.
        rows: (m,) of those that were predicted.
        logits: (m, k) float64, of models that have not seen the row's group.
    """

    sets: Sets
    rows: np.ndarray
    logits: np.ndarray

    @property
    def blocks(self) -> tuple[str, ...]:
        """Names of all features."""
        return names_of(self.sets)


def names_of(sets: Sets) -> tuple[str, ...]:
    """Names of the features of all regressions, each once."""
    return tuple(dict.fromkeys(name for names, _ in sets for name in names))


def indicators(y: np.ndarray, kind: str, outputs: int) -> np.ndarray:
    """(r, k) float64: one column per class, or the value."""
    if kind == "classification":
        return np.eye(outputs)[y]
    return y if y.ndim == 2 else y[:, None]


def choose(
    blocks: dict[str, np.ndarray],
    candidates: Sequence[tuple[str, ...]],
    y: np.ndarray,
    kind: str,
    outputs: int,
    folds: np.ndarray,
    groups: np.ndarray,
    seed: int = 0,
) -> Choice:
    """Features and strength with the least error in cross-validation, of values perhaps the mean of all.

    Args:
        blocks: name -> (r, d).
        candidates: sets of names.
        y: (r,) or (r, k).
        kind: see `Target`.
        outputs: k.
        folds: (r,) the fold in which each row is held out.
        groups: (r,) proteins; large sets are thinned by whole proteins.
        seed: of thinning.
    """
    rows = thinned(groups, _SELECTED, seed)
    folds, wanted = folds[rows], indicators(y[rows], kind, outputs)
    errors, each, sets = [], [], []
    for names in candidates:
        x = np.concatenate([blocks[name][rows] for name in names], axis=1)
        own, predicted = _ridge_errors(x, wanted, folds)
        least = int(own.argmin())
        errors.append(own[least])
        each.append(predicted[least])
        sets.append((names, RIDGE[least]))
    best = int(np.argmin(errors))
    if kind in VALUED:
        mean = np.mean(each, axis=0)
        if ((mean - wanted) ** 2).mean() < errors[best]:
            return Choice(tuple(sets), rows, mean)
        return Choice((sets[best],), rows, each[best])
    names = sets[best][0]
    x = np.concatenate([blocks[name][rows] for name in names], axis=1)
    found: tuple[float, float, np.ndarray] | None = None
    for strength in STRENGTHS:
        logits = np.zeros_like(wanted)
        for fold in np.unique(folds):
            out = folds == fold
            weight, bias = fit(x[~out], y[rows][~out], kind, outputs, strength)
            logits[out] = x[out] @ weight + bias
        loss = log_loss(wanted, answers(kind, logits), kind)
        if found is not None and loss > found[0]:
            break  # the loss has one minimum
        found = loss, strength, logits
    assert found is not None
    return Choice(((names, found[1]),), rows, found[2])


def _ridge_errors(x: np.ndarray, wanted: np.ndarray, folds: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Mean squared errors of each strength in `RIDGE`, and the predictions (r, k) of each."""
    predictions = [np.zeros_like(wanted) for _ in RIDGE]
    x = x[:, np.ptp(x, axis=0) > 0]  # of variants, most sites are constant
    for fold in np.unique(folds):
        out = folds == fold
        center, scale = standard(x[~out])
        inside, outside = (x[~out] - center) / scale, (x[out] - center) / scale
        mean = wanted[~out].mean(axis=0)
        if len(inside) < inside.shape[1]:  # as many directions as rows
            values, rows = np.linalg.eigh(inside @ inside.T)
            kept = values > 1e-9 * values[-1]
            values, vectors = values[kept], inside.T @ (rows[:, kept] / np.sqrt(values[kept]))
        else:
            values, vectors = np.linalg.eigh(inside.T @ inside)
        projected = vectors.T @ (inside.T @ (wanted[~out] - mean))
        rotated = outside @ vectors
        for prediction, strength in zip(predictions, RIDGE, strict=True):
            shrunk = projected / (np.maximum(values, 0) + strength * len(inside))[:, None]
            prediction[out] = rotated @ shrunk + mean
    return np.array([((prediction - wanted) ** 2).mean() for prediction in predictions]), predictions


def standard(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (d,) of each feature; 1 for a constant one."""
    scale = x.std(axis=0, dtype=np.float64)
    mean = x.mean(axis=0, dtype=np.float64)
    return mean, np.where(scale > 1e-6 * (1 + np.abs(mean)), scale, 1.0)


def fit_sets(
    blocks: Mapping[str, np.ndarray], sets: Sets, y: np.ndarray, kind: str, outputs: int
) -> tuple[np.ndarray, np.ndarray]:
    """Weight (d, k) and bias (k,), float64, of the mean of regressions; d features in the order of `names_of`.

    Args:
        blocks: name -> (r, d of this block).
        sets, y, kind, outputs: see `Choice` and `choose`.
    """
    weights = {name: np.zeros((blocks[name].shape[1], outputs)) for name in names_of(sets)}
    total = np.zeros(outputs)
    for names, strength in sets:
        weight, bias = fit(np.concatenate([blocks[name] for name in names], axis=1), y, kind, outputs, strength)
        ends = np.cumsum([blocks[name].shape[1] for name in names])
        for name, own in zip(names, np.split(weight, ends[:-1]), strict=True):
            weights[name] += own / len(sets)
        total += bias / len(sets)
    return np.concatenate(list(weights.values())), total


def fit(x: np.ndarray, y: np.ndarray, kind: str, outputs: int, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Weight (d, k) and bias (k,), float64, of features as they are; 0 for those that are constant."""
    varying = np.ptp(x, axis=0) > 0
    if not varying.all():
        whole = np.zeros((x.shape[1], outputs))
        whole[varying], bias = fit(x[:, varying], y, kind, outputs, strength)
        return whole, bias
    center, scale = standard(x)
    scaled = (x - center) / scale
    if kind in VALUED:
        from sklearn.linear_model import Ridge

        ridge = Ridge(strength * len(x)).fit(scaled, y)
        weight, bias = np.reshape(ridge.coef_, (-1, 1)), np.atleast_1d(ridge.intercept_)
    elif kind == "multilabel":
        each = [_logistic(scaled, y[:, label].astype(np.int64), 2, strength) for label in range(outputs)]
        weight = np.stack([w[:, 1] - w[:, 0] for w, _ in each], axis=1)
        bias = np.array([b[1] - b[0] for _, b in each])
    else:
        weight, bias = _logistic(scaled, y, outputs, strength)
    weight = weight / scale[:, None]
    return weight, bias - center @ weight


def _logistic(x: np.ndarray, y: np.ndarray, outputs: int, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """As `fit`, of standardised features; a class without examples gets the logit `ABSENT`."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    weight, bias = np.zeros((x.shape[1], outputs)), np.full(outputs, ABSENT)
    present = np.unique(y)
    if len(present) == 1:
        bias[present] = 0.0
        return weight, bias
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model = LogisticRegression(C=1 / (strength * len(x)), max_iter=200, tol=1e-3).fit(x, y)
    if len(present) == 2:
        weight[:, present[1]], bias[present] = model.coef_[0], (0.0, model.intercept_[0])
    else:
        weight[:, present], bias[present] = model.coef_.T, model.intercept_
    return weight, bias


def thinned(groups: np.ndarray, most: int, seed: int = 0) -> np.ndarray:
    """Row numbers, ascending, of whole groups in random order up to `most` rows; all rows if there are fewer."""
    if len(groups) <= most:
        return np.arange(len(groups))
    distinct, inverse, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.random.default_rng(seed).permutation(len(distinct))
    kept = np.zeros(len(distinct), dtype=bool)
    kept[order[: max(2, int(np.searchsorted(np.cumsum(sizes[order]), most, side="right")))]] = True
    return np.flatnonzero(kept[inverse])


def final_rows(groups: np.ndarray, seed: int = 0) -> np.ndarray:
    """The rows of the final fit: all, or 100,000 of whole proteins."""
    return thinned(groups, _FITTED, seed)


def log_loss(wanted: np.ndarray, probabilities: np.ndarray, kind: str) -> float:
    """Mean negative log-likelihood of indicators (r, k)."""
    p = np.clip(probabilities, 1e-12, 1 - 1e-12)
    if kind == "multilabel":
        return float(-(wanted * np.log(p) + (1 - wanted) * np.log1p(-p)).mean())
    return float(-(wanted * np.log(p)).sum(axis=1).mean())
