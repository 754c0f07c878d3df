"""Attention within each of the sequences of a packed row.

Legend: B batch, L length, H heads, d head width, S segments of similar length, W the longest of them, n positions
in them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

Attention = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]


class Packed(NamedTuple):
    """Sequences one after another in the only row of a batch.

    Args:
        cu_seqlens: (S + 1) int32 on the device of the batch: sequence s is positions cu_seqlens[s] up to
            cu_seqlens[s + 1].
        max_length: of the longest sequence.
    """

    cu_seqlens: Tensor
    max_length: int

    def numbers(self, length: int) -> Tensor:
        """(1, L) int64, the number of the sequence of each position."""
        position = torch.arange(length, device=self.cu_seqlens.device)
        return torch.searchsorted(self.cu_seqlens[1:], position, right=True)[None]


class Part(NamedTuple):
    """Segments of similar length, which are one padded batch.

    Args:
        source: (S, W) int64, the position of the whole batch, of B L, at each place; some position at padding.
        mask: (S, W) bool, true where a key is real; None if attention needs none.
        place: (n) int64 each, the segments and places that are not padding.
        target: (n) int64, their positions.
    """

    source: Tensor
    mask: Tensor | None
    place: tuple[Tensor, Tensor]
    target: Tensor


class Plan(NamedTuple):
    """How a batch is taken apart into its segments, the same in all layers."""

    parts: tuple[Part, ...]


Segments = Tensor | Packed | None
"""The sequences of a packed batch: (B, L) integers that are equal within each, or their boundaries."""


def attend(
    attention: Any, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None, segments: Segments | Plan
) -> Tensor:
    """Attention of a batch, within each of its sequences; arguments as for `within_segments`."""
    if isinstance(segments, Packed):
        if accepts_packed(attention, q, v):
            return attention(q, k, v, key_mask, segments)
        segments = segments.numbers(q.shape[2])
    if segments is None:
        return attention(q, k, v, key_mask)
    if torch.compiler.is_compiling():
        torch._dynamo.graph_break()  # the number of parts and their sizes differ from batch to batch
    return within_segments(attention, q, k, v, key_mask, segments)


def accepts_packed(attention: Any, q: Tensor, v: Tensor) -> bool:
    """Whether a kind of attention computes packed sequences of such queries and values itself."""
    accepts = getattr(attention, "accepts_packed", None)
    return accepts is not None and accepts(q, v)


def restarted(segments: Tensor) -> Tensor:
    """Positions (B, L) int64 that start from 0 in each segment; `segments` (B, L) integers are equal within one.

    >>> restarted(torch.tensor([[0, 0, 0, 1, 1]])).tolist()
    [[0, 1, 2, 0, 1]]
    """
    position = torch.arange(segments.shape[1], device=segments.device).expand_as(segments)
    return position - torch.where(starts_of(segments), position, 0).cummax(1).values


def share_of(chosen: Tensor, key_mask: Tensor, segments: Tensor | None) -> Tensor:
    """The fraction of the keys of a row (B, 1), or of each of its segments (B, L), that is chosen; both (B, L) bool."""
    if segments is None:
        return chosen.sum(1, keepdim=True) / key_mask.sum(1, keepdim=True).clamp(min=1)
    number = (restarted(segments) == 0).cumsum(1) - 1
    chosen, keys = (torch.zeros_like(number).scatter_add(1, number, part.long()) for part in (chosen, key_mask))
    return (chosen / keys.clamp(min=1)).gather(1, number)


def within_segments(
    attention: Attention, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None, segments: Tensor | Plan
) -> Tensor:
    """Any kind of attention, applied to each segment as a separate sequence.

    Segments are gathered into batches of similar length (within a factor of two), padded, and scattered back.

    Args:
        attention: a function of (q, k, v, key_mask).
        q, k: (B, H, L, d); v: (B, H, L, any width).
        key_mask: (B, L) bool, true where a key is real; None if all are. A plan has its own.
        segments: (B, L) integers, equal within a segment, which is contiguous; or `plan_of` them.
    """
    batch, heads, length, _ = q.shape
    plan = segments if isinstance(segments, Plan) else plan_of(segments, key_mask)
    flat = [x.transpose(1, 2).flatten(0, 1) for x in (q, k, v)]  # (B L, H, d)
    result = flat[2].new_zeros(batch * length, heads, v.shape[-1])
    for part in plan.parts:
        one, other, values = (x[part.source].transpose(1, 2) for x in flat)
        attended = attention(one, other, values, part.mask).transpose(1, 2)
        result = result.index_put((part.target,), attended[part.place].to(result.dtype))
    return result.unflatten(0, (batch, length)).transpose(1, 2)


def plan_of(
    segments: Tensor, key_mask: Tensor | None = None, needed: Callable[[Tensor], bool] = lambda mask: True
) -> Plan:
    """How `within_segments` takes a batch apart; the host waits for a device here, and in no layer.

    Args:
        segments, key_mask: as for `within_segments`.
        needed: whether attention has to be given such a mask (S, W).
    """
    device, size = segments.device, segments.numel()
    starts = starts_of(segments.cpu()).flatten().nonzero().flatten()
    sizes = torch.diff(starts, append=starts.new_tensor([size]))
    keys = None if key_mask is None else key_mask.cpu().flatten()
    classes, parts = (sizes - 1).clamp(min=1).log2().floor(), []
    for size_class in classes.unique():
        chosen = classes == size_class
        column = torch.arange(int(sizes[chosen].max()))
        real = column < sizes[chosen, None]
        index = torch.where(real, starts[chosen, None] + column, starts[chosen, None])
        mask = real if keys is None else real & keys[index]
        place, given = real.nonzero(as_tuple=True), mask if needed(mask) else None
        source, row, at, target = (x.to(device, non_blocking=True) for x in (index, *place, index[real]))
        given = given if given is None else given.to(device, non_blocking=True)
        parts.append(Part(source, given, (row, at), target))
    return Plan(tuple(parts))


def needs_mask(key_mask: Tensor, causal: bool) -> bool:
    """Whether a mask (B, L) hides keys that a real position could see: not if causal, with padding at the end only."""
    if causal:
        return bool((key_mask[:, 1:] & ~key_mask[:, :-1]).any())
    return not bool(key_mask.all())


def starts_of(segments: Tensor) -> Tensor:
    """(B, L) bool: true at the first position of each segment."""
    first = torch.ones_like(segments, dtype=torch.bool)
    first[:, 1:] = segments[:, 1:] != segments[:, :-1]
    return first
