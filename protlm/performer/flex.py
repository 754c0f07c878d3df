"""Bidirectional attention from positive random features as two calls of PyTorch's FlexAttention.

Legend: B batch, H heads, L length, d head width, e value width, M features.

The means g (M, e) of the values under exp(w_i.y_j + b_i + c |y_j|^2 / 2), with the logarithms m_i of their sums, are an
attention of directions over keys; the result is an attention of queries over directions, with m_i + b_i added to the
logits. On CUDA FlexAttention is compiled into kernels; on the CPU it has no gradients.
"""

import warnings
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import AuxRequest, flex_attention

from protlm.performer.favor import Favor
from protlm.performer.features import decode_map
from protlm.performer.kinds import describe
from protlm.performer.linear_attention import Inputs, Options


def unsupported(inputs: Inputs, options: Options) -> str | None:
    """Why FlexAttention cannot compute a call; None if it can."""
    feature_map = decode_map(options.feature_map)
    if options.causal:
        return "FlexAttention computes bidirectional attention only"
    if not feature_map.log or not feature_map.linear or inputs.weight is None:
        name = describe(Favor(feature_map))
        name = name if isinstance(name, str) else name["map"]
        return f"FlexAttention computes positive, linear features only, not {name}"
    if inputs.q.device.type == "cpu" and torch.is_grad_enabled() and any(x.requires_grad for x in inputs[:3]):
        return "FlexAttention has no gradients on the CPU"
    return None


@cache
def _compiled() -> Any:
    return torch.compile(flex_attention, dynamic=True)


def _unfused(*args: Any, **options: Any) -> Any:
    """Without PyTorch's advice to compile, which is what `_compiled` is for."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
        return flex_attention(*args, **options)


def attention(inputs: Inputs, options: Options) -> Tensor:
    """Weighted means of the values (B, H, L, e); arguments as in linear_attention.py."""
    q, k, v, mask, weight, bias = inputs.scaled(options.scale)
    assert weight is not None
    function = _unfused if q.device.type == "cpu" else _compiled()
    quadratic = decode_map(options.feature_map).quadratic * options.scale**2 / 2
    weights = quadratic * k.float().square().sum(-1)  # (B, H, L)
    if mask is not None:
        weights = weights.masked_fill(~mask[:, None], -torch.inf)
        v = v.masked_fill(~mask[:, None, :, None], 0)
    directions = weight.to(q.dtype).expand(*q.shape[:2], -1, -1)
    offset = weight.new_zeros(len(weight)) if bias is None else bias

    def key_bias(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return score + weights[b, h, j]

    means, extra = function(directions, k, v, score_mod=key_bias, scale=1.0, return_aux=AuxRequest(lse=True))
    assert extra.lse is not None
    shift = extra.lse + 2 * offset

    def feature_bias(score: Tensor, b: Tensor, h: Tensor, t: Tensor, i: Tensor) -> Tensor:
        return score + shift[b, h, i]

    return function(q, directions, means, score_mod=feature_bias, scale=1.0)
