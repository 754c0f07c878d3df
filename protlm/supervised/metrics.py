"""Metrics of the field, with bootstrap confidence intervals over proteins.

Legend: r rows, K classes, P proteins, B draws; row 0 of weights is the data itself, all ones.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from protlm.supervised.rank_metrics import Weighted, ndcg_of, spearman_of, top_recall_of
from protlm.supervised.threshold import crossed_f1, rare_class

DRAWS = 500
"""Bootstrap samples of proteins."""
MAIN = {"classification": "accuracy", "multilabel": "Fmax", "regression": "Spearman", "ranking": "Spearman"}
"""Kind -> the metric to look at first."""
_THRESHOLDS = np.arange(0.01, 1.0, 0.01)


class Estimate(NamedTuple):
    """A metric and its 95 % confidence interval."""

    value: float
    low: float
    high: float


def evaluate(
    kind: str, y: np.ndarray, predicted: np.ndarray, owner: np.ndarray, draws: int = DRAWS, seed: int = 0
) -> dict[str, Estimate]:
    """Metrics of held-out rows, as `sampled`, each with its interval."""
    return {name: estimate(values) for name, values in sampled(kind, y, predicted, owner, draws, seed).items()}


def sampled(
    kind: str, y: np.ndarray, predicted: np.ndarray, owner: np.ndarray, draws: int = DRAWS, seed: int = 0
) -> dict[str, np.ndarray]:
    """Metrics of held-out rows, and of bootstrap samples, which are the same for all predictions with a seed.

    Args:
        kind: see `Target`.
        y: (r,) or (r, K).
        predicted: (r, K) probabilities or (r, 1) values.
        owner: (r,) proteins, which are drawn as a whole.
        draws: bootstrap samples.
        seed: of the samples.

    Returns:
        Name -> (B + 1,). Classification: accuracy, MCC (Gorodkin 2004), macro F1, AUROC and AUPRC of the rarer of two
        classes or as a mean over classes; F1 of the rarer of two classes, if it is rare, at the thresholds of
        `crossed_f1`. Multi-label: Fmax per protein (CAFA), micro AUPRC. Regression: Spearman, R2,
        RMSE. Ranking: Spearman, NDCG and recall of the top tenth.
    """
    proteins, owner = np.unique(owner, return_inverse=True)
    count = len(proteins)
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), draws)
    weights = np.concatenate([np.ones((1, count), dtype=np.int64), weights]).astype(np.float64)
    compute = {"classification": _classes, "multilabel": _labels, "regression": _values, "ranking": _order}[kind]
    return compute(y, predicted, owner, weights)


def estimate(values: np.ndarray) -> Estimate:
    """The estimate from values (B + 1,) as of `sampled`, or, in pairs, from the difference of two of them."""
    finite = values[1:][np.isfinite(values[1:])]
    low, high = np.quantile(finite, (0.025, 0.975)).tolist() if len(finite) else (np.nan, np.nan)
    return Estimate(float(values[0]), low, high)


def _classes(y: np.ndarray, p: np.ndarray, owner: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    outputs = p.shape[1]
    guess = p.argmax(axis=1)
    sums = []
    for labels, rows in ((y[guess == y], guess == y), (y, slice(None)), (guess, slice(None))):
        counts = np.zeros((weights.shape[1], outputs))
        np.add.at(counts, (owner[rows], labels), 1)
        sums.append(weights @ counts)
    hits, true, guessed = sums
    total, right = true.sum(axis=1), hits.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        covariance = right * total - (true * guessed).sum(axis=1)
        spread = (total**2 - (true**2).sum(axis=1)) * (total**2 - (guessed**2).sum(axis=1))
        mcc = np.where(spread > 0, covariance / np.sqrt(spread), 0.0)
        f1 = np.where(true + guessed > 0, 2 * hits / (true + guessed), np.nan)
        found = {"accuracy": right / total, "MCC": mcc, "macro F1": np.nanmean(f1, axis=1)}
    present = [label for label in range(outputs) if 0 < (y == label).sum() < len(y)]
    if outputs == 2 and present:
        present = [min(present, key=lambda label: (y == label).sum())]
    for name, metric in (("AUROC", auroc), ("AUPRC", average_precision)):
        if present:
            each = [_ranked(metric, p[:, label], y == label, owner, weights) for label in present]
            found[name] = _mean_known(np.array(each))
    if (rare := rare_class(y, outputs)) is not None:
        found["F1"] = crossed_f1(p[:, rare], y == rare, owner, weights)
    return found


def _mean_known(values: np.ndarray) -> np.ndarray:
    """The mean over the first axis of what is not NaN; NaN where nothing is."""
    known = np.isfinite(values)
    sums, counts = np.where(known, values, 0).sum(axis=0), known.sum(axis=0)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


def _labels(y: np.ndarray, p: np.ndarray, owner: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    rows = weights[:, owner]
    best = np.zeros(len(weights))
    for threshold in _THRESHOLDS:
        called = p >= threshold
        hits, size = (called & (y > 0)).sum(axis=1), called.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            covered = rows @ (size > 0)
            precision = rows @ np.where(size > 0, hits / np.maximum(size, 1), 0.0) / covered
            recall = rows @ (hits / np.maximum(y.sum(axis=1), 1)) / rows.sum(axis=1)
            f = np.where(covered > 0, 2 * precision * recall / (precision + recall), 0.0)
        best = np.fmax(best, f)
    owners = np.repeat(owner, y.shape[1])
    return {"Fmax": best, "micro AUPRC": _ranked(average_precision, p.ravel(), y.ravel() > 0, owners, weights)}


def _values(y: np.ndarray, p: np.ndarray, owner: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    guess = p[:, 0]
    sums = [np.bincount(owner, values) for values in (np.ones(len(y)), y, y**2, (y - guess) ** 2)]
    total, first, second, residual = (weights @ values for values in sums)
    spread = second - first**2 / total
    with np.errstate(invalid="ignore", divide="ignore"):
        r2 = np.where(spread > 1e-12, 1 - residual / spread, np.nan)
    return {"Spearman": _each(spearman_of(guess, y), owner, weights), "R2": r2, "RMSE": np.sqrt(residual / total)}


def _order(y: np.ndarray, p: np.ndarray, owner: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    metrics = {"Spearman": spearman_of, "NDCG": ndcg_of, "top-10 % recall": top_recall_of}
    return {name: _each(metric(p[:, 0], y), owner, weights) for name, metric in metrics.items()}


def _each(metric: Weighted, owner: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(B + 1,) values of a metric."""
    return np.array([metric(row[owner]) for row in weights])


Metric = Callable[[np.ndarray, np.ndarray, np.ndarray], float]


def _ranked(metric: Metric, scores: np.ndarray, positive: np.ndarray, owner: np.ndarray, weights: np.ndarray):
    """(B + 1,) values of a metric of sorted rows."""
    order = np.argsort(-scores, kind="stable")
    positive, owner = positive[order].astype(np.float64), owner[order]
    ends = np.flatnonzero(np.append(np.diff(scores[order]) != 0, True))  # of ties
    return np.array([metric(positive, ends, row[owner]) for row in weights])


def average_precision(positive: np.ndarray, ends: np.ndarray, weights: np.ndarray) -> float:
    """Average precision of rows sorted by falling score; NaN without positives.

    Args:
        positive: (r,) 0 or 1.
        ends: the last row of each run of equal scores.
        weights: (r,).
    """
    hits, called = np.cumsum(weights * positive)[ends], np.cumsum(weights)[ends]
    if hits[-1] == 0:
        return np.nan
    precision = hits / np.maximum(called, 1e-12)
    return float((np.diff(hits, prepend=0) * precision).sum() / hits[-1])


def auroc(positive: np.ndarray, ends: np.ndarray, weights: np.ndarray) -> float:
    """Area under the ROC curve, as `average_precision`; NaN if a class is empty."""
    hits, called = np.cumsum(weights * positive)[ends], np.cumsum(weights)[ends]
    missed = called - hits
    if hits[-1] == 0 or missed[-1] == 0:
        return np.nan
    before = np.append(0.0, hits[:-1])
    return float((np.diff(missed, prepend=0) * (hits + before)).sum() / (2 * hits[-1] * missed[-1]))
