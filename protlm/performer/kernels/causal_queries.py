"""Kernel: the gradient of a chunk of queries, from the sums before its group and the keys in the group.

Legend: M features, d head width, e value width, BM, D and E their tile widths, C positions of a chunk, G of a group.

With x the features of a query and y those of a key, out = sum_j (x.y_j) v_j / denominator, so that the gradient of x is
sum_j y_j (g.v_j - drift) / denominator, where g is the gradient of `out` and drift = g.out.
"""

import triton
import triton.language as tl

from protlm.performer.kernels.causal_tiles import (
    LIMIT,
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
def exact_queries(
    result, q, k, size, scales, pairs, seen, weight, bias, start, epsilon, M: tl.constexpr, d: tl.constexpr,
    BM: tl.constexpr, D: tl.constexpr, FUNCTION: tl.constexpr, BIASED: tl.constexpr,
):  # fmt: skip
    """Adds to `result` (C, D) the gradient of queries q (C, D) by the features `start` to start + BM.

    Args:
        k: (C, D), size: (C), the logarithms of the keys' own factors.
        scales: (C), the logarithms of the queries' denominators.
        pairs: (C, C), g.v - drift.
    """
    column = tl.arange(0, D)
    wide_q, wide_k = q.to(tl.float32), k.to(tl.float32)
    for i in range(start, tl.minimum(start + BM, M)):
        w = tl.load(weight + i * d + column, mask=column < d, other=0.0).to(q.dtype).to(tl.float32)
        p_q, p_k = tl.sum(wide_q * w[None, :], 1), tl.sum(wide_k * w[None, :], 1)
        if BIASED:
            b = tl.load(bias + i).to(tl.float32)
            p_q += b
            p_k += b
        s = logarithm(p_q, epsilon, FUNCTION)
        both = (s - scales)[:, None] + (logarithm(p_k, epsilon, FUNCTION) + size)[None, :]
        terms = tl.exp2(tl.where(seen, both, -float("inf"))) * pairs
        result += (tl.sum(terms, 1) * logarithm_slope(p_q, s, FUNCTION))[:, None] * w[None, :]
    return result


@triton.jit(do_not_specialize=["mask_stride", "total", "length", "groups", "sequences"])
def queries_kernel(
    q, k, v, out, grad, weight, bias, mask, norm, drift, boundaries, past, past_ones, past_shift, grad_q,
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
    t = tl.arange(0, C)
    here = t < left - offset
    k += batch * k_batch + head * k_head + place * k_row
    v += batch * v_batch + head * v_head + place * v_row
    mask += batch * mask_stride + place
    state = (slot * tl.num_programs(1) + head) * MP
    row = (batch * tl.num_programs(1) + head) * total + place + offset
    own = place + offset
    tile_q = rows(q + batch * q_batch + head * q_head + own * q_row, q_row, here, d, C, D).to(INPUT)
    tile_out = rows(out + batch * out_batch + head * out_head + own * out_row, out_row, here, e, C, E)
    tile_grad = rows(grad + batch * grad_batch + head * grad_head + own * grad_row, grad_row, here, e, C, E)
    drifts = tl.sum(tile_out.to(tl.float32) * tile_grad.to(tl.float32), 1)
    tl.store(drift + row + t, drifts, mask=here)
    scales = tl.load(norm + row + t, mask=here, other=float("inf") if LOG else 0.0)
    tile_grad = tile_grad.to(PRODUCT)
    result = tl.zeros((C, D), tl.float32)
    for start in tl.static_range(0, MP, BM):
        i = start + tl.arange(0, BM)
        p = projected(tile_q, weight, bias, start, scale, M, d, BM, D, PROJECTED, BIASED, PRECISION)
        before = tl.load(past + (state + i)[:, None] * E + tl.arange(0, E)[None, :])
        gradient = product(tile_grad, tl.trans(before), None, PRECISION)
        gradient -= drifts[:, None] * tl.load(past_ones + state + i)[None, :]
        if LOG:
            r = tl.load(past_shift + state + i)
        for at in range(0, offset + C, C):
            real = real_keys(mask + at, left - at, C, MASKED)
            tile_k = rows(k + at * k_row, k_row, real, d, C, D).to(INPUT)
            tile_v = rows(v + at * v_row, v_row, real, e, C, E).to(PRODUCT)
            seen = real[None, :] & (at + t[None, :] <= offset + t[:, None])
            pairs = product(tile_grad, tl.trans(tile_v), None, PRECISION) - drifts[:, None]
            pairs = tl.where(seen, pairs, 0.0)
            p_k = projected(tile_k, weight, bias, start, scale, M, d, BM, D, PROJECTED, BIASED, PRECISION)
            if LOG:
                wide = tile_k.to(tl.float32)
                size = tl.where(real, tl.sum(wide * wide, 1) * quadratic, -float("inf"))
                u = logarithm(p_k, epsilon, FUNCTION) - r[None, :] + size[:, None]
                if tl.max(tl.max(u, 1), 0) > LIMIT:
                    result = exact_queries(result, tile_q, tile_k, size, scales, pairs, seen, weight, bias, start,
                                           epsilon, M, d, BM, D, FUNCTION, BIASED)  # fmt: skip
                else:
                    gradient = product(pairs.to(PRODUCT), tl.exp2(u).to(PRODUCT), gradient, PRECISION)
            else:
                features = pointwise(p_k, epsilon, FUNCTION).to(PRODUCT)
                gradient = product(pairs.to(PRODUCT), features, gradient, PRECISION)
        if LOG:
            s = logarithm(p, epsilon, FUNCTION)
            shifted = tl.where((i < M)[None, :], s + r[None, :], -float("inf")) - scales[:, None]
            gradient *= tl.exp2(shifted) * logarithm_slope(p, s, FUNCTION)
        else:
            gradient *= scales[:, None] * pointwise_slope(p, FUNCTION)
        if PROJECTED:
            w = directions(weight, start, M, d, BM, D).to(PRODUCT)
            result = product(gradient.to(PRODUCT), w, result, PRECISION)
        else:
            result += gradient * scale
    write_rows(grad_q + batch * grad_q_batch + head * grad_q_head + own * grad_q_row, grad_q_row, result, here, d, C, D)
