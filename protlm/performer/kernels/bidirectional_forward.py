"""Kernels of bidirectional attention, forward.

Legend: S sequences, H heads, L length, d head width, e value width, M features, n = S x H.

With LOG (positive features, as logarithms to base 2), keys y, queries x and directions w, these are two softmaxes,

    m_i = log sum_j exp(w_i.y_j + c |y_j|^2 / 2),   g_i = sum_j exp(w_i.y_j + c |y_j|^2 / 2 - m_i) v_j,
    out_t = sum_i exp(w_i.x_t + 2 b_i + m_i - norm_t) g_i,

(b once for the query and once for the key); otherwise g and m are the means over positions of feature times value and
of the feature, and out_t = sum_i phi_ti g_i / sum_i phi_ti m_i. Here "sums" is g and "logs" is m.
"""

import triton
import triton.language as tl

from protlm.performer.kernels.maps import directions, feature_of, logarithm, scaled_directions
from protlm.performer.kernels.products import product
from protlm.performer.kernels.tiles import (
    load_features,
    load_rows,
    load_vector,
    locate,
    real_count,
    real_rows,
    sequence,
    span,
    store_features,
    store_rows,
    store_vector,
    total,
)

LENGTHS = ["length", "heads", "parts", "centre_parts"]
"""Arguments that must not cause a compilation when they change, as strides must not."""


def strides(*names: str) -> list[str]:
    """Names of the three strides of each tensor."""
    return [f"{name}_{axis}" for name in names for axis in ("batch", "head", "row")]


@triton.jit(do_not_specialize=[*LENGTHS, "mask_batch", *strides("q", "k")])
def sum_rows(
    q, k, mask, cu_seqlens, centre,
    length, heads, parts, mask_batch, q_batch, q_head, q_row, k_batch, k_head, k_row,
    ALIGN: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Partial sums (n, parts, d + 1) of q + k over the real positions, and how many these are. Grid (n, parts)."""
    index, part = tl.program_id(0), tl.program_id(1)
    batch, first, count = sequence(cu_seqlens, index // heads, length)
    q = locate(q, batch, index % heads, first, q_batch, q_head, q_row, ALIGN)
    k = locate(k, batch, index % heads, first, k_batch, k_head, k_row, ALIGN)
    if mask is not None:
        mask += batch * mask_batch + first
    low, high = span(count, part, parts, BLOCK_N)
    sums = tl.zeros((BLOCK_N, DP), tl.float32)
    positions = tl.zeros((BLOCK_N,), tl.float32)
    for row in range(low, high, BLOCK_N):
        real = real_rows(mask, row, high, BLOCK_N)
        x = load_rows(q, q_row, row, real, D, DP, BLOCK_N, ALIGN)
        y = load_rows(k, k_row, row, real, D, DP, BLOCK_N, ALIGN)
        sums += x.to(tl.float32) + y.to(tl.float32)
        positions += real.to(tl.float32)
    centre += (index.to(tl.int64) * parts + part) * (D + 1)
    columns = tl.arange(0, DP)
    tl.store(centre + columns, tl.sum(sums, 0), mask=columns < D)
    tl.store(centre + D, tl.sum(positions, 0))


@triton.jit
def centred(x, real, mean, centre, QUADRATIC: tl.constexpr, LOG: tl.constexpr, DOT: tl.constexpr):
    """Keys less their centre, and the logarithms of their weights, -inf where not real; or their weights, 0 or 1."""
    if centre is not None:
        x = x.to(tl.float32) - mean[None, :]
    x = x.to(DOT)
    if LOG:
        if QUADRATIC == 0:
            weights = tl.where(real, 0.0, float("-inf"))
        else:
            wide = x.to(tl.float32)
            weights = tl.where(real, tl.sum(wide * wide, 1) * (QUADRATIC * 1.4426950408889634), float("-inf"))
    else:
        weights = tl.where(real, 1.0, 0.0)
    return x, weights


@triton.jit(do_not_specialize=[*LENGTHS, "mask_batch", *strides("k", "v")])
def sum_keys(
    k, v, mask, cu_seqlens, weight, rounded, centre, sums, logs,
    length, heads, parts, centre_parts, mask_batch, k_batch, k_head, k_row, v_batch, v_head, v_row,
    MAP: tl.constexpr, LOG: tl.constexpr, EPSILON: tl.constexpr, SCALE: tl.constexpr, QUADRATIC: tl.constexpr,
    ALIGN: tl.constexpr, M: tl.constexpr, D: tl.constexpr, E: tl.constexpr, DP: tl.constexpr, EP: tl.constexpr,
    PARTS: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """g (n, parts, M, e) and m (n, parts, M) of each part of each sequence. Grid (n x blocks of features, parts).

    The directions that other kernels load, `rounded` (M, d), are those of the products: scaled, and times log2(e) for
    logarithms.
    """
    BLOCKS: tl.constexpr = (M + BLOCK_M - 1) // BLOCK_M
    index, part = tl.program_id(0) // BLOCKS, tl.program_id(1)
    feature = tl.program_id(0) % BLOCKS * BLOCK_M
    batch, first, count = sequence(cu_seqlens, index // heads, length)
    k = locate(k, batch, index % heads, first, k_batch, k_head, k_row, ALIGN)
    v = locate(v, batch, index % heads, first, v_batch, v_head, v_row, ALIGN)
    if mask is not None:
        mask += batch * mask_batch + first
    low, high = span(count, part, parts, BLOCK_N)
    w = scaled_directions(weight, feature, SCALE, M, D, DP, BLOCK_M, DOT, LOG)
    if rounded is not None:
        if (index == 0) & (part == 0):
            store_features(rounded, w, index, feature, M, D, DP, BLOCK_M)
    mean = tl.zeros((DP,), tl.float32)
    if centre is not None:
        mean = total(centre, index, centre_parts, D + 1, D, DP, PARTS) / real_count(
            centre, index, centre_parts, D, PARTS
        )
    result = tl.zeros((BLOCK_M, EP), tl.float32)
    ones = tl.zeros((BLOCK_M,), tl.float32)
    top = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    for row in range(low, high, BLOCK_N):
        real = real_rows(mask, row, high, BLOCK_N)
        x = load_rows(k, k_row, row, real, D, DP, BLOCK_N, ALIGN)
        values = load_rows(v, v_row, row, real, E, EP, BLOCK_N, ALIGN).to(DOT)
        y, weights = centred(x, real, mean, centre, QUADRATIC, LOG, DOT)
        p = product(w, tl.trans(y), None, PRECISION)
        if weight is None:
            p *= SCALE
        if LOG:
            u = logarithm(p, MAP, EPSILON) + weights[None, :]
            higher = tl.maximum(top, tl.max(u, 1))
            shift = tl.where(higher == float("-inf"), 0.0, higher)  # no real key so far
            phi = tl.exp2(u - shift[:, None])
            decay = tl.exp2(top - shift)
            ones = ones * decay + tl.sum(phi, 1)
            result = result * decay[:, None]
            top = higher
        else:
            phi = feature_of(p, EPSILON, MAP)
            ones += tl.sum(phi * weights[None, :], 1)
        result = product(phi.to(DOT), values, result, PRECISION)
    if LOG:
        divisor = tl.where(ones == 0, 1.0, ones)
        result = result / divisor[:, None]
        ones = tl.where(ones == 0, float("-inf"), top + tl.log2(divisor))
    else:
        share = 1.0 / tl.maximum(count, 1).to(tl.float32)
        result *= share
        ones *= share
    slot = index.to(tl.int64) * parts + part
    store_features(sums, result, slot, feature, M, E, EP, BLOCK_M)
    store_vector(logs, ones, slot, feature, M, BLOCK_M)


@triton.jit(do_not_specialize=["parts"])
def join(
    partial_sums, partial_logs, sums, logs, parts,
    LOG: tl.constexpr, M: tl.constexpr, E: tl.constexpr, EP: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """Adds parts: (n, M, e) and (n, M) from (n, parts, M, e) and (n, parts, M). Grid (n, blocks of features)."""
    index, feature = tl.program_id(0), tl.program_id(1) * BLOCK_M
    result = tl.zeros((BLOCK_M, EP), tl.float32)
    ones = tl.zeros((BLOCK_M,), tl.float32)
    top = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    for part in range(parts):
        slot = index.to(tl.int64) * parts + part
        some = load_features(partial_sums, slot, feature, M, E, EP, BLOCK_M, tl.float32)
        if LOG:
            u = load_vector(partial_logs, slot, feature, float("-inf"), M, BLOCK_M)
            higher = tl.maximum(top, u)
            shift = tl.where(higher == float("-inf"), 0.0, higher)
            decay, share = tl.exp2(top - shift), tl.exp2(u - shift)
            ones = ones * decay + share
            result = result * decay[:, None] + some * share[:, None]
            top = higher
        else:
            ones += load_vector(partial_logs, slot, feature, 0.0, M, BLOCK_M)
            result += some
    if LOG:
        divisor = tl.where(ones == 0, 1.0, ones)
        result = result / divisor[:, None]
        ones = tl.where(ones == 0, float("-inf"), top + tl.log2(divisor))
    store_features(sums, result, index, feature, M, E, EP, BLOCK_M)
    store_vector(logs, ones, index, feature, M, BLOCK_M)


@triton.jit
def shifts(logs, bias, index, feature, LOG: tl.constexpr, M: tl.constexpr, BLOCK: tl.constexpr):
    """(BLOCK) what is added to the logarithms of a query's features, -inf beyond M; or m, 0 beyond."""
    if LOG:
        shift = load_vector(logs, index, feature, float("-inf"), M, BLOCK)
        if bias is not None:
            shift += 2.0 * 1.4426950408889634 * load_vector(bias, index * 0, feature, 0.0, M, BLOCK)
        return shift
    else:
        return load_vector(logs, index, feature, 0.0, M, BLOCK)


@triton.jit
def attend_features(
    x, w, means, shift, result, ones, top, rounded,
    MAP: tl.constexpr, LOG: tl.constexpr, EPSILON: tl.constexpr, SCALE: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Adds a block of features to the results (T, e), denominators (T) and largest logarithms (T) of queries (T, d)."""
    p = product(x, tl.trans(w), None, PRECISION)
    if rounded is None:
        p *= SCALE
    if LOG:
        u = logarithm(p, MAP, EPSILON) + shift[None, :]
        higher = tl.maximum(top, tl.max(u, 1))
        largest = tl.where(higher == float("-inf"), 0.0, higher)
        phi = tl.exp2(u - largest[:, None])
        decay = tl.exp2(top - largest)
        ones = ones * decay + tl.sum(phi, 1)
        result = result * decay[:, None]
        top = higher
    else:
        phi = feature_of(p, EPSILON, MAP)
        ones += tl.sum(phi * shift[None, :], 1)
    result = product(phi.to(DOT), means, result, PRECISION)
    return result, ones, top


@triton.jit(do_not_specialize=[*LENGTHS, *strides("q", "out")])
def attend(
    q, cu_seqlens, rounded, bias, sums, logs, out, norm,
    length, heads, q_batch, q_head, q_row, out_batch, out_head, out_row,
    MAP: tl.constexpr, LOG: tl.constexpr, EPSILON: tl.constexpr, SCALE: tl.constexpr,
    ALIGN: tl.constexpr, M: tl.constexpr, D: tl.constexpr, E: tl.constexpr, DP: tl.constexpr, EP: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr, REPEAT: tl.constexpr,
):  # fmt: skip
    """Results and norm (B, H, L): logarithm of each denominator, or its reciprocal. Grid (n, blocks of positions)."""
    index = tl.program_id(0)
    batch, first, count = sequence(cu_seqlens, index // heads, length)
    low = tl.program_id(1) * (BLOCK_N * REPEAT)
    if low >= count:
        return
    q = locate(q, batch, index % heads, first, q_batch, q_head, q_row, ALIGN)
    out = locate(out, batch, index % heads, first, out_batch, out_head, out_row, ALIGN)
    norm += (batch * heads + index % heads) * length + first
    if M <= BLOCK_M:
        w = directions(rounded, 0, M, D, DP, BLOCK_M, DOT)
        means = load_features(sums, index, 0, M, E, EP, BLOCK_M, DOT)
        shift = shifts(logs, bias, index, 0, LOG, M, BLOCK_M)
    for row in range(low, tl.minimum(low + BLOCK_N * REPEAT, count), BLOCK_N):
        inside = real_rows(None, row, count, BLOCK_N)
        x = load_rows(q, q_row, row, inside, D, DP, BLOCK_N, ALIGN).to(DOT)
        result = tl.zeros((BLOCK_N, EP), tl.float32)
        ones = tl.zeros((BLOCK_N,), tl.float32)
        top = tl.full((BLOCK_N,), float("-inf"), tl.float32)
        if M <= BLOCK_M:
            result, ones, top = attend_features(
                x, w, means, shift, result, ones, top, rounded, MAP, LOG, EPSILON, SCALE, DOT, PRECISION
            )
        else:
            for feature in range(0, M, BLOCK_M):
                some_w = directions(rounded, feature, M, D, DP, BLOCK_M, DOT)
                some_means = load_features(sums, index, feature, M, E, EP, BLOCK_M, DOT)
                some_shift = shifts(logs, bias, index, feature, LOG, M, BLOCK_M)
                result, ones, top = attend_features(
                    x, some_w, some_means, some_shift, result, ones, top, rounded,
                    MAP, LOG, EPSILON, SCALE, DOT, PRECISION,
                )  # fmt: skip
        divisor = tl.where(ones == 0, 1.0, ones)
        result = result / divisor[:, None]
        if LOG:
            ones = tl.where(ones == 0, 0.0, top + tl.log2(divisor))
        else:
            result = tl.where((ones == 0)[:, None], 0.0, result)
            ones = tl.where(ones == 0, 0.0, 1.0 / divisor)
        store_rows(out, result, out_row, row, inside, E, EP, BLOCK_N, ALIGN)
        rows = row + tl.arange(0, BLOCK_N)
        tl.store(norm + rows, ones, mask=inside)
