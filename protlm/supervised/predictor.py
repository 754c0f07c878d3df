"""A language model with heads: what `protlm.fit` returns, and `protlm.load` for its folder.

Legend: n proteins of L_i residues, K classes.
"""

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from protlm.correlation import spearman
from protlm.errors import ProtlmWarning, UserError
from protlm.inference.engine import TOKEN_BUDGET, check_finite
from protlm.performer import Performer
from protlm.progress import Progress
from protlm.sequence.containers import Container, proteins_of
from protlm.supervised.features import blocks_of
from protlm.supervised.kinship import is_variant
from protlm.supervised.linear_head import LinearHead
from protlm.supervised.target import SEPARATOR, VALUED
from protlm.supervised.tuning.adapters import Adapters
from protlm.supervised.tuning.head import TunedHead

Head = LinearHead | TunedHead
CALLED = 0.5
"""Probability from which a label of a multi-label target is predicted."""


class Predictor:
    """Predicts labels of proteins or residues. Proteins are computed whole; see `ProteinModel` for their containers.

    Args:
        model: frozen.
        heads: one per target.
        report: of the evaluation, the content of report.json.
        base: where the model comes from, and its fingerprint, without adapters.
        adapters: that `model` has, if any.
    """

    def __init__(
        self,
        model: Performer,
        heads: Sequence[Head],
        report: dict[str, Any],
        base: dict[str, Any],
        adapters: Adapters | None = None,
    ) -> None:
        self.heads = [_thresholded(head, report) for head in heads]
        self.model, self.report, self.base, self.adapters = model, report, base, adapters

    def __repr__(self) -> str:
        """Targets, with what they are, and the base model."""
        found = [f"{one['name']}: {one['described']}" for one in self.report["targets"]]
        return f"<Predictor of {'; '.join(found)}; base model {self.base['path'] or 'in memory'}>"

    @property
    def targets(self) -> list[str]:
        """Names of the targets."""
        return [head.target for head in self.heads]

    def head(self, target: str | None = None) -> Head:
        """The head of a target; without a name, the only one."""
        if target is None and len(self.heads) == 1:
            return self.heads[0]
        if target is None:
            raise UserError(f"{len(self.heads)} targets; choose one with target: {', '.join(self.targets)}", "target")
        if target not in self.targets:
            raise UserError(f"target {target!r}: expected one of {', '.join(self.targets)}", "target")
        return self.heads[self.targets.index(target)]

    def predict(
        self, proteins: Any, target: str | None = None, token_budget: int = TOKEN_BUDGET, precision: str = "float32"
    ) -> Any:
        """The class of each protein, its labels above 0.5, or its value; per residue a string of classes.

        The class is the most probable one; of two, the rare one from the threshold of its head.

        Args:
            proteins: n proteins.
            target: its name, if there are several.
            token_budget, precision: see `ProteinModel`.

        Returns:
            For a list, an array (n,), or a list of strings of L_i letters, or of lists of labels or of L_i values.
        """
        head, container = self.head(target), proteins_of(proteins)
        found = [called(head, row) for row in self._rows(head, container, token_budget, precision)]
        if container.kind == "many" and not head.per_residue and head.kind != "multilabel":
            return np.array(found)
        return container.arranged(found)

    def predict_proba(
        self, proteins: Any, target: str | None = None, token_budget: int = TOKEN_BUDGET, precision: str = "float32"
    ) -> Any:
        """Calibrated probabilities of the classes, in the order of `head(target).classes`.

        Returns:
            For a list, an array (n, K); per residue a list of arrays (L_i, K). For a pandas object, a DataFrame with a
            column per class.
        """
        head, container = self.head(target), proteins_of(proteins)
        if head.kind in VALUED:
            raise UserError(f"{head.target}: {head.kind} has no probabilities; use predict", "target")
        rows = list(self._rows(head, container, token_budget, precision))
        if head.per_residue:
            return container.arranged(rows)
        return container.stacked(np.array(rows).reshape(-1, len(head.classes)), {"class": head.classes})  # pyright: ignore[reportArgumentType]

    def score(self, proteins: Any, labels: Any, target: str | None = None) -> float:
        """How well labels are predicted, as scikit-learn scores: see `agreement`.

        Args:
            proteins, labels: n of each; labels as for `Probe.fit`.
            target: its name, if there are several.
        """
        return agreement(self.head(target), self.predict(proteins, target), labels)

    def answers(
        self,
        sequences: Iterable[str],
        targets: Sequence[str] | None = None,
        token_budget: int = TOKEN_BUDGET,
        precision: str = "float32",
        progress: Progress | None = None,
        total: int = 0,
    ) -> Iterator[dict[str, np.ndarray]]:
        """For each normalised sequence, target -> (K,) probabilities or (1,) value, per residue (L, K).

        All targets must be of the same level, proteins or residues.
        """
        heads = [self.head(name) for name in (targets or self.targets)]
        levels = {head.per_residue for head in heads}
        if len(levels) > 1:
            raise UserError("targets of proteins and of residues; choose a target", "target")
        names = list(dict.fromkeys(name for head in heads for name in head.inputs))
        by_residue = any(head.reads_residues for head in heads)
        parent = self.report.get("data", {}).get("parent")
        sequences = sequences if parent is None else _compared(sequences, parent)
        for blocks in blocks_of(sequences, names, by_residue, self.model, token_budget, precision, progress, total):
            found = {head.target: head.answers(blocks) for head in heads}
            for values in found.values():
                check_finite(values)
            yield found

    def save(self, folder: str | Path, copy_base: bool = False) -> None:
        """Writes a folder that `protlm.load` reads; see `write_predictor`."""
        from protlm.supervised.predictor_folder import write_predictor

        write_predictor(self, folder, copy_base)

    def _rows(self, head: Head, container: Container, token_budget: int, precision: str) -> Iterator[np.ndarray]:
        for found in self.answers(container.sequences, [head.target], token_budget, precision):
            yield found[head.target]


def _compared(sequences: Iterable[str], parent: str) -> Iterator[str]:
    """The sequences; warns once if one is no variant of the protein that a model was fitted to."""
    warned = False
    for sequence in sequences:
        if not warned and not is_variant(sequence, parent):
            warned = True
            warnings.warn(
                "the model was fitted to variants of one protein, and some of these proteins are not variants of it; "
                "their predictions mean nothing",
                ProtlmWarning,
                stacklevel=3,
            )
        yield sequence


def called(head: Head, values: np.ndarray) -> Any:
    """The prediction from probabilities (K,) or (L, K), or from a value (1,).

    Returns:
        The name of a class, a list of labels, a float; of residues a string, or a list of floats.
    """
    if head.kind in VALUED:
        return values[:, 0].tolist() if head.per_residue else float(values[0])
    if head.kind == "multilabel":
        return [name for name, p in zip(head.classes, values, strict=True) if p >= CALLED]
    labels = values.argmax(axis=-1)
    if head.threshold is not None:
        rare = head.classes.index(head.threshold[0])
        labels = np.where(values[..., rare] >= head.threshold[1], rare, 1 - rare)
    if head.per_residue:
        return "".join(head.classes[label] for label in labels)
    return head.classes[int(labels)]


def _thresholded(head: Head, report: dict[str, Any]) -> Head:
    """The head with the threshold of a rare class from the report, if there is one."""
    for target in report.get("targets", ()):
        if target["name"] == head.target and "threshold" in target and len(head.classes) == 2:
            chosen = target["threshold"]["class"], float(target["threshold"]["probability"])
            if isinstance(head, LinearHead):
                return replace(head, threshold=chosen)
            head.threshold = chosen
    return head


def agreement(head: Head, predicted: Any, labels: Any) -> float:
    """Accuracy, of residues if these are labelled; of several labels, that all are right; R2; or Spearman of a ranking.

    Args:
        head: of the target.
        predicted: n predictions, as of `Predictor.predict`.
        labels: n labels; residues with `-` or `?` do not count.
    """
    found, given = list(predicted), list(labels)
    if len(found) != len(given):
        raise UserError(f"{len(found):,} proteins and {len(given):,} labels; expected one label per protein")
    if head.kind in VALUED:
        if head.per_residue:
            found, given = (np.concatenate([np.asarray(one, float) for one in each]) for each in (found, given))
        y, p = np.asarray(given, dtype=np.float64), np.asarray(found, dtype=np.float64)
        known = np.isfinite(y)
        if head.kind == "ranking":
            return spearman(p[known], y[known])
        return float(1 - ((y[known] - p[known]) ** 2).sum() / ((y[known] - y[known].mean()) ** 2).sum())
    if head.kind == "multilabel":
        return float(np.mean([label_text(one) == label_text(other) for one, other in zip(found, given, strict=True)]))
    if head.per_residue:
        pairs = [pair for one, other in zip(found, given, strict=True) for pair in zip(one, other, strict=True)]
        return float(np.mean([one == other for one, other in pairs if other not in "-?"]))
    return float(np.mean([label_text(one) == label_text(other) for one, other in zip(found, given, strict=True)]))


def label_text(label: Any) -> str:
    """A label as text; "" for None and NaN."""
    if isinstance(label, list | tuple | set | frozenset):
        return SEPARATOR.join(sorted(map(str, label)))
    return "" if label is None or label != label else str(label)


def written(label: Any) -> str:
    """A prediction as a cell of a table."""
    if isinstance(label, list):
        return SEPARATOR.join(label)
    return f"{label:.6g}" if isinstance(label, float) else label
