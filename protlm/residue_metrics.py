"""Accuracy and perplexity per residue, summed over batches and over the ranks of a training run."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import (
    Metric,  # its import takes longer than torch's, so only what trains or evaluates imports this file
)

from protlm.corpus.reader import Unigram
from protlm.metrics import baseline, perplexity_of
from protlm.sequence.alphabet import TOKENS

_UNITS = 1 << 20  # per nat


class ResidueMetrics(Metric):
    """Accuracy and perplexity over the scored positions, and those of the unigram baseline over the same residues."""

    correct: Tensor
    negative_log: Tensor
    infinite: Tensor
    targets: Tensor

    def __init__(self) -> None:
        super().__init__()
        # integers: float32 would lose small terms of a long sum, and some devices have no float64
        self.add_state("correct", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("negative_log", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("infinite", torch.tensor(0), dist_reduce_fx="sum")  # batches whose loss is not finite
        self.add_state("targets", torch.zeros(len(TOKENS), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, logits: Tensor, targets: Tensor, scored: Tensor) -> None:
        """Adds logits (B, L, V), targets (B, L) and the positions to score, (B, L) bool."""
        logits, targets = logits[scored].float(), targets[scored]
        self.correct += (logits.argmax(-1) == targets).sum()
        loss = F.cross_entropy(logits, targets, reduction="sum")
        self.infinite += ~loss.isfinite()  # NaN has no integer
        self.negative_log += (loss.nan_to_num(0, 0, 0) * _UNITS).round().long()
        self.targets += torch.bincount(targets, minlength=len(TOKENS))

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
        with self.sync_context():  # of all ranks, as in compute
            counts = self.targets.cpu().numpy().copy()
        return {**self.compute(), **baseline(unigram, counts)}
