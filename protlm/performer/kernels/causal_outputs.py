"""Kernel: outputs of a chunk of queries, from the sums before its group and the keys in the group.

Legend: M features, d head width, e value width, BM, D and E their tile widths, C positions of a chunk, G of a group.

Positive features: the logarithms of keys are relative to r, the shift of the sums before the group, or the first real
key of the group if there is none before. Every query sees what r was taken from, so that no denominator underflows; a
tile of keys that outgrows r by more than LIMIT is done exactly, by a log-sum-exp over features for each pair.
"""

import triton
import triton.language as tl

from protlm.performer.kernels.causal_tiles import (
    LIMIT,
    LOG2E,
    columns,
    locate,
    logarithm,
    pointwise,
    product,
    projected,
    projected_columns,
    real_keys,
    rows,
    write_rows,
)


@triton.jit
def query_features(
    q, weight, bias, past_shift, state, start, n, scale, epsilon, M: tl.constexpr, d: tl.constexpr, BM: tl.constexpr,
    D: tl.constexpr, LOG: tl.constexpr, FUNCTION: tl.constexpr, PROJECTED: tl.constexpr, BIASED: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """(C, BM): features of q (C, D), or for positive ones their logarithms plus r."""
    i = start + tl.arange(0, BM)
    p = projected(q, weight, bias, start, scale, M, d, BM, D, PROJECTED, BIASED, PRECISION)
    if LOG:
        s = logarithm(p, epsilon, FUNCTION) + tl.load(past_shift + state + i)[None, :]
        return tl.where((i < M)[None, :], s, -float("inf"))
    else:
        return tl.where((i < M)[None, :], pointwise(p, epsilon, FUNCTION), 0.0)


@triton.jit
def exact_logarithms(
    q, k, size, weight, bias, scale, epsilon, M: tl.constexpr, d: tl.constexpr, D: tl.constexpr, C: tl.constexpr,
    FUNCTION: tl.constexpr, BIASED: tl.constexpr,
):  # fmt: skip
    """(C, C): base-2 logarithms of the products of features of q (C, D) and k (D, C); `size` (C) are the keys' own."""
    column = tl.arange(0, D)
    x, y = q.to(tl.float32), k.to(tl.float32)
    largest = tl.full((C, C), -float("inf"), tl.float32)
    total = tl.zeros((C, C), tl.float32)
    for i in range(0, M):
        w = tl.load(weight + i * d + column, mask=column < d, other=0.0).to(q.dtype).to(tl.float32)
        of_q, of_k = tl.sum(x * w[None, :], 1), tl.sum(y * w[:, None], 0)
        if BIASED:
            b = tl.load(bias + i).to(tl.float32)
            of_q += b
            of_k += b
        u = logarithm(of_q, epsilon, FUNCTION)[:, None] + (logarithm(of_k, epsilon, FUNCTION) + size)[None, :]
        raised = tl.maximum(largest, u)
        total = total * tl.exp2(largest - raised) + tl.exp2(u - raised)
        largest = raised
    return largest + tl.log2(total)


@triton.jit(do_not_specialize=["mask_stride", "total", "length", "groups", "sequences"])
def outputs_kernel(
    q, k, v, weight, bias, mask, boundaries, past, past_ones, past_shift, out, norm,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row, out_batch, out_head, out_row, mask_stride,
    total, length, groups, sequences, quadratic, scale, epsilon,
    M: tl.constexpr, d: tl.constexpr, e: tl.constexpr, D: tl.constexpr, E: tl.constexpr, BM: tl.constexpr,
    MP: tl.constexpr, C: tl.constexpr, G: tl.constexpr, LOG: tl.constexpr, FUNCTION: tl.constexpr,
    PROJECTED: tl.constexpr, BIASED: tl.constexpr, MASKED: tl.constexpr, PACKED: tl.constexpr,
    INPUT: tl.constexpr, PRODUCT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Grid (slots x G / C, H): writes `out` and `norm` of one chunk."""
    chunk, head = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    slot = chunk // (G // C)
    batch, place, left = locate(slot, groups, length, boundaries, sequences, G, PACKED)
    offset = ((chunk - slot * (G // C)) * C).to(tl.int32)
    if left <= offset:
        return
    here = tl.arange(0, C) < left - offset
    k += batch * k_batch + head * k_head + place * k_row
    v += batch * v_batch + head * v_head + place * v_row
    mask += batch * mask_stride + place
    state = (slot * tl.num_programs(1) + head) * MP
    tile_q = rows(q + batch * q_batch + head * q_head + (place + offset) * q_row, q_row, here, d, C, D).to(INPUT)
    means = tl.zeros((C, E), tl.float32)
    denominator = tl.zeros((C,), tl.float32)
    n = tl.full((C,), -float("inf"), tl.float32)
    for start in tl.static_range(0, MP, BM):
        i = start + tl.arange(0, BM)
        s = query_features(tile_q, weight, bias, past_shift, state, start, n, scale, epsilon, M, d, BM, D, LOG,
                           FUNCTION, PROJECTED, BIASED, PRECISION)  # fmt: skip
        if LOG:
            raised = tl.maximum(n, tl.max(s, 1))
            change = tl.exp2(n - raised)
            means *= change[:, None]
            denominator *= change
            n = raised
            features = tl.exp2(s - n[:, None]).to(PRODUCT)
        else:
            features = s.to(PRODUCT)
        before = tl.load(past + (state + i)[:, None] * E + tl.arange(0, E)[None, :])
        means = product(features, before, means, PRECISION)
        denominator += tl.sum(features.to(tl.float32) * tl.load(past_ones + state + i)[None, :], 1)
    base = n
    for at in range(0, offset + C, C):
        real = real_keys(mask + at, left - at, C, MASKED)
        tile_k = columns(k + at * k_row, k_row, real, d, C, D).to(INPUT)
        tile_v = rows(v + at * v_row, v_row, real, e, C, E).to(PRODUCT)
        seen = real[None, :] & (at + tl.arange(0, C)[None, :] <= offset + tl.arange(0, C)[:, None])
        pairs = tl.zeros((C, C), tl.float32)
        size = tl.zeros((C,), tl.float32)
        growth = -float("inf")
        if LOG:
            wide = tile_k.to(tl.float32)
            size = tl.where(real, tl.sum(wide * wide, 0) * quadratic, -float("inf"))
        for start in tl.static_range(0, MP, BM):
            if MP > BM:
                s = query_features(tile_q, weight, bias, past_shift, state, start, n, scale, epsilon, M, d, BM, D, LOG,
                                   FUNCTION, PROJECTED, BIASED, PRECISION)  # fmt: skip
                if LOG:
                    features = tl.exp2(s - base[:, None]).to(PRODUCT)
                else:
                    features = s.to(PRODUCT)
            p = projected_columns(tile_k, weight, bias, start, scale, M, d, BM, D, PROJECTED, BIASED, PRECISION)
            if LOG:
                r = tl.load(past_shift + state + start + tl.arange(0, BM))
                u = logarithm(p, epsilon, FUNCTION) - r[:, None] + size[None, :]
                growth = tl.maximum(growth, tl.max(tl.max(u, 1), 0))
                of_k = tl.exp2(u).to(PRODUCT)
            else:
                of_k = pointwise(p, epsilon, FUNCTION).to(PRODUCT)
            pairs = product(features, of_k, pairs, PRECISION)
        if LOG:
            if growth > LIMIT:
                exact = exact_logarithms(
                    tile_q, tile_k, size, weight, bias, scale, epsilon, M, d, D, C, FUNCTION, BIASED
                )
                exact = tl.where(seen, exact, -float("inf"))
                raised = tl.maximum(n, tl.max(exact, 1))
                change = tl.exp2(n - raised)
                means *= change[:, None]
                denominator *= change
                n = raised
                pairs = tl.exp2(exact - n[:, None])
            else:
                pairs = pairs * tl.exp2(base - n)[:, None]
        products = tl.where(seen, pairs, 0.0).to(PRODUCT)
        denominator += tl.sum(products.to(tl.float32), 1)
        means = product(products, tile_v, means, PRECISION)
    none = denominator == 0.0
    divisor = tl.where(none, 1.0, denominator)
    out += batch * out_batch + head * out_head + (place + offset) * out_row
    write_rows(out, out_row, means / divisor[:, None], here, e, C, E)
    if LOG:
        scales = tl.where(none, float("inf"), n + tl.log2(divisor))
    else:
        scales = 1.0 / divisor
    row = (batch * tl.num_programs(1) + head) * total + place + offset
    tl.store(norm + row + tl.arange(0, C), scales, mask=here)
