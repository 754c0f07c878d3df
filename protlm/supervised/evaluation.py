"""How a probe does on held-out proteins, beside baselines, and how far these proteins are from those of training.

Legend: r held-out rows, K classes.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from protlm.errors import counted
from protlm.supervised.calibration import reliability
from protlm.supervised.kinship import LEAKED, Kinship
from protlm.supervised.metrics import MAIN, Estimate, estimate, sampled
from protlm.supervised.partition import Partition
from protlm.supervised.target import VALUED, Target
from protlm.tables import aligned

_POINTS = 2_000  # of the picture of values


@dataclass(frozen=True)
class Evaluation:
    """Of one target.

    Attributes:
        target: its held-out rows.
        metrics: method -> metric -> estimate; the first method is the probe.
        confusion: (K, K) int64, true by predicted class, a rare one from its threshold; None unless for classification.
        reliability: curve and calibration error of the probe's probabilities; None for values.
        points: (m, 2) measured and predicted values; None unless for values.
        threshold: of a class that is rare, its name and the probability from which it is called.
        gains: other method -> metric -> first method minus the other, in pairs: both on the same bootstrap samples.
        learning_curve: metric, training proteins and value of probes that were fitted to fewer of them.
    """

    target: Target
    metrics: dict[str, dict[str, Estimate]]
    confusion: np.ndarray | None = None
    reliability: tuple[list[dict[str, float]], float] | None = None
    points: np.ndarray | None = None
    threshold: tuple[str, float] | None = None
    gains: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    learning_curve: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        found: dict[str, Any] = {
            "name": self.target.name,
            "kind": self.target.kind,
            "per_residue": self.target.per_residue,
            "classes": list(self.target.classes),
            "test_proteins": len(np.unique(self.target.owner)),
            "test_rows": len(self.target.owner),
            "metrics": _plain(self.metrics),
            "gains": _plain(self.gains),
        }
        if self.threshold is not None:
            found["threshold"] = {"class": self.threshold[0], "probability": self.threshold[1]}
        if self.learning_curve:
            found["learning_curve"] = self.learning_curve
        if self.confusion is not None:
            found["confusion"] = self.confusion.tolist()
        if self.reliability is not None:
            found["calibration"] = {"curve": self.reliability[0], "expected_error": self.reliability[1]}
        return found

    @property
    def worse(self) -> list[str]:
        """A line for each method that is better than the first one in the main metric, outside chance."""
        metric, ours = MAIN[self.target.kind], next(iter(self.metrics))
        values = {method: shown(metric, found[metric].value) for method, found in self.metrics.items()}
        return [
            f"{self.target.name}: {ours} is worse than {method} ({metric} {values[ours]} against {values[method]})"
            for method, gains in self.gains.items()
            if gains[metric].high < 0
        ]

    def table(self) -> str:
        """The metrics of all methods, the first with its confidence interval."""
        return table_of(self.to_dict())


def _plain(estimates: dict[str, dict[str, Estimate]]) -> dict[str, dict[str, dict[str, float]]]:
    return {method: {name: dict(one._asdict()) for name, one in each.items()} for method, each in estimates.items()}


def table_of(target: dict[str, Any]) -> str:
    """`Evaluation.table` from its dictionary, as in report.json, where an undefined value is None."""
    names, main, rows = list(next(iter(target["metrics"].values()))), MAIN[target["kind"]], []
    for method, metrics in target["metrics"].items():
        known = {name: {end: np.nan if x is None else x for end, x in one.items()} for name, one in metrics.items()}
        low, high = (known[main][end] for end in ("low", "high"))
        interval = f"{shown(main, low)} - {shown(main, high)}" if np.isfinite(low) else "-"
        values = [shown(name, known[name]["value"]) for name in names]
        rows.append([method, values[0], interval, *values[1:]])
    return aligned([target["name"], main, "95 % interval", *names[1:]], rows)


def gain_heading(target: dict[str, Any]) -> str:
    """The heading of a column of `gain_of`."""
    return f"gain of {next(iter(target['metrics']))}, {MAIN[target['kind']]}"


def gain_of(target: dict[str, Any], method: str) -> str:
    """How much better the first method is than another in the main metric, as text; accuracies in points.

    >>> gain = {"value": 0.2061, "low": 0.1592, "high": 0.2551}
    >>> gain_of({"kind": "classification", "gains": {"majority": {"accuracy": gain}}}, "majority")
    '+20.6 (+15.9 to +25.5)'
    """
    metric = MAIN[target["kind"]]
    gain = target.get("gains", {}).get(method, {}).get(metric)  # reports of earlier versions have none
    if gain is None or any(gain[end] is None or not np.isfinite(gain[end]) for end in ("value", "low", "high")):
        return ""
    value, low, high = (
        f"{100 * gain[end]:+.1f}" if metric == "accuracy" else f"{gain[end]:+.3f}" for end in ("value", "low", "high")
    )
    return f"{value} ({low} to {high})"


def shown(metric: str, value: float | None) -> str:
    """A metric as text: accuracies in percent; "-" for one that is undefined.

    >>> shown("accuracy", 0.4694), shown("MCC", 0.4)
    ('46.9 %', '0.400')
    """
    if value is None or not np.isfinite(value):
        return "-"
    return f"{100 * value:.1f} %" if metric == "accuracy" else f"{round(value, 3) + 0.0:.3f}"  # no -0.000


def interval(metric: str, estimate: dict[str, Any]) -> str:
    """The confidence interval of an estimate of report.json, in brackets; "" without one.

    >>> interval("accuracy", {"value": 0.4694, "low": 0.4251, "high": 0.5122})
    '(42.5 % to 51.2 %)'
    """
    ends = [estimate[end] for end in ("low", "high")]
    if any(end is None or not np.isfinite(end) for end in ends):
        return ""
    return f"({' to '.join(shown(metric, end) for end in ends)})"


def evaluated(
    target: Target, predictions: dict[str, np.ndarray], seed: int = 0, threshold: tuple[str, float] | None = None
) -> Evaluation:
    """Compares predictions (r, k) by method with the labels of held-out rows; `threshold` is that of the first."""
    samples = {method: sampled(target.kind, target.y, p, target.owner, seed=seed) for method, p in predictions.items()}
    metrics = {method: {name: estimate(x) for name, x in found.items()} for method, found in samples.items()}
    ours = next(iter(predictions.values()))
    (_, first), *rest = samples.items()
    gains = {method: {name: estimate(first[name] - x) for name, x in found.items()} for method, found in rest}
    if target.kind in VALUED:
        rows = np.random.default_rng(seed).permutation(len(ours))[:_POINTS]
        return Evaluation(target, metrics, points=np.stack([target.y, ours[:, 0]], axis=1)[rows], gains=gains)
    curve = reliability(ours, target.y, target.kind)
    if target.kind == "multilabel":
        return Evaluation(target, metrics, reliability=curve, gains=gains)
    classes = len(target.classes)
    called = ours.argmax(axis=1)
    if threshold is not None:
        rare = target.classes.index(threshold[0])
        called = np.where(ours[:, rare] >= threshold[1], rare, 1 - rare)
    pairs = target.y * classes + called
    confusion = np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    return Evaluation(target, metrics, confusion, curve, threshold=threshold, gains=gains)


@dataclass(frozen=True)
class Leakage:
    """How many test proteins have a training relative.

    Attributes:
        tested: number of test proteins.
        leaked: of those with an identity of at least `LEAKED` to a training protein.
        related: of those with any relative.
    """

    tested: int
    leaked: int
    related: int

    @classmethod
    def measured(cls, kinship: Kinship, partition: Partition) -> "Leakage":
        closest = [kinship.nearest(part.test, part.train | part.valid)[1] for part in partition.rounds]
        identity = np.concatenate(closest)
        return cls(len(identity), int((identity >= LEAKED).sum()), int((identity > 0).sum()))

    @property
    def described(self) -> str:
        """A line.

        >>> Leakage(50, 19, 40).described
        '38 % of 50 test proteins have a training relative above 50 % identity, 80 % have any'
        """
        share, any_share = (f"{100 * count / self.tested:.0f} %" for count in (self.leaked, self.related))
        proteins = counted(self.tested, "test protein")
        above = f"{100 * LEAKED:.0f} %"
        return f"{share} of {proteins} have a training relative above {above} identity, {any_share} have any"
