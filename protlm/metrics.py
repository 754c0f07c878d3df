"""Accuracy and perplexity over residues, beside the unigram baseline; in training and in evaluation the same."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from protlm.sequence.alphabet import TOKENS
from protlm.sequence.corpus import Unigram

_UNITS = 1 << 20  # in a nat


class ResidueMetrics(Metric):
    """Accuracy and perplexity over the scored positions, and the unigram baseline's over the same residues."""

    correct: Tensor
    negative_log: Tensor
    targets: Tensor

    def __init__(self) -> None:
        super().__init__()
        # in whole units: float32 would lose small terms of a long sum, and some devices have no float64
        self.add_state("correct", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("negative_log", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("targets", torch.zeros(len(TOKENS), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, logits: Tensor, targets: Tensor, scored: Tensor) -> None:
        """Takes logits (B, L, V), targets (B, L) and scored (B, L) bool."""
        logits, targets = logits[scored].float(), targets[scored]
        self.correct += (logits.argmax(-1) == targets).sum()
        self.negative_log += (F.cross_entropy(logits, targets, reduction="sum") * _UNITS).round().long()
        self.targets += torch.bincount(targets, minlength=len(TOKENS))

    def compute(self) -> dict[str, float]:
        """{"accuracy", "perplexity"} of the model over all that was scored; nan if nothing was."""
        count = self.targets.sum().item()
        if not count:
            return {"accuracy": math.nan, "perplexity": math.nan}
        mean = self.negative_log.item() / _UNITS / count
        return {"accuracy": self.correct.item() / count, "perplexity": math.exp(min(mean, 700))}

    def beside(self, unigram: Unigram) -> dict[str, float]:
        """`compute`, and "unigram_accuracy" and "unigram_perplexity" over the very same residues."""
        with self.sync_context():  # of all ranks, as in compute
            counts = self.targets.cpu().numpy().copy()
        baseline = {"unigram_accuracy": unigram.accuracy(counts), "unigram_perplexity": unigram.perplexity(counts)}
        return {**self.compute(), **baseline}


def format_results(results: dict[str, dict[str, float]]) -> str:
    """A plain table of split -> metrics, with the columns of `ResidueMetrics.beside`.

    >>> row = {"accuracy": 0.2, "unigram_accuracy": 0.1, "perplexity": 12.0, "unigram_perplexity": 18.0}
    >>> print(format_results({"test": row}))
    split    accuracy   unigram   perplexity   unigram
    test       20.0 %    10.0 %        12.00     18.00
    """
    lines = ["split    accuracy   unigram   perplexity   unigram"]
    for split, row in results.items():
        lines.append(
            f"{split:<6}{100 * row['accuracy']:>9.1f} %{100 * row['unigram_accuracy']:>8.1f} %"
            f"{row['perplexity']:>13.2f}{row['unigram_perplexity']:>10.2f}"
        )
    return "\n".join(lines)
