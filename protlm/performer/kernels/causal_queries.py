"""Kernel: the gradient of a chunk of queries, from the sums before its group and the keys in the group.

Legend: M features, d head width, e value width, BM, D and E their tile widths, C positions of a chunk, G of a group.

With x the features of a query and y those of a key, out = sum_j (x.y_j) v_j / denominator, so that the gradient of x is
sum_j y_j (g.v_j - drift) / denominator, where g is the gradient of `out` and drift = g.out. Tiles of features whose
keys outgrow the shift, see causal_outputs.py, are left out and done exactly at the end.
"""

import triton
import triton.language as tl

from protlm.performer.kernels.causal_tiles import (
    FINE,
    LIMIT,
    columns,
    directions,
    locate,
    logarithm,
    logarithm_slope,
    projected,
    projected_columns,
    real_keys,
    rows,
    size_of,
    write_rows,
)
from protlm.performer.kernels.maps import feature_of, feature_slope
from protlm.performer.kernels.products import product


@triton.jit
def exact_queries(
    result, q, k, size, scales, pairs, seen, weight, bias, first, epsilon, M: tl.constexpr, d: tl.constexpr,
    BM: tl.constexpr, D: tl.constexpr, FUNCTION: tl.constexpr, BIASED: tl.constexpr, PRODUCT: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Adds to `result` (C, D) the gradient of queries q (C, D) by the features `first` to first + BM and FINE keys.

    Args:
        k: (D, FINE), size: (FINE), the logarithms of the keys' own factors.
        scales: (C), the logarithms of the queries' denominators.
        pairs: (C, FINE), g.v - drift; seen: which of them count.
    """
    feature = tl.arange(0, FINE)
    for start in range(first, tl.minimum(first + BM, M), FINE):
        w = directions(weight, start, q.dtype, M, d, FINE, D, True)
        p = projected(q, w, bias, start, 1.0, M, FINE, True, BIASED, PRECISION)
        s = logarithm(p, epsilon, FUNCTION)
        u = logarithm(projected_columns(k, w, bias, start, 1.0, M, FINE, True, BIASED, PRECISION), epsilon, FUNCTION)
        gradient = tl.zeros((q.shape[0], FINE), tl.float32)
        for i in range(tl.minimum(FINE, M - start)):
            of_q = tl.sum(tl.where((feature == i)[None, :], s, 0.0), 1) - scales
            of_k = tl.sum(tl.where((feature == i)[:, None], u, 0.0), 0) + size
            terms = tl.exp2(tl.where(seen, of_q[:, None] + of_k[None, :], -float("inf"))) * pairs
            gradient += tl.where((feature == i)[None, :], tl.sum(terms, 1)[:, None], 0.0)
        gradient *= logarithm_slope(p, s, FUNCTION)
        result = product(gradient.to(PRODUCT), w.to(PRODUCT), result, PRECISION)
    return result


@triton.jit(do_not_specialize=["mask_stride", "total", "length", "groups", "sequences"])
def queries_kernel(
    q, k, v, out, grad, weight, bias, mask, norm, drift, boundaries, past, past_ones, past_shift, past_growth,
    grad_q,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row, out_batch, out_head, out_row,
    grad_batch, grad_head, grad_row, grad_q_batch, grad_q_head, grad_q_row, mask_stride,
    total, length, groups, sequences, quadratic, scale, epsilon,
    M: tl.constexpr, d: tl.constexpr, e: tl.constexpr, D: tl.constexpr, E: tl.constexpr, BM: tl.constexpr,
    MP: tl.constexpr, C: tl.constexpr, G: tl.constexpr, LOG: tl.constexpr, FUNCTION: tl.constexpr,
    PROJECTED: tl.constexpr, BIASED: tl.constexpr, MASKED: tl.constexpr, PACKED: tl.constexpr,
    INPUT: tl.constexpr, PRODUCT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid (slots x G / C, H): writes `grad_q` and `drift` of one chunk."""
    chunk, head = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    slot = chunk // (G // C)
    batch, place, left = locate(slot, groups, length, boundaries, sequences, G, PACKED)
    offset = ((chunk - slot * (G // C)) * C).to(tl.int32)
    if left <= offset:
        return
    t = offset + tl.arange(0, C)
    own = place + offset
    k += batch * k_batch + head * k_head + place * k_row
    v += batch * v_batch + head * v_head + place * v_row
    mask += batch * mask_stride + place
    state = (slot * tl.num_programs(1) + head) * MP
    row = (batch * tl.num_programs(1) + head) * total + place
    real = real_keys(mask, left, G, MASKED)
    tile_q = rows(q + batch * q_batch + head * q_head + own * q_row, q_row, t < left, d, C, D).to(INPUT)
    tile_out = rows(out + batch * out_batch + head * out_head + own * out_row, out_row, t < left, e, C, E)
    tile_grad = rows(grad + batch * grad_batch + head * grad_head + own * grad_row, grad_row, t < left, e, C, E)
    drifts = tl.sum(tile_out.to(tl.float32) * tile_grad.to(tl.float32), 1)
    tl.store(drift + row + t, drifts, mask=t < left)
    scales = tl.load(norm + row + t, mask=t < left, other=float("inf") if LOG else 0.0)
    tile_grad = tile_grad.to(PRODUCT)
    tile_k = columns(k, k_row, real, d, G, D).to(INPUT)
    tile_v = columns(v, v_row, real, e, G, E).to(PRODUCT)
    seen = real[None, :] & (tl.arange(0, G)[None, :] <= t[:, None])
    pairs = product(tile_grad, tile_v, None, PRECISION) - drifts[:, None]
    pairs = tl.where(seen, pairs, 0.0).to(PRODUCT)
    result = tl.zeros((C, D), tl.float32)
    outgrown = 0
    if LOG:
        size = size_of(tile_k, real, quadratic, 0)
    for start in range(0, MP, BM):
        i = start + tl.arange(0, BM)
        w = directions(weight, start, INPUT, M, d, BM, D, PROJECTED)
        # in an order that keeps few tiles alive
        p_k = projected_columns(tile_k, w, bias, start, scale, M, BM, PROJECTED, BIASED, PRECISION)
        if LOG:
            r = tl.load(past_shift + state + i)
            u = logarithm(p_k, epsilon, FUNCTION) + (size[None, :] - r[:, None])
            bad = tl.max(tl.load(past_growth + state + i), 0) > LIMIT
            outgrown |= bad.to(tl.int32) << (start // BM)
            features = tl.exp2(tl.where(bad, -float("inf"), u)).to(PRODUCT)
        else:
            features = feature_of(p_k, epsilon, FUNCTION).to(PRODUCT)
        before = tl.load(past + (state + i)[:, None] * E + tl.arange(0, E)[None, :])
        gradient = product(tile_grad, tl.trans(before), None, PRECISION)
        gradient -= drifts[:, None] * tl.load(past_ones + state + i)[None, :]
        gradient = product(pairs, tl.trans(features), gradient, PRECISION)
        p = projected(tile_q, w, bias, start, scale, M, BM, PROJECTED, BIASED, PRECISION)
        if LOG:
            s = logarithm(p, epsilon, FUNCTION)
            shifted = s + (r[None, :] - scales[:, None])
            if M < MP:
                shifted = tl.where((i < M)[None, :], shifted, -float("inf"))
            gradient *= tl.exp2(shifted) * logarithm_slope(p, s, FUNCTION)
        else:
            gradient = feature_slope(gradient * scales[:, None], p, FUNCTION)
        if PROJECTED:
            result = product(gradient.to(PRODUCT), w.to(PRODUCT), result, PRECISION)
        else:
            result += gradient * scale
    if LOG:
        if outgrown != 0:
            for start in range(0, MP, BM):
                if (outgrown >> (start // BM)) & 1 != 0:
                    for at in range(0, tl.minimum(offset + C, left), FINE):
                        key = at + tl.arange(0, FINE)
                        some = real_keys(mask + at, left - at, FINE, MASKED)
                        few_k = columns(k + at * k_row, k_row, some, d, FINE, D).to(INPUT)
                        few_v = columns(v + at * v_row, v_row, some, e, FINE, E).to(PRODUCT)
                        terms = product(tile_grad, few_v, None, PRECISION) - drifts[:, None]
                        result = exact_queries(result, tile_q, few_k, size_of(few_k, some, quadratic, 0), scales, terms,
                                               some[None, :] & (key[None, :] <= t[:, None]), weight, bias, start,
                                               epsilon, M, d, BM, D, FUNCTION, BIASED, PRODUCT, PRECISION)  # fmt: skip
    write_rows(
        grad_q + batch * grad_q_batch + head * grad_q_head + own * grad_q_row, grad_q_row, result, t < left, d, C, D
    )
