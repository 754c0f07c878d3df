"""What a student is trained to match: attention outputs layer by layer, representations, logits.

Legend: B batch, H heads, L length, d head width, D model width, V vocabulary.

A relative error is the squared distance from the teacher, divided by that of the teacher from its mean over the
protein: 1 is as far away as that mean.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from protlm.performer import Performer
from protlm.performer.hybrid import HybridAttention


class Attended(NamedTuple):
    """One call of the attention of one layer."""

    q: Tensor
    """(B, H, L, d)"""
    k: Tensor
    v: Tensor
    key_mask: Tensor | None
    out: Tensor
    """(B, H, L, d)"""


@contextmanager
def recorded(model: Performer) -> Iterator[list[Attended]]:
    """A context in which each forward pass appends the attention of its layers, in order."""
    calls: list[Attended] = []

    def hook(module: Any, inputs: tuple[Any, ...], out: Tensor) -> None:
        q, k, v, *rest = inputs
        calls.append(Attended(q, k, v, rest[0] if rest else None, out))

    handles = [block.attention.attention.register_forward_hook(hook) for block in model.blocks]  # type: ignore[union-attr]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def near_keys_only(student: Performer) -> Iterator[None]:
    """A context in which hybrid attention leaves out far keys."""
    modules = [module for module in student.modules() if isinstance(module, HybridAttention)]
    for module in modules:
        module.near_only = True
    try:
        yield
    finally:
        for module in modules:
            module.near_only = False


def attention_errors(teacher: Performer, student: Performer, tokens: Tensor, key_mask: Tensor) -> Tensor:
    """Relative errors (layers,) of the student's attention, after the output projection, at the teacher's queries."""
    with torch.no_grad(), recorded(teacher) as calls:
        teacher.hidden(tokens, key_mask)
    errors = []
    for block, call in zip(student.blocks, calls, strict=True):
        own: Any = block.attention
        out = own.attention(*call[:4])
        project = own.out.weight.detach()
        difference, target = ((x.transpose(1, 2).flatten(2) @ project.T) for x in (out - call.out, call.out))
        errors.append(relative(difference, target, key_mask).mean())
    return torch.stack(errors)


def hidden_errors(taught: dict[int, Tensor], learned: dict[int, Tensor], key_mask: Tensor) -> Tensor:
    """Relative errors (layers, B) of representations (B, L, D), from the first block on."""
    layers = [layer for layer in taught if layer > 0]
    return torch.stack([relative(learned[one] - taught[one], taught[one], key_mask) for one in layers])


def relative(difference: Tensor, target: Tensor, key_mask: Tensor) -> Tensor:
    """Relative errors (B,) over the real positions of (B, L, D)."""
    real = key_mask[..., None].to(target)
    mean = (target * real).sum(1, keepdim=True) / real.sum(1, keepdim=True).clamp(min=1)
    spread = ((target - mean) * real).square().sum((1, 2))
    return (difference * real).square().sum((1, 2)) / spread.clamp(min=1e-12)


def divergence(taught: Tensor, learned: Tensor, key_mask: Tensor) -> Tensor:
    """Mean KL divergence in nats of the student's predictions from the teacher's, logits (B, L, V)."""
    taught, learned = (x[key_mask].float().log_softmax(-1) for x in (taught, learned))
    return F.kl_div(learned, taught, log_target=True, reduction="batchmean")
