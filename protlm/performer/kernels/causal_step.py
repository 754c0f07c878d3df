"""One position of causal attention from its state, for generation: one kernel, which updates the state in place.

Legend: B batch, H heads, d head width, e value width, M features.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from protlm.performer.estimator import LOG2E
from protlm.performer.features import Exponential, FeatureMap
from protlm.performer.kernels.causal_launch import supported
from protlm.performer.kernels.causal_tiles import logarithm
from protlm.performer.kernels.maps import feature_of


@triton.jit
def step_kernel(
    q, k, v, weight, bias, shift, sums, out,
    q_batch, q_head, k_batch, k_head, v_batch, v_head, out_batch, out_head, quadratic, scale, epsilon,
    M: tl.constexpr, d: tl.constexpr, e: tl.constexpr, D: tl.constexpr, MP: tl.constexpr, BE: tl.constexpr,
    LOG: tl.constexpr, FUNCTION: tl.constexpr, PROJECTED: tl.constexpr, BIASED: tl.constexpr,
):  # fmt: skip
    """Grid (B, H): adds a key and its value to the state (e + 1, M) of one head, and writes the output (e)."""
    batch, head = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    state = batch * tl.num_programs(1) + head
    sums += state * (e + 1) * M
    column, i = tl.arange(0, D), tl.arange(0, MP)
    some = i < M
    x = tl.load(q + batch * q_batch + head * q_head + column, mask=column < d, other=0.0).to(tl.float32)
    y = tl.load(k + batch * k_batch + head * k_head + column, mask=column < d, other=0.0).to(tl.float32)
    if PROJECTED:
        present = some[:, None] & (column < d)[None, :]
        w = tl.load(weight + i[:, None] * d + column[None, :], mask=present, other=0.0).to(tl.float32) * scale
        p_q, p_k = tl.sum(w * x[None, :], 1), tl.sum(w * y[None, :], 1)
        if BIASED:
            b = tl.load(bias + i, mask=some, other=0.0).to(tl.float32)
            p_q += b
            p_k += b
    else:
        p_q, p_k = x * scale, y * scale
    ones = tl.load(sums + e * M + i, mask=some, other=0.0)
    if LOG:
        before = tl.load(shift + state * M + i, mask=some, other=0.0)
        held = tl.where(ones > 0, before + tl.log2(tl.where(ones > 0, ones, 1.0)), -float("inf"))
        u = logarithm(p_k, epsilon, FUNCTION) + tl.sum(y * y) * quadratic
        top = tl.maximum(held, u)
        after = top + tl.log2(tl.exp2(held - top) + tl.exp2(u - top))
        factor = tl.where(ones > 0, tl.exp2(before - after), 0.0)
        of_k = tl.where(some, tl.exp2(u - after), 0.0)
        s = tl.where(some, logarithm(p_q, epsilon, FUNCTION) + after, -float("inf"))
        of_q = tl.exp2(s - tl.max(s, 0))
        tl.store(shift + state * M + i, after, mask=some)
        ones *= factor
    else:
        of_k = tl.where(some, feature_of(p_k, epsilon, FUNCTION), 0.0)
        of_q = tl.where(some, feature_of(p_q, epsilon, FUNCTION), 0.0)
    ones += of_k
    tl.store(sums + e * M + i, ones, mask=some)
    denominator = tl.sum(of_q * ones, 0)
    divisor = tl.where(denominator == 0.0, 1.0, denominator)
    for start in range(0, e, BE):
        row = start + tl.arange(0, BE)
        value = tl.load(v + batch * v_batch + head * v_head + row, mask=row < e, other=0.0).to(tl.float32)
        address = sums + row[:, None] * M + i[None, :]
        inside = (row < e)[:, None] & some[None, :]
        means = tl.load(address, mask=inside, other=0.0)
        if LOG:
            means *= factor[None, :]
        means += value[:, None] * of_k[None, :]
        tl.store(address, means, mask=inside)
        result = tl.sum(means * of_q[None, :], 1) / divisor
        tl.store(out + batch * out_batch + head * out_head + row, result.to(out.dtype.element_ty), mask=row < e)


def causal_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    feature_map: FeatureMap,
    scale: float,
    shift: Tensor,
    sums: Tensor,
) -> Tensor:
    """Attention (B, H, 1, e) of the next position; updates the state. One kernel, without allocation but the result.

    Args:
        q, k: (B, H, 1, d), v: (B, H, 1, e).
        weight, bias, feature_map, scale: as for `causal`.
        shift: (B, H, 1, M), or (B, H, 1, 1) for a map that is not positive; sums: (B, H, e + 1, M); both float32 and
            contiguous, as returned by `causal`, or zeros before the first position.
    """
    if not supported(feature_map):
        raise NotImplementedError(f"{type(feature_map).__name__}: no kernel for this map")
    (batch, heads, _, d), e = q.shape, v.shape[-1]
    features = d if weight is None else len(weight)
    out = torch.empty_like(v)
    options: dict[str, Any] = {
        "quadratic": feature_map.quadratic * scale**2 / 2 * LOG2E,
        "scale": scale,
        "epsilon": float(getattr(feature_map, "epsilon", 0.0)),
        "M": features,
        "d": d,
        "e": e,
        "D": triton.next_power_of_2(d),
        "MP": triton.next_power_of_2(features),
        "BE": 16,
        "LOG": feature_map.log,
        "FUNCTION": "exp" if type(feature_map) is Exponential else getattr(feature_map, "function", "identity"),
        "PROJECTED": weight is not None,
        "BIASED": bias is not None,
    }
    if batch * heads:
        step_kernel[(batch, heads)](
            q, k, v, q if weight is None else weight.contiguous(), q if bias is None else bias, shift, sums, out,
            *q.stride()[:2], *k.stride()[:2], *v.stride()[:2], *out.stride()[:2], **options,
            num_warps=8 if features * d <= 2**15 else 16,
        )  # fmt: skip
    return out
