"""Kernels of bidirectional attention, backward; legend and notation as in bidirectional_forward.py.

With D_t = dout_t.out_t, P the weights of the queries and A those of the keys (A_ij = exp(w_i.y_j + ... - m_i)),

    dg_i = sum_t P_ti dout_t,             h_i = -sum_t P_ti D_t,
    dv_j = sum_i A_ij dg_i,               dp_ij = A_ij (dg_i.v_j + h_i),
    dy_j = sum_i dp_ij w_i + c y_j sum_i dp_ij,
    dx_t = sum_i P_ti (dout_t.g_i - D_t) w_i,

since h_i is the gradient of m_i less dg_i.g_i. A centre, mean_j(x_j + y_j), takes its share, minus the mean of dy,
from both. Without logarithms P is feature / denominator, A the feature and dp the gradient of the feature. With SPLIT,
for features whose slope jumps, dp comes from directions that are the sum of two, `rounded` and the rest after it.
"""

import triton
import triton.language as tl

from protlm.performer.kernels.bidirectional_forward import LENGTHS, centred, shifts, strides
from protlm.performer.kernels.maps import (
    directions,
    feature_of,
    feature_slope,
    logarithm,
    logarithm_slope,
    remainders,
    scaled_directions,
)
from protlm.performer.kernels.products import product, projections
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

LN2 = tl.constexpr(0.6931471805599453)


@triton.jit(do_not_specialize=[*LENGTHS, *strides("q", "out", "grad")])
def sum_queries(
    q, out, grad, norm, drift, cu_seqlens, weight, rounded, bias, logs, grad_sums, grad_logs,
    length, heads, parts, q_batch, q_head, q_row, out_batch, out_head, out_row, grad_batch, grad_head, grad_row,
    MAP: tl.constexpr, LOG: tl.constexpr, EPSILON: tl.constexpr, SCALE: tl.constexpr,
    ALIGN: tl.constexpr, M: tl.constexpr, D: tl.constexpr, E: tl.constexpr, DP: tl.constexpr, EP: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
    SPLIT: tl.constexpr,
):  # fmt: skip
    """dg (n, parts, M, e), h (n, parts, M), D (B, H, L) and `rounded`. Grid (n x blocks of features, parts)."""
    BLOCKS: tl.constexpr = (M + BLOCK_M - 1) // BLOCK_M
    index, part = tl.program_id(0) // BLOCKS, tl.program_id(1)
    feature = tl.program_id(0) % BLOCKS * BLOCK_M
    batch, first, count = sequence(cu_seqlens, index // heads, length)
    q = locate(q, batch, index % heads, first, q_batch, q_head, q_row, ALIGN)
    out = locate(out, batch, index % heads, first, out_batch, out_head, out_row, ALIGN)
    grad = locate(grad, batch, index % heads, first, grad_batch, grad_head, grad_row, ALIGN)
    norm += (batch * heads + index % heads) * length + first
    drift += (batch * heads + index % heads) * length + first
    low, high = span(count, part, parts, BLOCK_N)
    w = scaled_directions(weight, feature, SCALE, M, D, DP, BLOCK_M, DOT, LOG)
    if rounded is not None:
        if (index == 0) & (part == 0):
            store_features(rounded, w, index, feature, M, D, DP, BLOCK_M)
            if SPLIT:
                rest = remainders(weight, feature, SCALE, M, D, DP, BLOCK_M, DOT)
                store_features(rounded + M * D, rest, index, feature, M, D, DP, BLOCK_M)
    result = tl.zeros((BLOCK_M, EP), tl.float32)
    ones = tl.zeros((BLOCK_M,), tl.float32)
    if LOG:
        shift = shifts(logs, bias, index, feature, LOG, M, BLOCK_M)
    for row in range(low, high, BLOCK_N):
        inside = real_rows(None, row, high, BLOCK_N)
        rows = row + tl.arange(0, BLOCK_N)
        x = load_rows(q, q_row, row, inside, D, DP, BLOCK_N, ALIGN).to(DOT)
        upstream = load_rows(grad, grad_row, row, inside, E, EP, BLOCK_N, ALIGN)
        means = load_rows(out, out_row, row, inside, E, EP, BLOCK_N, ALIGN)
        inner = tl.sum(upstream.to(tl.float32) * means.to(tl.float32), 1)
        if feature == 0:
            tl.store(drift + rows, inner, mask=inside)
        p = product(w, tl.trans(x), None, PRECISION)
        if weight is None:
            p *= SCALE
        if LOG:
            divisor = tl.load(norm + rows, mask=inside, other=float("inf"))
            phi = tl.exp2(logarithm(p, MAP, EPSILON) + (shift[:, None] - divisor[None, :]))
        else:
            divisor = tl.load(norm + rows, mask=inside, other=0.0)
            phi = feature_of(p, EPSILON, MAP)
            upstream = upstream.to(tl.float32) * divisor[:, None]
            inner *= divisor
        ones -= tl.sum(phi * inner[None, :], 1)
        result = product(phi.to(DOT), upstream.to(DOT), result, PRECISION)
    if not LOG:
        share = 1.0 / tl.maximum(count, 1).to(tl.float32)
        result *= share
        ones *= share
    slot = index.to(tl.int64) * parts + part
    store_features(grad_sums, result, slot, feature, M, E, EP, BLOCK_M)
    store_vector(grad_logs, ones, slot, feature, M, BLOCK_M)


@triton.jit
def origins(logs, index, feature, LOG: tl.constexpr, M: tl.constexpr, BLOCK: tl.constexpr):
    """(BLOCK) what is subtracted from the logarithms of a key's features: inf beyond M and where there is no key."""
    if LOG:
        origin = load_vector(logs, index, feature, float("inf"), M, BLOCK)
        return tl.where(origin == float("-inf"), float("inf"), origin)
    else:
        return tl.zeros((BLOCK,), tl.float32)


@triton.jit
def key_gradients(
    y, weights, values, w, rest, dg, h, origin, grad_y, grad_v, inner, rounded,
    MAP: tl.constexpr, LOG: tl.constexpr, EPSILON: tl.constexpr, SCALE: tl.constexpr, QUADRATIC: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """Adds a block of features to dy (T, d), dv (T, e) and sum_i dp (T)."""
    p = projections(y, w, rest, PRECISION, SPLIT)
    dp = product(values, tl.trans(dg), None, PRECISION) + h[None, :]
    if rounded is None:
        p *= SCALE
    if LOG:
        phi = tl.exp2(logarithm(p, MAP, EPSILON) + (weights[:, None] - origin[None, :]))
        dp *= phi
        if QUADRATIC != 0:
            inner += tl.sum(dp, 1)
        dp = logarithm_slope(dp, p, MAP, EPSILON)
    else:
        phi = feature_of(p, EPSILON, MAP)
        dp = feature_slope(dp, p, MAP)
    grad_v = product(phi.to(DOT), dg, grad_v, PRECISION)
    grad_y = product(dp.to(DOT), w, grad_y, PRECISION)
    return grad_y, grad_v, inner


@triton.jit(do_not_specialize=[*LENGTHS, "mask_batch", *strides("k", "v", "grad_k", "grad_v")])
def differentiate_keys(
    k, v, mask, cu_seqlens, rounded, centre, logs, grad_sums, grad_logs, grad_k, grad_v, grad_centre,
    length, heads, parts, centre_parts, mask_batch, k_batch, k_head, k_row, v_batch, v_head, v_row,
    grad_k_batch, grad_k_head, grad_k_row, grad_v_batch, grad_v_head, grad_v_row,
    MAP: tl.constexpr, LOG: tl.constexpr, EPSILON: tl.constexpr, SCALE: tl.constexpr, QUADRATIC: tl.constexpr,
    ALIGN: tl.constexpr, M: tl.constexpr, D: tl.constexpr, E: tl.constexpr, DP: tl.constexpr, EP: tl.constexpr,
    PARTS: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
    SPLIT: tl.constexpr,
):  # fmt: skip
    """dv, dk but for the centre, and the sums (n, parts, d) of dk. Grid (n, parts)."""
    index, part = tl.program_id(0), tl.program_id(1)
    batch, first, count = sequence(cu_seqlens, index // heads, length)
    k = locate(k, batch, index % heads, first, k_batch, k_head, k_row, ALIGN)
    v = locate(v, batch, index % heads, first, v_batch, v_head, v_row, ALIGN)
    grad_k = locate(grad_k, batch, index % heads, first, grad_k_batch, grad_k_head, grad_k_row, ALIGN)
    grad_v = locate(grad_v, batch, index % heads, first, grad_v_batch, grad_v_head, grad_v_row, ALIGN)
    if mask is not None:
        mask += batch * mask_batch + first
    low, high = span(count, part, parts, BLOCK_N)
    mean = tl.zeros((DP,), tl.float32)
    if centre is not None:
        mean = total(centre, index, centre_parts, D + 1, D, DP, PARTS) / real_count(
            centre, index, centre_parts, D, PARTS
        )
        sum_k = tl.zeros((DP,), tl.float32)
    if M <= BLOCK_M:
        w = directions(rounded, 0, M, D, DP, BLOCK_M, DOT)
        rest = directions(rounded + M * D, 0, M, D, DP, BLOCK_M, DOT) if SPLIT else w
        dg = load_features(grad_sums, index, 0, M, E, EP, BLOCK_M, DOT)
        h = load_vector(grad_logs, index, 0, 0.0, M, BLOCK_M)
        origin = origins(logs, index, 0, LOG, M, BLOCK_M)
    for row in range(low, high, BLOCK_N):
        real = real_rows(mask, row, high, BLOCK_N)
        x = load_rows(k, k_row, row, real, D, DP, BLOCK_N, ALIGN)
        values = load_rows(v, v_row, row, real, E, EP, BLOCK_N, ALIGN).to(DOT)
        y, weights = centred(x, real, mean, centre, QUADRATIC, LOG, DOT)
        result_y = tl.zeros((BLOCK_N, DP), tl.float32)
        result_v = tl.zeros((BLOCK_N, EP), tl.float32)
        inner = tl.zeros((BLOCK_N,), tl.float32)
        if M <= BLOCK_M:
            result_y, result_v, inner = key_gradients(
                y, weights, values, w, rest, dg, h, origin, result_y, result_v, inner, rounded,
                MAP, LOG, EPSILON, SCALE, QUADRATIC, DOT, PRECISION, SPLIT,
            )  # fmt: skip
        else:
            for feature in range(0, M, BLOCK_M):
                some_w = directions(rounded, feature, M, D, DP, BLOCK_M, DOT)
                some_rest = directions(rounded + M * D, feature, M, D, DP, BLOCK_M, DOT) if SPLIT else some_w
                some_dg = load_features(grad_sums, index, feature, M, E, EP, BLOCK_M, DOT)
                some_h = load_vector(grad_logs, index, feature, 0.0, M, BLOCK_M)
                some_origin = origins(logs, index, feature, LOG, M, BLOCK_M)
                result_y, result_v, inner = key_gradients(
                    y, weights, values, some_w, some_rest, some_dg, some_h, some_origin, result_y, result_v, inner,
                    rounded, MAP, LOG, EPSILON, SCALE, QUADRATIC, DOT, PRECISION, SPLIT,
                )  # fmt: skip
        if rounded is None:
            result_y *= SCALE
        if LOG:
            result_y *= LN2
            if QUADRATIC != 0:
                result_y += (2 * QUADRATIC) * inner[:, None] * y.to(tl.float32)
        else:
            result_y = tl.where(real[:, None], result_y, 0.0)
            result_v = tl.where(real[:, None], result_v, 0.0)
        inside = real_rows(None, row, high, BLOCK_N)
        store_rows(grad_k, result_y, grad_k_row, row, inside, D, DP, BLOCK_N, ALIGN)
        store_rows(grad_v, result_v, grad_v_row, row, inside, E, EP, BLOCK_N, ALIGN)
        if centre is not None:
            sum_k += tl.sum(result_y, 0)
    if centre is not None:
        columns = tl.arange(0, DP)
        pointers = grad_centre + (index.to(tl.int64) * parts + part) * D + columns
        tl.store(pointers, sum_k, mask=columns < D)


@triton.jit
def query_gradients(
    x, upstream, inner, divisor, w, rest, means, shift, result, rounded,
    MAP: tl.constexpr, LOG: tl.constexpr, EPSILON: tl.constexpr, SCALE: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """Adds a block of features to dx (T, d)."""
    p = projections(x, w, rest, PRECISION, SPLIT)
    dp = product(upstream, tl.trans(means), None, PRECISION)
    if rounded is None:
        p *= SCALE
    if LOG:
        phi = tl.exp2(logarithm(p, MAP, EPSILON) + (shift[None, :] - divisor[:, None]))
        dp = logarithm_slope(phi * (dp - inner[:, None]), p, MAP, EPSILON)
    else:
        dp = feature_slope((dp - inner[:, None] * shift[None, :]) * divisor[:, None], p, MAP)
    return product(dp.to(DOT), w, result, PRECISION)


@triton.jit(do_not_specialize=[*LENGTHS, "mask_batch", "grad_parts", *strides("q", "grad", "grad_q", "grad_k")])
def differentiate_queries(
    q, grad, norm, drift, mask, cu_seqlens, rounded, bias, sums, logs, centre, grad_centre, grad_q, grad_k,
    length, heads, centre_parts, grad_parts, mask_batch, q_batch, q_head, q_row, grad_batch, grad_head, grad_row,
    grad_q_batch, grad_q_head, grad_q_row, grad_k_batch, grad_k_head, grad_k_row,
    MAP: tl.constexpr, LOG: tl.constexpr, EPSILON: tl.constexpr, SCALE: tl.constexpr,
    ALIGN: tl.constexpr, M: tl.constexpr, D: tl.constexpr, E: tl.constexpr, DP: tl.constexpr, EP: tl.constexpr,
    PARTS: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_M: tl.constexpr,
    REPEAT: tl.constexpr, SPLIT: tl.constexpr,
):  # fmt: skip
    """dq, and the centre's share added to dq and dk. Grid (n, blocks of positions)."""
    index = tl.program_id(0)
    batch, first, count = sequence(cu_seqlens, index // heads, length)
    low = tl.program_id(1) * (BLOCK_N * REPEAT)
    if low >= count:
        return
    q = locate(q, batch, index % heads, first, q_batch, q_head, q_row, ALIGN)
    grad = locate(grad, batch, index % heads, first, grad_batch, grad_head, grad_row, ALIGN)
    grad_q = locate(grad_q, batch, index % heads, first, grad_q_batch, grad_q_head, grad_q_row, ALIGN)
    norm += (batch * heads + index % heads) * length + first
    drift += (batch * heads + index % heads) * length + first
    if mask is not None:
        mask += batch * mask_batch + first
    if centre is not None:
        grad_k = locate(grad_k, batch, index % heads, first, grad_k_batch, grad_k_head, grad_k_row, ALIGN)
        share = total(grad_centre, index, grad_parts, D, D, DP, PARTS) / real_count(
            centre, index, centre_parts, D, PARTS
        )
    if M <= BLOCK_M:
        w = directions(rounded, 0, M, D, DP, BLOCK_M, DOT)
        rest = directions(rounded + M * D, 0, M, D, DP, BLOCK_M, DOT) if SPLIT else w
        means = load_features(sums, index, 0, M, E, EP, BLOCK_M, DOT)
        shift = shifts(logs, bias, index, 0, LOG, M, BLOCK_M)
    for row in range(low, tl.minimum(low + BLOCK_N * REPEAT, count), BLOCK_N):
        inside = real_rows(None, row, count, BLOCK_N)
        rows = row + tl.arange(0, BLOCK_N)
        x = load_rows(q, q_row, row, inside, D, DP, BLOCK_N, ALIGN).to(DOT)
        upstream = load_rows(grad, grad_row, row, inside, E, EP, BLOCK_N, ALIGN).to(DOT)
        inner = tl.load(drift + rows, mask=inside, other=0.0)
        divisor = tl.load(norm + rows, mask=inside, other=float("inf") if LOG else 0.0)
        result = tl.zeros((BLOCK_N, DP), tl.float32)
        if M <= BLOCK_M:
            result = query_gradients(
                x, upstream, inner, divisor, w, rest, means, shift, result, rounded,
                MAP, LOG, EPSILON, SCALE, DOT, PRECISION, SPLIT,
            )  # fmt: skip
        else:
            for feature in range(0, M, BLOCK_M):
                some_w = directions(rounded, feature, M, D, DP, BLOCK_M, DOT)
                some_rest = directions(rounded + M * D, feature, M, D, DP, BLOCK_M, DOT) if SPLIT else some_w
                some_means = load_features(sums, index, feature, M, E, EP, BLOCK_M, DOT)
                some_shift = shifts(logs, bias, index, feature, LOG, M, BLOCK_M)
                result = query_gradients(
                    x, upstream, inner, divisor, some_w, some_rest, some_means, some_shift, result, rounded,
                    MAP, LOG, EPSILON, SCALE, DOT, PRECISION, SPLIT,
                )  # fmt: skip
        if rounded is None:
            result *= SCALE
        if LOG:
            result *= LN2
        if centre is not None:
            real = real_rows(mask, row, count, BLOCK_N)
            result -= tl.where(real[:, None], share[None, :], 0.0)
            other = load_rows(grad_k, grad_k_row, row, real, D, DP, BLOCK_N, ALIGN).to(tl.float32) - share[None, :]
            store_rows(grad_k, other, grad_k_row, row, real, D, DP, BLOCK_N, ALIGN)
        store_rows(grad_q, result, grad_q_row, row, inside, D, DP, BLOCK_N, ALIGN)
