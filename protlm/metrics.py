"""Accuracy and perplexity per residue, also by group of proteins and by residue, with the unigram baseline."""

import math
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from protlm.corpus.unigram import Unigram
from protlm.sequence.alphabet import TOKENS
from protlm.tables import aligned

_UNITS = 1 << 20  # per nat


class ResidueCounts:
    """Accuracy and perplexity over the scored positions, and those of the unigram baseline over the same residues.

    `size` is the number of tokens, V.
    """

    correct: Tensor
    negative_log: Tensor
    infinite: Tensor
    targets: Tensor

    def __init__(self, device: torch.device, size: int = len(TOKENS)) -> None:
        # integers: float32 would lose small terms of a long sum, and some devices have no float64
        self.correct, self.negative_log, self.infinite = (torch.tensor(0, device=device) for _ in range(3))
        self.targets = torch.zeros(size, dtype=torch.long, device=device)

    def update(self, logits: Tensor, targets: Tensor, scored: Tensor) -> None:
        """Adds logits (B, L, V), targets (B, L) and the positions to score, (B, L) bool."""
        logits, targets = logits[scored].float(), targets[scored]
        self.correct += (logits.argmax(-1) == targets).sum()
        loss = F.cross_entropy(logits, targets, reduction="sum")
        self.infinite += ~loss.isfinite()  # batches whose loss is not finite: NaN has no integer
        self.negative_log += (loss.nan_to_num(0, 0, 0) * _UNITS).round().long()
        self.targets += torch.bincount(targets, minlength=len(self.targets))

    def compute(self) -> dict[str, float]:
        """{"accuracy", "perplexity"} of the model; NaN if nothing was scored.

        Perplexity is infinite if any output of the model was not finite.
        """
        count = self.targets.sum().item()
        if not count:
            return {"accuracy": math.nan, "perplexity": math.nan}
        mean = self.negative_log.item() / _UNITS / count
        return {
            "accuracy": self.correct.item() / count,
            "perplexity": math.inf if self.infinite else perplexity_of(mean),
        }

    def with_baseline(self, unigram: Unigram) -> dict[str, float]:
        """`compute`, plus "unigram_accuracy" and "unigram_perplexity" over the same residues."""
        return {**self.compute(), **baseline(unigram, self.targets.cpu().numpy())}


class Breakdown:
    """The same metrics by group of proteins and by residue, for evaluation; each update waits for the device.

    Attributes:
        scored: (groups, V) int64, how often each token was the target.
        correct: (groups, V) int64, how often it was predicted correctly.
        negative_log: (groups, V) float64, summed negative log-probability of the targets, in nats.
        predicted: (V,) int64, how often the model predicted each token, correctly or not.
    """

    def __init__(self, groups: int, size: int = len(TOKENS)) -> None:
        self.scored, self.correct = np.zeros((2, groups, size), dtype=np.int64)
        self.negative_log = np.zeros((groups, size))
        self.predicted = np.zeros(size, dtype=np.int64)

    def update(self, logits: Tensor, targets: Tensor, scored: Tensor, groups: np.ndarray) -> None:
        """As `ResidueCounts.update`, with the groups of the positions, integers that broadcast to (B, L)."""
        logits, targets = logits[scored].detach().float(), targets[scored]
        losses = F.cross_entropy(logits, targets, reduction="none").cpu().numpy()
        predicted, expected = logits.argmax(-1).cpu().numpy(), targets.cpu().numpy()
        cells = np.broadcast_to(groups, scored.shape)[scored.cpu().numpy()] * len(self.predicted) + expected
        shape, size = self.scored.shape, self.scored.size
        self.scored += np.bincount(cells, minlength=size).reshape(shape)
        self.correct += np.bincount(cells[predicted == expected], minlength=size).reshape(shape)
        self.negative_log += np.bincount(cells, losses, minlength=size).reshape(shape)
        self.predicted += np.bincount(predicted, minlength=len(self.predicted))

    def over(self, part: np.ndarray, unigram: Unigram) -> dict[str, float]:
        """The metrics of `ResidueCounts.with_baseline`, and the number of targets ("asked"), in cells (groups, V)."""
        counts = np.where(part, self.scored, 0).sum(0)
        scored = int(counts.sum())
        accuracy = perplexity = math.nan
        if scored:
            accuracy = float(self.correct[part].sum() / scored)
            perplexity = perplexity_of(float(self.negative_log[part].sum()) / scored)
        return {"asked": scored, "accuracy": accuracy, "perplexity": perplexity, **baseline(unigram, counts)}


def perplexity_of(mean: float) -> float:
    """Of a mean negative log-probability; finite even for a diverged model."""
    return math.exp(min(mean, 700))


def baseline(unigram: Unigram, counts: np.ndarray) -> dict[str, float]:
    if not counts.any():
        return {"unigram_accuracy": math.nan, "unigram_perplexity": math.nan}
    return {"unigram_accuracy": unigram.accuracy(counts), "unigram_perplexity": unigram.perplexity(counts)}


def format_metrics(results: Mapping[str, Mapping[str, float]]) -> str:
    """A table of split -> metrics, those of `ResidueCounts.with_baseline`.

    >>> row = {"accuracy": 0.2, "unigram_accuracy": 0.1, "perplexity": 12.0, "unigram_perplexity": 18.0}
    >>> print(format_metrics({"test": row}))
    split  accuracy  unigram  perplexity  unigram
    test     20.0 %   10.0 %       12.00    18.00
    """
    header = ["split", "accuracy", "unigram", "perplexity", "unigram"]
    return aligned(header, [[split, *format_row(row)] for split, row in results.items()])


def format_row(row: Mapping[str, float]) -> list[str]:
    """Accuracy, that of the unigram baseline, perplexity and that of the baseline, as text."""
    return [
        *(f"{100 * row[name]:.1f} %" for name in ("accuracy", "unigram_accuracy")),
        *(f"{row[name]:.2f}" for name in ("perplexity", "unigram_perplexity")),
    ]
