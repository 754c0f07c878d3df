"""Batches without padding: when to use them, and how training and evaluation make them."""

import warnings

import torch
from torch import Tensor

from protlm.batching.batches import Batch
from protlm.errors import ProtlmWarning
from protlm.performer import Performer
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


def packs(model: Performer, precision: str = "float32") -> bool:
    """Whether inference computes batches without padding: `Performer.packed_batches`, or else if attention takes them.

    Warns if that was requested for attention that has to take the sequences apart.
    """
    if model.packed_batches is None and not gains(model.embedding.weight.device):
        return False
    taken = model.takes_packed(torch.bfloat16 if precision == "bfloat16" else None)
    if model.packed_batches is None:
        return taken
    if model.packed_batches and not taken:
        warnings.warn(taken_apart(model, model.embedding.weight.device), ProtlmWarning, stacklevel=3)
    return model.packed_batches


def taken_apart(model: Performer, device: torch.device) -> str:
    """The warning about attention that does not compute packed batches as they are."""
    return (
        f"packed batches: {model.config.attention_label} attention on {device} takes the sequences apart and pads "
        "them; only the other layers save the padding"
    )


def gains(device: torch.device) -> bool:
    """Whether packed batches are worthwhile; on a CPU they are not faster (docs/decisions.md)."""
    return device.type == "cuda"
