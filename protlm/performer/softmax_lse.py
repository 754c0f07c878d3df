"""Softmax attention that also returns the log-sum-exp of each query, so that other keys can be added to it.

Legend: N blocks, H heads, C queries of a block, W keys of a block, d head width, e value width.
"""

from typing import Any

import torch
from torch import Tensor

LEAST = -1e30
"""Logarithm of a weight of 0; finite, since infinities have no difference."""
# fused, but private to PyTorch; without it, the same is computed in several steps
_FUSED: Any = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)


def softmax_lse(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Attention (N, H, C, e), and the logarithm of its denominators (N, H, C, 1): LEAST for a query that sees no key.

    Args:
        q: (N, H, C, d); k: (N, H, W, d); v: (N, H, W, e), float32 or float64.
        seen: (N, 1, C or 1, W) bool, true where a query sees a key.
        scale: of the products of queries and keys.
    """
    return _SoftmaxLse.apply(q, k, v, seen, scale)


class _SoftmaxLse(torch.autograd.Function):
    """Recomputes the weights in its backward."""

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        nothing = ~seen.any(-1, keepdim=True)
        if _FUSED is not None and q.device.type == "cpu" and q.shape[-1] == v.shape[-1]:
            # a query that sees nothing sees all, and its result is dropped
            bias = torch.zeros_like(seen, dtype=q.dtype).masked_fill_(~(seen | nothing), -torch.inf)
            out, lse = _FUSED(q, k, v, 0.0, False, attn_mask=bias.expand(-1, -1, q.shape[2], -1), scale=scale)
            lse = lse.to(q.dtype)[..., None]
        else:
            scores = _scores(q, k, seen, scale)
            top = scores.amax(-1, keepdim=True)
            weights = (scores - top).exp()
            ones = weights.sum(-1, keepdim=True)
            out, lse = weights @ v / ones, top + ones.log()
        return out.masked_fill(nothing, 0), lse.masked_fill(nothing, LEAST)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, ctx.scale = inputs
        ctx.save_for_backward(*tensors, *output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, grad_lse: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        q, k, v, seen, out, lse = ctx.saved_tensors
        if not any(ctx.needs_input_grad[:3]):
            return None, None, None, None, None
        weights = _scores(q, k, seen, ctx.scale).sub_(lse).exp_().masked_fill_(~seen, 0)
        grad_v = weights.mT @ grad
        shared = (grad * out).sum(-1, keepdim=True) - grad_lse
        grad_scores = (grad @ v.mT).sub_(shared).mul_(weights).mul_(ctx.scale)
        return grad_scores @ k, grad_scores.mT @ q, grad_v, None, None


def _scores(q: Tensor, k: Tensor, seen: Tensor, scale: float) -> Tensor:
    return (q @ k.mT).mul_(scale).masked_fill_(~seen, LEAST)
