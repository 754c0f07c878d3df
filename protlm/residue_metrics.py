"""`ResidueCounts` summed over the ranks of a training run."""

import torch
from torchmetrics import Metric  # its import takes longer than torch's, so only what trains imports this file

from protlm.corpus.unigram import Unigram
from protlm.metrics import ResidueCounts, baseline
from protlm.sequence.alphabet import TOKENS


class ResidueMetrics(ResidueCounts, Metric):
    """Accuracy and perplexity over the scored positions of all ranks; `size` is the number of tokens."""

    def __init__(self, size: int = len(TOKENS)) -> None:
        Metric.__init__(self)
        for name in ("correct", "negative_log", "infinite"):
            self.add_state(name, torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("targets", torch.zeros(size, dtype=torch.long), dist_reduce_fx="sum")

    def with_baseline(self, unigram: Unigram) -> dict[str, float]:
        """See `ResidueCounts.with_baseline`."""
        values = self.compute()
        with self.sync_context():  # of all ranks, as in compute
            return {**values, **baseline(unigram, self.targets.cpu().numpy())}
