"""Logits of labelled rows, kept batch by batch and gathered from all ranks.

Legend: B batch, L length, r rows of a target, k outputs.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch.distributed as dist
from torch import Tensor

from protlm.supervised.target import Target
from protlm.supervised.tuning.batches import LabelledBatch
from protlm.supervised.tuning.head import TunedHead


class Collected:
    """Of one part of the proteins.

    Args:
        heads: of the targets.
        targets: of all proteins.
    """

    def __init__(self, heads: Iterable[TunedHead], targets: Sequence[Target]) -> None:
        self._pairs = list(zip(heads, targets, strict=True))
        self._found: list[tuple[int, np.ndarray, np.ndarray]] = []

    def add(self, batch: LabelledBatch, outputs: Sequence[Tensor]) -> None:
        """Keeps the rows of the proteins of a batch from its outputs, (B, k) or (B, L, k) of each target."""
        assert batch.key is not None
        proteins = batch.key[:, 1]
        place = {protein: row for row, protein in enumerate(proteins.tolist())}
        for number, ((head, target), logits) in enumerate(zip(self._pairs, outputs, strict=True)):
            values = logits.double().cpu().numpy()
            rows = np.flatnonzero(np.isin(target.owner, proteins))
            within = np.array([place[owner] for owner in target.owner[rows].tolist()], dtype=np.int64)
            found = values[within, 1 + target.position[rows]] if head.per_residue else values[within]
            self._found.append((number, rows, found))

    def gathered(self, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
        """(m, k) float64 of each target: its m rows where `rows` (r,) bool is true, of all ranks."""
        entries = [self._found]
        if dist.is_available() and dist.is_initialized():
            entries = [self._found] * dist.get_world_size()
            dist.all_gather_object(entries, self._found)
        result = [
            np.zeros((len(own), max(1, len(head.classes)))) for (head, _), own in zip(self._pairs, rows, strict=True)
        ]
        for number, where, values in (entry for rank in entries for entry in rank):
            result[number][where] = values
        return [values[own] for values, own in zip(result, rows, strict=True)]
