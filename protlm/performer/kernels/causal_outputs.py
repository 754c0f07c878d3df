"""Kernel: outputs of a chunk of queries, from the sums before its group and the keys in the group.

Legend: M features, d head width, e value width, BM, D and E their tile widths, C positions of a chunk, G of a group.

Positive features: the logarithms of keys are relative to r, the shift of the sums before the group, or the first real
key of the group if there is none before. Every query sees what r was taken from, so that no denominator underflows. If
the keys of a group outgrow r by more than LIMIT, its pairs are computed exactly, by a log-sum-exp over features.
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
    projected,
    projected_columns,
    real_keys,
    rows,
    size_of,
    write_rows,
)
from protlm.performer.kernels.maps import feature_of
from protlm.performer.kernels.products import product


@triton.jit
def exact_logarithms(
    q, k, size, weight, bias, epsilon, M: tl.constexpr, d: tl.constexpr, D: tl.constexpr, FUNCTION: tl.constexpr,
    BIASED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """(C, FINE): logarithms of the products of features of q (C, D) and k (D, FINE), with `size` of the keys."""
    largest = tl.full((q.shape[0], FINE), -float("inf"), tl.float32)
    total = tl.zeros((q.shape[0], FINE), tl.float32)
    feature = tl.arange(0, FINE)
    for start in range(0, M, FINE):
        w = directions(weight, start, q.dtype, M, d, FINE, D, True)
        s = logarithm(projected(q, w, bias, start, 1.0, M, FINE, True, BIASED, PRECISION), epsilon, FUNCTION)
        u = logarithm(projected_columns(k, w, bias, start, 1.0, M, FINE, True, BIASED, PRECISION), epsilon, FUNCTION)
        for i in range(tl.minimum(FINE, M - start)):
            of_q = tl.sum(tl.where((feature == i)[None, :], s, 0.0), 1)
            of_k = tl.sum(tl.where((feature == i)[:, None], u, 0.0), 0) + size
            both = of_q[:, None] + of_k[None, :]
            raised = tl.maximum(largest, both)
            total = total * tl.exp2(largest - raised) + tl.exp2(both - raised)
            largest = raised
    return largest + tl.log2(total)


@triton.jit(do_not_specialize=["mask_stride", "total", "length", "groups", "sequences"])
def outputs_kernel(
    q, k, v, weight, bias, mask, boundaries, past, past_ones, past_shift, past_growth, out, norm,
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
    t = offset + tl.arange(0, C)
    own = place + offset
    k += batch * k_batch + head * k_head + place * k_row
    v += batch * v_batch + head * v_head + place * v_row
    mask += batch * mask_stride + place
    state = (slot * tl.num_programs(1) + head) * MP
    real = real_keys(mask, left, G, MASKED)
    tile_q = rows(q + batch * q_batch + head * q_head + own * q_row, q_row, t < left, d, C, D).to(INPUT)
    tile_k = columns(k, k_row, real, d, G, D).to(INPUT)
    means = tl.zeros((C, E), tl.float32)
    pairs = tl.zeros((C, G), tl.float32)
    denominator = tl.zeros((C,), tl.float32)
    n = tl.full((C,), -float("inf"), tl.float32)
    if LOG:
        size = size_of(tile_k, real, quadratic, 0)
        growth = tl.full((BM,), -float("inf"), tl.float32)
    for start in range(0, MP, BM):
        i = start + tl.arange(0, BM)
        w = directions(weight, start, INPUT, M, d, BM, D, PROJECTED)
        # in an order that keeps few tiles alive
        p_k = projected_columns(tile_k, w, bias, start, scale, M, BM, PROJECTED, BIASED, PRECISION)
        if LOG:
            r = tl.load(past_shift + state + i)
            u = logarithm(p_k, epsilon, FUNCTION) + (size[None, :] - r[:, None])
            growth = tl.maximum(growth, tl.load(past_growth + state + i))
            of_k = tl.exp2(u).to(PRODUCT)
        else:
            of_k = feature_of(p_k, epsilon, FUNCTION).to(PRODUCT)
        p = projected(tile_q, w, bias, start, scale, M, BM, PROJECTED, BIASED, PRECISION)
        if LOG:
            s = logarithm(p, epsilon, FUNCTION) + r[None, :]
            if M < MP:
                s = tl.where((i < M)[None, :], s, -float("inf"))
            raised = tl.maximum(n, tl.max(s, 1))
            change = tl.exp2(n - raised)
            means *= change[:, None]
            pairs *= change[:, None]
            denominator *= change
            n = raised
            features = tl.exp2(s - n[:, None]).to(PRODUCT)
        else:
            features = feature_of(p, epsilon, FUNCTION)
            if M < MP:
                features = tl.where((i < M)[None, :], features, 0.0)
            features = features.to(PRODUCT)
        before = tl.load(past + (state + i)[:, None] * E + tl.arange(0, E)[None, :])
        means = product(features, before, means, PRECISION)
        denominator += tl.sum(features.to(tl.float32) * tl.load(past_ones + state + i)[None, :], 1)
        pairs = product(features, of_k, pairs, PRECISION)
    outgrown = False
    if LOG:
        outgrown = tl.max(growth, 0) > LIMIT
    if outgrown:
        for at in range(0, tl.minimum(offset + C, left), FINE):
            key = at + tl.arange(0, FINE)
            some = real_keys(mask + at, left - at, FINE, MASKED)
            few_k = columns(k + at * k_row, k_row, some, d, FINE, D).to(INPUT)
            few_v = rows(v + at * v_row, v_row, some, e, FINE, E).to(PRODUCT)
            exact = exact_logarithms(tile_q, few_k, size_of(few_k, some, quadratic, 0), weight, bias, epsilon, M, d, D,
                                     FUNCTION, BIASED, PRECISION)  # fmt: skip
            exact = tl.where(some[None, :] & (key[None, :] <= t[:, None]), exact, -float("inf"))
            raised = tl.maximum(n, tl.max(exact, 1))
            change = tl.exp2(n - raised)
            n = raised
            products = tl.exp2(exact - n[:, None]).to(PRODUCT)
            denominator = denominator * change + tl.sum(products.to(tl.float32), 1)
            means = product(products, few_v, means * change[:, None], PRECISION)
    else:
        real = real_keys(mask, left, G, MASKED)  # once more, since what is kept until here takes registers
        seen = real[None, :] & (tl.arange(0, G)[None, :] <= t[:, None])
        tile_v = rows(v, v_row, real, e, G, E).to(PRODUCT)
        products = tl.where(seen, pairs, 0.0).to(PRODUCT)
        denominator += tl.sum(products.to(tl.float32), 1)
        means = product(products, tile_v, means, PRECISION)
    none = denominator == 0.0
    divisor = tl.where(none, 1.0, denominator)
    out += batch * out_batch + head * out_head + own * out_row
    write_rows(out, out_row, means / divisor[:, None], t < left, e, C, E)
    scales = tl.where(none, float("inf"), n + tl.log2(divisor)) if LOG else 1.0 / divisor
    tl.store(norm + (batch * tl.num_programs(1) + head) * total + place + t, scales, mask=t < left)
