"""Attention from features, linear in length, stabilised without an epsilon.

Legend: B batch, H heads, L length, C chunk, M features, e value width. Features are (B, H, L, M), values (B, H, L, e).

With log-features u (keys) and s (queries), attention of position t is

    sum_j sum_i exp(s_ti + u_ji) v_j / sum_j sum_i exp(s_ti + u_ji).

A constant m_i per feature moves from keys to queries, and a constant per query cancels in the ratio: with
K = exp(u_ji - m_i), m_i the maximum of u_ji over j, and Q = exp(s_ti + m_i - max_i(s_ti + m_i)), nothing overflows,
and the denominator is at least 1, since the query's largest feature meets a key where K = 1. The constants need no
gradient. A padded key has u = -inf, or a plain feature of 0.

Causally, m_i is the maximum so far, and a chunk's maximum includes its later keys. An early row of a chunk can then
underflow; such a chunk is halved until it does not. At a chunk of one position the bound above holds again.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def linear_attention(
    queries: Tensor, keys: Tensor, values: Tensor, log: bool, causal: bool = False, chunk: int = 128
) -> Tensor:
    """Attention (B, H, L, e) from features.

    Args:
        queries, keys: (B, H, L, M) features, or their logarithms if `log`; float32 or float64. Keys that are padding
            have the feature 0 (logarithm -inf).
        values: (B, H, L, e) of the same dtype.
        causal: position t sees positions up to t only.
        chunk: positions handled by one matrix product in the causal case.

    Returns:
        The weighted means of the values; 0 for a position that sees no key.
    """
    with_ones = F.pad(values, (0, 1), value=1.0)  # the last column of every sum is the denominator
    if causal:
        sums = _causal_log(queries, keys, with_ones, chunk) if log else _causal(queries, keys, with_ones, chunk)
    else:
        if log:
            highest = _finite(keys.detach().amax(-2, keepdim=True))
            keys = (keys - highest).exp()
            queries = _exp_rows(queries + highest)
        sums = queries @ (keys.transpose(-2, -1) @ with_ones)
    denominator = sums[..., -1:]
    return sums[..., :-1] / torch.where(denominator > 0, denominator, 1)


def _finite(maximum: Tensor) -> Tensor:
    """A maximum over nothing but -inf counts as 0."""
    return maximum.masked_fill(maximum == -torch.inf, 0)


def _exp_rows(logarithms: Tensor) -> Tensor:
    """exp of each row, scaled so that its largest entry is 1."""
    return (logarithms - _finite(logarithms.detach().amax(-1, keepdim=True))).exp()


def _causal(queries: Tensor, keys: Tensor, values: Tensor, chunk: int) -> Tensor:
    sums = []
    state = values.new_zeros(*keys.shape[:2], keys.shape[-1], values.shape[-1])
    for q, k, v in zip(queries.split(chunk, -2), keys.split(chunk, -2), values.split(chunk, -2), strict=True):
        sums.append((q @ k.transpose(-2, -1)).tril() @ v + q @ state)
        state = state + k.transpose(-2, -1) @ v
    return torch.cat(sums, -2)


def _causal_log(queries: Tensor, keys: Tensor, values: Tensor, chunk: int) -> Tensor:
    sums = []
    state = values.new_zeros(*keys.shape[:2], keys.shape[-1], values.shape[-1])
    highest = torch.full_like(keys[..., :1, :], -torch.inf, requires_grad=False)
    # (queries, keys, values) still to do, the next one last
    todo = list(zip(queries.split(chunk, -2), keys.split(chunk, -2), values.split(chunk, -2), strict=True))[::-1]
    smallest = torch.finfo(values.dtype).tiny * 1e13  # lost terms are under tiny x chunk x M, so under 1e-8 of this
    while todo:
        s, u, v = todo.pop()
        risen = torch.maximum(highest, u.detach().amax(-2, keepdim=True))
        shift = _finite(risen)
        k = (u - shift).exp()
        q = _exp_rows(s + risen)
        scaled = state * (highest - shift).exp().transpose(-2, -1)
        rows = (q @ k.transpose(-2, -1)).tril() @ v + q @ scaled
        length = s.shape[-2]
        if length > 1:
            sees_a_key = (torch.cat((highest, u.detach()), -2).amax(-1) > -torch.inf).cumsum(-1)[..., 1:] > 0
            if ((rows.detach()[..., -1] < smallest) & sees_a_key).any():
                halves = zip(*(x.split((length + 1) // 2, -2) for x in (s, u, v)), strict=True)
                todo.extend(list(halves)[::-1])
                continue
        sums.append(rows)
        state = scaled + k.transpose(-2, -1) @ v
        highest = risen
    return torch.cat(sums, -2)
