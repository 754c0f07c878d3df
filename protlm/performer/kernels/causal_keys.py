"""Kernel: the gradients of a chunk of keys and values, from the sums after its group and the queries in the group.

Legend: M features, d head width, e value width, BM, D and E their tile widths, C positions of a chunk, G of a group.

With x_t the features of a query over its denominator and y those of a key, the gradient of v is sum_t (x_t.y) g_t, and
that of y is sum_t x_t (g_t.v - drift_t). Sums over the queries after the group are relative to a shift of their own:
the logarithm of the largest x_t, to which no key is larger than 1.
"""

import triton
import triton.language as tl

from protlm.performer.kernels.causal_tiles import (
    LIMIT,
    LOG2E,
    directions,
    locate,
    logarithm,
    logarithm_slope,
    pointwise,
    pointwise_slope,
    product,
    projected,
    real_keys,
    rows,
    write_rows,
)


@triton.jit
def near_terms(features, of_q, pairs, seen, grad, gradient, result_v, PRODUCT: tl.constexpr, PRECISION: tl.constexpr):
    """Adds the terms of queries in the group to the gradients of features (C, BM) and values (C, E).

    Args:
        features, of_q: (C, BM), of keys and of queries.
        pairs: (C, C), g.v - drift of keys and queries; seen: which of them count.
        grad: (C, E), the gradient of the outputs.
    """
    products = tl.where(seen, product(features.to(PRODUCT), tl.trans(of_q), None, PRECISION), 0.0)
    result_v = product(products.to(PRODUCT), grad, result_v, PRECISION)
    gradient = product(tl.where(seen, pairs, 0.0).to(PRODUCT), of_q, gradient, PRECISION)
    return gradient, result_v


@triton.jit
def exact_keys(
    result, of_size, q, k, size, scales, pairs, seen, weight, bias, start, epsilon, M: tl.constexpr, d: tl.constexpr,
    BM: tl.constexpr, D: tl.constexpr, FUNCTION: tl.constexpr, BIASED: tl.constexpr,
):  # fmt: skip
    """Adds to `result` (C, D) and `of_size` (C) the gradients of keys k (C, D) and of the logarithms of their factors.

    Args:
        size: (C), these logarithms.
        q: (C, D), scales: (C), the logarithms of the queries' denominators.
        pairs: (C, C), g.v - drift of keys and queries.

    Returns:
        These two, and the weights (C, C) of keys and queries by the features `start` to start + BM.
    """
    column = tl.arange(0, D)
    wide_q, wide_k = q.to(tl.float32), k.to(tl.float32)
    weights = tl.zeros(pairs.shape, tl.float32)
    for i in range(start, tl.minimum(start + BM, M)):
        w = tl.load(weight + i * d + column, mask=column < d, other=0.0).to(q.dtype).to(tl.float32)
        p_q, p_k = tl.sum(wide_q * w[None, :], 1), tl.sum(wide_k * w[None, :], 1)
        if BIASED:
            b = tl.load(bias + i).to(tl.float32)
            p_q += b
            p_k += b
        u = logarithm(p_k, epsilon, FUNCTION)
        both = (u + size)[:, None] + (logarithm(p_q, epsilon, FUNCTION) - scales)[None, :]
        terms = tl.exp2(tl.where(seen, both, -float("inf")))
        weights += terms
        of_k = tl.sum(terms * pairs, 1)
        of_size += of_k
        result += (of_k * logarithm_slope(p_k, u, FUNCTION))[:, None] * w[None, :]
    return result, of_size, weights


@triton.jit(do_not_specialize=["mask_stride", "total", "length", "groups", "sequences"])
def keys_kernel(
    q, k, v, grad, weight, bias, mask, norm, drift, boundaries, past_shift, after, after_ones, after_shift,
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
    t = tl.arange(0, C)
    q += batch * q_batch + head * q_head + place * q_row
    grad += batch * grad_batch + head * grad_head + place * grad_row
    state = (slot * tl.num_programs(1) + head) * MP
    row = (batch * tl.num_programs(1) + head) * total + place
    own = place + offset
    here = t < left - offset
    real = real_keys(mask + batch * mask_stride + own, left - offset, C, MASKED)
    tile_k = rows(k + batch * k_batch + head * k_head + own * k_row, k_row, real, d, C, D).to(INPUT)
    tile_v = rows(v + batch * v_batch + head * v_head + own * v_row, v_row, real, e, C, E).to(PRODUCT)
    result_k = tl.zeros((C, D), tl.float32)
    result_v = tl.zeros((C, E), tl.float32)
    of_size = tl.zeros((C,), tl.float32)
    wide = tile_k.to(tl.float32)
    size = tl.where(real, tl.sum(wide * wide, 1) * quadratic, -float("inf"))
    for start in tl.static_range(0, MP, BM):
        i = start + tl.arange(0, BM)
        p = projected(tile_k, weight, bias, start, scale, M, d, BM, D, PROJECTED, BIASED, PRECISION)
        sums = tl.load(after + (state + i)[:, None] * E + tl.arange(0, E)[None, :])
        gradient = product(tile_v, tl.trans(sums), None, PRECISION) + tl.load(after_ones + state + i)[None, :]
        if LOG:
            u = logarithm(p, epsilon, FUNCTION)
            far = tl.exp2(u + size[:, None] + tl.load(after_shift + state + i)[None, :])
            gradient *= far
            result_v = product(far.to(PRODUCT), sums, result_v, PRECISION)
            r = tl.load(past_shift + state + i)
            near = u - r[None, :] + size[:, None]
            outgrown = tl.max(tl.max(near, 1), 0) > LIMIT
            features = tl.exp2(tl.minimum(near, LIMIT))
            gradient_near = tl.zeros((C, BM), tl.float32)
        else:
            features = tl.where(real[:, None], pointwise(p, epsilon, FUNCTION), 0.0)
            result_v = product(features.to(PRODUCT), sums, result_v, PRECISION)
        for at in range(offset, tl.minimum(left, G), C):
            inside = t < left - at
            tile_q = rows(q + at * q_row, q_row, inside, d, C, D).to(INPUT)
            tile_grad = rows(grad + at * grad_row, grad_row, inside, e, C, E).to(PRODUCT)
            scales = tl.load(norm + row + at + t, mask=inside, other=float("inf") if LOG else 0.0)
            drifts = tl.load(drift + row + at + t, mask=inside, other=0.0)
            seen = real[:, None] & (offset + t[:, None] <= at + t[None, :])
            pairs = product(tile_v, tl.trans(tile_grad), None, PRECISION) - drifts[None, :]
            if LOG:
                if outgrown:
                    result_k, of_size, weights = exact_keys(
                        result_k, of_size, tile_q, tile_k, size, scales, pairs, seen, weight, bias, start, epsilon,
                        M, d, BM, D, FUNCTION, BIASED)  # fmt: skip
                    result_v = product(weights.to(PRODUCT), tile_grad, result_v, PRECISION)
                else:
                    p_q = projected(tile_q, weight, bias, start, scale, M, d, BM, D, PROJECTED, BIASED, PRECISION)
                    s = logarithm(p_q, epsilon, FUNCTION) + r[None, :] - scales[:, None]
                    of_q = tl.exp2(tl.where((i < M)[None, :], s, -float("inf"))).to(PRODUCT)
                    gradient_near, result_v = near_terms(features, of_q, pairs, seen, tile_grad, gradient_near,
                                                         result_v, PRODUCT, PRECISION)  # fmt: skip
            else:
                p_q = projected(tile_q, weight, bias, start, scale, M, d, BM, D, PROJECTED, BIASED, PRECISION)
                of_q = pointwise(p_q, epsilon, FUNCTION) * scales[:, None]
                of_q = tl.where((i < M)[None, :], of_q, 0.0).to(PRODUCT)
                gradient, result_v = near_terms(features, of_q, pairs, seen, tile_grad, gradient, result_v, PRODUCT,
                                                PRECISION)  # fmt: skip
        if LOG:
            gradient += gradient_near * features
            of_size += tl.sum(gradient, 1)
            gradient *= logarithm_slope(p, u, FUNCTION)
        else:
            gradient *= pointwise_slope(p, FUNCTION)
        if PROJECTED:
            w = directions(weight, start, M, d, BM, D).to(PRODUCT)
            result_k = product(gradient.to(PRODUCT), w, result_k, PRECISION)
        else:
            result_k += gradient * scale
    if LOG:
        # the factor of a key is 2^(quadratic |k|^2)
        result_k += (of_size * (2 * quadratic / LOG2E))[:, None] * wide
    result_k = tl.where(real[:, None], result_k, 0.0)
    write_rows(
        grad_k + batch * grad_k_batch + head * grad_k_head + own * grad_k_row, grad_k_row, result_k, here, d, C, D
    )
    write_rows(
        grad_v + batch * grad_v_batch + head * grad_v_head + own * grad_v_row, grad_v_row, result_v, here, e, C, E
    )
