"""Slow and obvious attention in float64, the reference for tests of the fast paths.

Legend: B batch, H heads, L length, M features, d head width, e value width.
"""

import torch
from torch import Tensor

from protlm.performer.features import FeatureMap


def phi(x: Tensor, feature_map: FeatureMap, directions: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Features (..., M) or their logarithms, and the logarithm (..., 1) of their common factor, in float64.

    Args:
        x: (..., d), d^(-1/4) q or k.
        directions, bias: (M, d) and (M), the affine part of the map.
    """
    x = x.double()
    p = x
    if feature_map.projected:
        p = x @ directions.double().T + (0 if bias is None else bias.double())
    return feature_map.features(p), feature_map.quadratic * x.square().sum(-1, keepdim=True) / 2


def attention_matrix(
    q: Tensor,
    k: Tensor,
    feature_map: FeatureMap,
    directions: Tensor,
    bias: Tensor | None = None,
    key_mask: Tensor | None = None,
    causal: bool = False,
) -> Tensor:
    """The normalised (B, H, L, L) float64 matrix of FAVOR+; all arguments as in `favor_attention`."""
    scale = q.shape[-1] ** -0.25
    queries, _ = phi(q.double() * scale, feature_map, directions, bias)  # a factor of a query cancels
    keys, factor = phi(k.double() * scale, feature_map, directions, bias)
    factor = factor.transpose(-2, -1)
    if feature_map.log:
        logits = torch.logsumexp(queries[..., :, None, :] + keys[..., None, :, :], -1) + factor
        return _softmax(logits, key_mask, causal)
    hidden = _hidden(queries, key_mask, causal)
    factor = factor.expand(*factor.shape[:-2], factor.shape[-1], -1).masked_fill(hidden, -torch.inf)
    factor = (factor - factor.amax(-1, keepdim=True)).exp()
    weights = queries @ keys.transpose(-2, -1) * factor
    return weights / weights.sum(-1, keepdim=True)


def favor_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    feature_map: FeatureMap,
    directions: Tensor,
    bias: Tensor | None = None,
    key_mask: Tensor | None = None,
    causal: bool = False,
) -> Tensor:
    """FAVOR+ as an explicit matrix: (B, H, L, e) float64.

    Args:
        q, k, v: (B, H, L, d), (B, H, L, d), (B, H, L, e).
        feature_map: the map.
        directions, bias: (M, d) and (M), its affine part.
        key_mask: (B, L) bool, true where a key is real.
        causal: position t sees positions up to t only.
    """
    return attention_matrix(q, k, feature_map, directions, bias, key_mask, causal) @ v.double()


def exact_attention(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """Softmax attention as an explicit matrix: (B, H, L, e) float64; arguments as in `favor_attention`."""
    logits = q.double() @ k.double().transpose(-2, -1) / q.shape[-1] ** 0.5
    return _softmax(logits, key_mask, causal) @ v.double()


def linformer_attention(
    q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, key_mask: Tensor | None = None
) -> Tensor:
    """Linformer's attention: (B, H, L, e) float64.

    Args:
        q, k, v, key_mask: as in `favor_attention`.
        keys, values: (R, at least L), the projections of keys and values along the sequence.
    """
    real = torch.ones(len(k), k.shape[2]) if key_mask is None else key_mask
    k, v = (
        torch.einsum("rl,bl,bhld->bhrd", weight[:, : k.shape[2]].double(), real.double(), x.double())
        for weight, x in ((keys, k), (values, v))
    )
    return (q.double() @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1) @ v


def window_attention(
    q: Tensor, k: Tensor, v: Tensor, size: int, key_mask: Tensor | None = None, causal: bool = False
) -> Tensor:
    """Softmax over the keys at most size // 2 away, or over the last `size` if causal: (B, H, L, e) float64.

    The result is 0 where none of them is real; other arguments as in `favor_attention`.
    """
    position = torch.arange(q.shape[2], device=q.device)
    distance = position[:, None] - position
    seen = (distance < size if causal else distance.abs() <= size // 2) & ~_hidden(q, key_mask, causal)
    weights = seen * (q.double() @ k.double().transpose(-2, -1) / q.shape[-1] ** 0.5).exp()
    return weights @ v.double() / weights.sum(-1, keepdim=True).clamp(min=1e-300)


def _hidden(x: Tensor, key_mask: Tensor | None, causal: bool) -> Tensor:
    """(B, 1, L, L) bool: keys that a query must not see."""
    batch, length = x.shape[0], x.shape[-2]
    hidden = torch.zeros(batch, 1, length, length, dtype=torch.bool, device=x.device)
    if key_mask is not None:
        hidden = hidden | ~key_mask[:, None, None, :]
    return hidden | torch.ones_like(hidden).triu(1) if causal else hidden


def _softmax(logits: Tensor, key_mask: Tensor | None, causal: bool) -> Tensor:
    """Softmax over the visible keys."""
    return logits.masked_fill(_hidden(logits, key_mask, causal), -torch.inf).softmax(-1)


def hybrid_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    weights: Tensor,
    block: int,
    key_mask: Tensor | None = None,
    causal: bool = False,
) -> Tensor:
    """Exact weights within blocks and between neighbours, others elsewhere; 0 where no key is real.

    Args:
        q, k: (B, H, L, d); v: (B, H, L, e).
        weights: (B, H, L, L), of the keys that are not near.
        block: C, positions of a block.
        key_mask: (B, L) bool, true where a key is real; None if all are.
        causal: position t sees positions up to t only.
    """
    number = torch.arange(q.shape[2]) // block
    near = (number[:, None] - number).abs() <= 1
    a = torch.where(near, (q @ k.mT * q.shape[-1] ** -0.5).exp(), weights)
    a = a.tril() if causal else a
    a = a if key_mask is None else a * key_mask[:, None, None, :]
    ones = a.sum(-1, keepdim=True)
    return a @ v / torch.where(ones > 0, ones, 1.0)
