"""Batches without padding: sequences one after another."""

import torch
from torch import Tensor

from protlm.batching.batches import Batch
from protlm.performer.segments import Packed, starts_of


def pack(batch: Batch) -> Batch:
    """The sequences of a batch, or the segments of its rows, as one row with their boundaries.

    Args:
        batch: (B, L) with padding at the end of rows, on the CPU.
    """
    assert not isinstance(batch.segments, Packed)
    keep = batch.key_mask.flatten()

    def row(x: Tensor) -> Tensor:
        return x.flatten()[keep][None]

    numbers = torch.zeros_like(batch.inputs) if batch.segments is None else batch.segments
    first = row(starts_of(numbers))[0].nonzero()[:, 0]
    edges = torch.cat((first, first.new_tensor([int(keep.sum())])))
    segments = Packed(edges.int(), int(edges.diff().max()))
    return Batch(row(batch.inputs), row(batch.targets), row(batch.scored), row(batch.key_mask), segments, batch.key)
