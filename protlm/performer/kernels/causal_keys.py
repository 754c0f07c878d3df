"""Kernel: the gradients of a chunk of keys and values, from the sums after its group and the queries in the group.

Legend: M features, d head width, e value width, BM, D and E their tile widths, C positions of a chunk, G of a group.

With x_t the features of a query over its denominator and y those of a key, the gradient of v is sum_t (x_t.y) g_t, and
that of y is sum_t x_t (g_t.v - drift_t). Positive features are relative to r, see causal_outputs.py; in tiles whose
keys outgrow it, only the queries after the group count, relative to another shift; the others are done at the end.
"""

import triton
import triton.language as tl

from protlm.performer.kernels.causal_tiles import (
    FINE,
    LIMIT,
    LOG2E,
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
def exact_keys(
    result, of_size, q, k, size, scales, pairs, seen, weight, bias, first, epsilon, M: tl.constexpr, d: tl.constexpr,
    BM: tl.constexpr, D: tl.constexpr, FUNCTION: tl.constexpr, BIASED: tl.constexpr, PRODUCT: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Adds the gradients by the features `first` to first + BM and FINE queries.

    Args:
        result: (C, D), the gradient of keys k (C, D).
        of_size: (C), that of the natural logarithms of their factors; size: (C), these to base 2.
        q: (D, FINE), scales: (FINE), the logarithms of the queries' denominators.
        pairs: (C, FINE), g.v - drift; seen: which of them count.

    Returns:
        The two, and the weights (C, FINE) by these features.
    """
    feature = tl.arange(0, FINE)
    weights = tl.zeros(pairs.shape, tl.float32)
    for start in range(first, tl.minimum(first + BM, M), FINE):
        w = directions(weight, start, k.dtype, M, d, FINE, D, True)
        p = projected(k, w, bias, start, 1.0, M, FINE, True, BIASED, PRECISION)
        u = logarithm(p, epsilon, FUNCTION)
        s = logarithm(projected_columns(q, w, bias, start, 1.0, M, FINE, True, BIASED, PRECISION), epsilon, FUNCTION)
        gradient = tl.zeros((k.shape[0], FINE), tl.float32)
        for i in range(tl.minimum(FINE, M - start)):
            of_k = tl.sum(tl.where((feature == i)[None, :], u, 0.0), 1) + size
            of_q = tl.sum(tl.where((feature == i)[:, None], s, 0.0), 0) - scales
            terms = tl.exp2(tl.where(seen, of_k[:, None] + of_q[None, :], -float("inf")))
            weights += terms
            gradient += tl.where((feature == i)[None, :], tl.sum(terms * pairs, 1)[:, None], 0.0)
        of_size += tl.sum(gradient, 1)
        gradient *= logarithm_slope(p, u, FUNCTION)
        result = product(gradient.to(PRODUCT), w.to(PRODUCT), result, PRECISION)
    return result, of_size, weights


@triton.jit(do_not_specialize=["mask_stride", "total", "length", "groups", "sequences"])
def keys_kernel(
    q, k, v, grad, weight, bias, mask, norm, drift, boundaries, shift_of, past_growth, after, after_ones,
    grad_k, grad_v,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row, grad_batch, grad_head, grad_row,
    grad_k_batch, grad_k_head, grad_k_row, grad_v_batch, grad_v_head, grad_v_row, mask_stride,
    total, length, groups, sequences, quadratic, scale, epsilon,
    M: tl.constexpr, d: tl.constexpr, e: tl.constexpr, D: tl.constexpr, E: tl.constexpr, BM: tl.constexpr,
    MP: tl.constexpr, C: tl.constexpr, G: tl.constexpr, LOG: tl.constexpr, FUNCTION: tl.constexpr,
    PROJECTED: tl.constexpr, BIASED: tl.constexpr, MASKED: tl.constexpr, PACKED: tl.constexpr,
    INPUT: tl.constexpr, PRODUCT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid (slots x G / C, H): writes `grad_k` and `grad_v` of one chunk, 0 where keys are masked."""
    chunk, head = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    slot = chunk // (G // C)
    batch, place, left = locate(slot, groups, length, boundaries, sequences, G, PACKED)
    offset = ((chunk - slot * (G // C)) * C).to(tl.int32)
    if left <= offset:
        return
    j = offset + tl.arange(0, C)
    t = tl.arange(0, G)
    own = place + offset
    q += batch * q_batch + head * q_head + place * q_row
    grad += batch * grad_batch + head * grad_head + place * grad_row
    state = (slot * tl.num_programs(1) + head) * MP
    row = (batch * tl.num_programs(1) + head) * total + place
    real = real_keys(mask + batch * mask_stride + own, left - offset, C, MASKED)
    tile_k = rows(k + batch * k_batch + head * k_head + own * k_row, k_row, real, d, C, D).to(INPUT)
    tile_v = rows(v + batch * v_batch + head * v_head + own * v_row, v_row, real, e, C, E).to(PRODUCT)
    # queries of the group before this chunk do not see it
    inside = (t < left) & (t >= offset)
    tile_q = columns(q, q_row, inside, d, G, D).to(INPUT)
    tile_grad = rows(grad, grad_row, inside, e, G, E).to(PRODUCT)
    scales = tl.load(norm + row + t, mask=inside, other=float("inf") if LOG else 0.0)
    drifts = tl.load(drift + row + t, mask=inside, other=0.0)
    seen = j[:, None] <= t[None, :]  # what is not real is 0
    pairs = product(tile_v, tl.trans(tile_grad), None, PRECISION) - drifts[None, :]
    pairs = tl.where(seen, pairs, 0.0).to(PRODUCT)
    result_k = tl.zeros((C, D), tl.float32)
    result_v = tl.zeros((C, E), tl.float32)
    outgrown = 0
    if LOG:
        of_size = tl.zeros((C,), tl.float32)
        size = size_of(tile_k, real, quadratic, 1)
    for start in range(0, MP, BM):
        i = start + tl.arange(0, BM)
        w = directions(weight, start, INPUT, M, d, BM, D, PROJECTED)
        # in an order that keeps few tiles alive
        p_q = projected_columns(tile_q, w, bias, start, scale, M, BM, PROJECTED, BIASED, PRECISION)
        if LOG:
            shift = tl.load(shift_of + state + i)
            bad = tl.max(tl.load(past_growth + state + i), 0) > LIMIT
            outgrown |= bad.to(tl.int32) << (start // BM)
            of_q = tl.exp2(
                tl.where(bad, -float("inf"), logarithm(p_q, epsilon, FUNCTION) - (shift[:, None] + scales[None, :]))
            )
        else:
            of_q = feature_of(p_q, epsilon, FUNCTION) * scales[None, :]
        if M < MP:
            of_q = tl.where((i < M)[:, None], of_q, 0.0)
        of_q = of_q.to(PRODUCT)
        p = projected(tile_k, w, bias, start, scale, M, BM, PROJECTED, BIASED, PRECISION)
        if LOG:
            u = logarithm(p, epsilon, FUNCTION)
            features = tl.exp2(u + (size[:, None] + shift[None, :])).to(PRODUCT)
        else:
            features = tl.where(real[:, None], feature_of(p, epsilon, FUNCTION), 0.0).to(PRODUCT)
        sums = tl.load(after + (state + i)[:, None] * E + tl.arange(0, E)[None, :])
        result_v = product(features, sums, result_v, PRECISION)
        products = tl.where(seen, product(features, of_q, None, PRECISION), 0.0).to(PRODUCT)
        result_v = product(products, tile_grad, result_v, PRECISION)
        gradient = product(tile_v, tl.trans(sums), None, PRECISION) + tl.load(after_ones + state + i)[None, :]
        gradient = product(pairs, tl.trans(of_q), gradient, PRECISION)
        if LOG:
            gradient *= features.to(tl.float32)
            of_size += tl.sum(gradient, 1)
            gradient *= logarithm_slope(p, u, FUNCTION)
        else:
            gradient = feature_slope(gradient, p, FUNCTION)
        if PROJECTED:
            result_k = product(gradient.to(PRODUCT), w.to(PRODUCT), result_k, PRECISION)
        else:
            result_k += gradient * scale
    if LOG:
        if outgrown != 0:
            for start in range(0, MP, BM):
                if (outgrown >> (start // BM)) & 1 != 0:
                    for at in range(offset, tl.minimum(left, G), FINE):
                        query = at + tl.arange(0, FINE)
                        few_q = columns(q + at * q_row, q_row, query < left, d, FINE, D).to(INPUT)
                        few_grad = rows(grad + at * grad_row, grad_row, query < left, e, FINE, E).to(PRODUCT)
                        few_scales = tl.load(norm + row + query, mask=query < left, other=float("inf"))
                        terms = product(tile_v, tl.trans(few_grad), None, PRECISION)
                        terms -= tl.load(drift + row + query, mask=query < left, other=0.0)[None, :]
                        result_k, of_size, weights = exact_keys(
                            result_k, of_size, few_q, tile_k, size, few_scales, terms,
                            real[:, None] & (j[:, None] <= query[None, :]), weight, bias, start, epsilon, M, d, BM, D,
                            FUNCTION, BIASED, PRODUCT, PRECISION)  # fmt: skip
                        result_v = product(weights.to(PRODUCT), few_grad, result_v, PRECISION)
        # the factor of a key is 2^(quadratic |k|^2)
        result_k += (of_size * (2 * quadratic / LOG2E))[:, None] * tile_k.to(tl.float32)
    result_k = tl.where(real[:, None], result_k, 0.0)
    grad_k += batch * grad_k_batch + head * grad_k_head + own * grad_k_row
    grad_v += batch * grad_v_batch + head * grad_v_head + own * grad_v_row
    write_rows(grad_k, grad_k_row, result_k, j < left, d, C, D)
    write_rows(grad_v, grad_v_row, result_v, j < left, e, C, E)
