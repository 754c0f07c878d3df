"""What fine-tuning came to: the tuned model, or the probe if validation did not find it better; and its report.

Legend: r rows, k outputs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from protlm import checkpoint
from protlm.errors import counted
from protlm.performer import Performer
from protlm.supervised.evaluation import Evaluation, evaluated
from protlm.supervised.fit import PROBE, Fitted
from protlm.supervised.fit_api import base_model, report_of
from protlm.supervised.linear_fit import indicators, log_loss
from protlm.supervised.metrics import MAIN, evaluate
from protlm.supervised.predictor import Predictor
from protlm.supervised.target import VALUED, Target
from protlm.supervised.tuning.adapters import Adapters
from protlm.supervised.tuning.head import TunedHead

_DRAWS = 100
_ROUNDING = 1e-4
_FEW = 50  # validation proteins, of which a score says little


@dataclass(frozen=True)
class Outcome:
    """Of a test.

    Attributes:
        method: of fine-tuning.
        probe: from which it started.
        heads: the tuned ones.
        evaluations: of the targets, of the kept method and of all others.
        start, score: on the validation part, before and after.
        margin: standard error of their difference; a smaller gain is taken for chance.
    """

    method: str
    probe: Fitted
    heads: list[TunedHead]
    evaluations: list[Evaluation]
    start: float
    score: float
    margin: float

    @classmethod
    def of(
        cls,
        method: str,
        probe: Fitted,
        heads: list[TunedHead],
        predictions: list[np.ndarray],
        start: float,
        score: float,
        margin: float,
        seed: int,
    ) -> "Outcome":
        """Evaluates `predictions` (r, k) of each target, or those of the probe if the gain is within the margin."""
        evaluations = []
        for head, target, rows, own, others, before in zip(
            heads, probe.labelled.targets, probe.tests, predictions, probe.predictions, probe.evaluations, strict=True
        ):
            kept = is_gain(start, score, margin)
            ours = widened(head, target, own) if kept else others[PROBE]
            threshold = head.threshold if kept else before.threshold
            evaluations.append(evaluated(target.take(rows), {method: ours} | others, seed, threshold))
            evaluations[-1].learning_curve.extend(before.learning_curve)
        return cls(method, probe, heads, evaluations, start, score, margin)

    @property
    def kept(self) -> bool:
        """Whether the tuned model is kept."""
        return is_gain(self.start, self.score, self.margin)

    @property
    def metrics(self) -> dict[str, float]:
        """The main metric of each target, of the kept method."""
        return {
            f"{one.target.name} {MAIN[one.target.kind]}": one.metrics[self.method][MAIN[one.target.kind]].value
            for one in self.evaluations
        }

    def predictor(
        self, model: Performer, base: dict[str, Any], adapters: Adapters | None, about: Mapping[str, Any]
    ) -> Predictor:
        """The model to keep.

        Args:
            model: the base model, or for the method "full" the trained one.
            base: of the base model.
            adapters: of the method "lora".
            about: the training, for the report.
        """
        fitted = replace(self.probe, evaluations=self.evaluations, warnings=list(self.probe.warnings))
        valid = int(fitted.partition.final.valid.sum())
        if valid < _FEW:
            fitted.warnings.append(
                f"only {counted(valid, 'protein')} for validation, which decide when training stops and whether the "
                "probe is kept; give more in a split column"
            )
        if not self.kept:
            fitted.warnings.append(
                f"{self.method}: no better than the probe on validation ({self.score:.3f} against {self.start:.3f}, "
                f"standard error of the difference {self.margin:.3f}); the probe is kept"
            )
        report = report_of(fitted, base, self.method)
        report["training"] = {
            **about,
            "start": self.start,
            "score": self.score,
            "margin": self.margin,
            "kept": self.kept,
        }
        if not self.kept:
            network = base_model(base["path"])[0] if self.method == "full" else model
            return Predictor(network, [one.head for one in self.probe.learned], report, base)
        for target, head in zip(report["targets"], self.heads, strict=True):
            target["temperature"] = head.temperature
        if adapters is not None:
            adapters.merge_into(model)
        if self.method == "full":
            base = {"path": None, "fingerprint": checkpoint.fingerprint(model)}
        return Predictor(model, self.heads, report, base, adapters)


def is_gain(start: float, score: float, margin: float) -> bool:
    """Whether a gain on the validation part is larger than its standard error, and than rounding."""
    return score - start > max(margin, _ROUNDING)


def score_of(target: Target, predictions: np.ndarray) -> float:
    """What decides when training stops and whether it was of use, more is better.

    Of classes the mean log-likelihood of a label in nats, which tells models apart that accuracy, of few proteins,
    cannot; of values the main metric.

    Args:
        target: r rows.
        predictions: (r, k) calibrated probabilities, or values.
    """
    if not len(target.owner):
        return float("nan")
    if target.kind in VALUED:
        return evaluate(target.kind, target.y, predictions, target.owner, draws=0)[MAIN[target.kind]].value
    return -log_loss(indicators(target.y, target.kind, len(target.classes)), predictions, target.kind)


def standard_error(
    targets: Sequence[Target], before: Sequence[np.ndarray], after: Sequence[np.ndarray], seed: int = 0
) -> float:
    """Standard error of the gain in the mean of `score_of`, by bootstrap over proteins.

    Args:
        targets: their validation rows.
        before, after: of each target, predictions (r, k) of the same rows.
        seed: of the draws.
    """
    draw, gains = np.random.default_rng(seed), []
    for _ in range(_DRAWS):
        each = []
        for target, one, other in zip(targets, before, after, strict=True):
            proteins, owner = np.unique(target.owner, return_inverse=True)
            times = np.bincount(draw.integers(len(proteins), size=len(proteins)), minlength=len(proteins))
            rows = np.repeat(np.arange(len(owner)), times[owner])
            drawn = target.take(rows)
            each.append(score_of(drawn, other[rows]) - score_of(drawn, one[rows]))
        gains.append(np.mean([gain for gain in each if np.isfinite(gain)] or [0.0]))
    return float(np.std(gains))


def widened(head: TunedHead, target: Target, values: np.ndarray) -> np.ndarray:
    """Probabilities of all classes of a target, 0 for those that a head does not have."""
    if values.shape[1] == max(1, len(target.classes)):
        return values
    found = np.zeros((len(values), len(target.classes)))
    found[:, [target.classes.index(name) for name in head.classes]] = values
    return found
