"""Kernels: the sums over each group of positions, and the sums over all groups before (or after) each.

Legend: M features, e value width, BM and E their tile widths, C positions of a chunk, G positions of a group.

With features x of keys and y = v, the sums are sum_j x_ji y_j (M, e), and `ones`, sum_j x_ji (M). With features of
queries and y their gradient, they are what the gradient of keys and values needs, and `ones` is sum_t x_ti (-drift_t).
Positive features are relative to 2^shift, where `shift` (M) is the largest logarithm in the group.
"""

import triton
import triton.language as tl

from protlm.performer.kernels.causal_tiles import (
    LIMIT,
    columns,
    directions,
    locate,
    logarithm,
    projected_columns,
    real_keys,
    rows,
    size_of,
)
from protlm.performer.kernels.maps import feature_of
from protlm.performer.kernels.products import product


@triton.jit(do_not_specialize=["mask_stride", "total", "length", "groups", "sequences"])
def states_kernel(
    x, y, weight, bias, mask, norm, drift, boundaries, sums, ones, shift, first,
    x_batch, x_head, x_row, y_batch, y_head, y_row, mask_stride, total, length, groups, sequences,
    quadratic, scale, epsilon,
    M: tl.constexpr, d: tl.constexpr, e: tl.constexpr, D: tl.constexpr, E: tl.constexpr, BM: tl.constexpr,
    MP: tl.constexpr, C: tl.constexpr, G: tl.constexpr, LOG: tl.constexpr, FUNCTION: tl.constexpr,
    PROJECTED: tl.constexpr, BIASED: tl.constexpr, MASKED: tl.constexpr, PACKED: tl.constexpr,
    INPUT: tl.constexpr, PRODUCT: tl.constexpr, PRECISION: tl.constexpr, QUERIES: tl.constexpr,
):  # fmt: skip
    """Grid (slots, H, MP / BM): writes the sums of one group and tile of features.

    sums (slots, H, MP, E), ones, shift and first (slots, H, MP), float32; `first` is the logarithm of the features of
    the first real key.
    """
    slot, head, tile = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64), tl.program_id(2) * BM
    batch, place, left = locate(slot, groups, length, boundaries, sequences, G, PACKED)
    if left <= 0:
        return
    i = tile + tl.arange(0, BM)
    x += batch * x_batch + head * x_head + place * x_row
    y += batch * y_batch + head * y_head + place * y_row
    row = (batch * tl.num_programs(1) + head) * total + place
    mask += batch * mask_stride + place
    largest = tl.full((BM,), -float("inf"), tl.float32)
    near = tl.zeros((BM, E), tl.float32)
    near_ones = tl.zeros((BM,), tl.float32)
    w = directions(weight, tile, INPUT, M, d, BM, D, PROJECTED)
    for at in range(0, tl.minimum(left, G), C):
        real = real_keys(mask + at, left - at, C, MASKED and not QUERIES)
        tile_x = columns(x + at * x_row, x_row, real, d, C, D).to(INPUT)
        tile_y = rows(y + at * y_row, y_row, real, e, C, E)
        p = projected_columns(tile_x, w, bias, tile, scale, M, BM, PROJECTED, BIASED, PRECISION)
        if QUERIES:
            t = tl.arange(0, C)
            scales = tl.load(norm + row + at + t, mask=real, other=float("inf") if LOG else 0.0)
            weights = -tl.load(drift + row + at + t, mask=real, other=0.0)
        if LOG:
            u = logarithm(p, epsilon, FUNCTION)
            if QUERIES:
                u = tl.where((i < M)[:, None], u, -float("inf")) - scales[None, :]
            else:
                u += size_of(tile_x, real, quadratic, 0)[None, :]
            raised = tl.maximum(largest, tl.max(u, 1))
            finite = tl.where(raised == -float("inf"), 0.0, raised)
            change = tl.exp2(largest - finite)
            near *= change[:, None]
            near_ones *= change
            largest = raised
            features = tl.exp2(u - finite[:, None]).to(PRODUCT)
        else:
            f = feature_of(p, epsilon, FUNCTION)
            if QUERIES:
                features = tl.where((i < M)[:, None], f * scales[None, :], 0.0).to(PRODUCT)
            else:
                features = tl.where(real[None, :], f, 0.0).to(PRODUCT)
        near = product(features, tile_y.to(PRODUCT), near, PRECISION)
        if QUERIES:
            near_ones += tl.sum(features.to(tl.float32) * weights[None, :], 1)
        else:
            near_ones += tl.sum(features.to(tl.float32), 1)
    state = (slot * tl.num_programs(1) + head) * MP + i
    tl.store(sums + state[:, None] * E + tl.arange(0, E)[None, :], near)
    tl.store(ones + state, near_ones)
    if LOG:
        tl.store(shift + state, largest)
        if not QUERIES:
            # a shift for groups that no key precedes
            real = real_keys(mask, left, G, MASKED)
            at = tl.min(tl.where(real, tl.arange(0, G), left - 1))
            column = tl.arange(0, D)
            key = tl.load(x + at * x_row + column, mask=column < d, other=0.0).to(INPUT).to(tl.float32)
            if PROJECTED:
                p_first = tl.sum(w.to(tl.float32) * key[None, :], 1)
                if BIASED:
                    p_first += tl.load(bias + i, mask=i < M, other=0.0).to(tl.float32)
            else:
                p_first = key * scale
            u_first = logarithm(p_first, epsilon, FUNCTION) + tl.sum(key * key) * quadratic
            tl.store(first + state, tl.where(tl.max(real.to(tl.int32)) > 0, u_first, 0.0))


@triton.jit(do_not_specialize=["groups", "length"])
def scan_kernel(
    sums, ones, shift, first, boundaries, past, past_ones, past_shift, past_growth, final, final_shift, groups, length,
    M: tl.constexpr, e: tl.constexpr, E: tl.constexpr, BS: tl.constexpr, MP: tl.constexpr, G: tl.constexpr,
    LOG: tl.constexpr, PACKED: tl.constexpr, QUERIES: tl.constexpr, FINAL: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Grid (S, H, MP / BS): the exclusive sums over the groups of one sequence, in reverse order for queries.

    Args:
        past: (slots, H, MP, E) in the dtype of products, and past_ones (slots, H, MP) float32, the results.
        past_shift: (slots, H, MP) float32. For keys a result: r, the largest logarithm before the group, or that of the
            first real key in it if there is none before. For queries r on entry, and on return -r, relative to which
            the results are, or where the group's keys outgrow r, the largest logarithm after the group.
        past_growth: (slots, H, MP) float32, a result for keys: the largest logarithm in the group, relative to r.
        final: (S, H, e + 1, M) float32, sums over the whole sequence, and final_shift (S, H, M): see `Outputs`;
            without LOG a zero (S, H).
    """
    sequence, head, tile = tl.program_id(0), tl.program_id(1), tl.program_id(2) * BS
    heads = tl.num_programs(1)
    if PACKED:
        begin = tl.load(boundaries + sequence)
        own = tl.load(boundaries + sequence + 1) - begin
        slot = begin // G + sequence
    else:
        slot = sequence * groups
        own = length
    i = tile + tl.arange(0, BS)
    column = tl.arange(0, E)
    before = tl.zeros((BS, E), tl.float32)
    before_ones = tl.zeros((BS,), tl.float32)
    largest = tl.full((BS,), -float("inf"), tl.float32)
    count = (own + G - 1) // G
    for step in tl.range(0, count, num_stages=STAGES):
        group = count - 1 - step if QUERIES else step
        state = ((slot + group).to(tl.int64) * heads + head) * MP + i
        here = tl.load(sums + state[:, None] * E + column[None, :])
        here_ones = tl.load(ones + state)
        if LOG:
            here_shift = tl.load(shift + state)
        if LOG and QUERIES:
            r = tl.load(past_shift + state)
            outgrown = tl.load(past_growth + state) > LIMIT
            # no key that a later query sees is larger than 1 for it
            factor = tl.where(outgrown, 1.0, tl.exp2(tl.minimum(largest + r, 0.0)))
            tl.store(past_shift + state, tl.where(outgrown, largest, -r))
            tl.store(past + state[:, None] * E + column[None, :], (before * factor[:, None]).to(past.dtype.element_ty))
            tl.store(past_ones + state, before_ones * factor)
        else:
            tl.store(past + state[:, None] * E + column[None, :], before.to(past.dtype.element_ty))
            tl.store(past_ones + state, before_ones)
        if LOG:
            if not QUERIES:
                r = tl.where(largest == -float("inf"), tl.load(first + state), largest)
                tl.store(past_shift + state, r)
                tl.store(past_growth + state, tl.where(i < M, here_shift - r, -float("inf")))
            raised = tl.maximum(largest, here_shift)
            finite = tl.where(raised == -float("inf"), 0.0, raised)
            change, change_here = tl.exp2(largest - finite), tl.exp2(here_shift - finite)
            before = before * change[:, None] + here * change_here[:, None]
            before_ones = before_ones * change + here_ones * change_here
            largest = raised
        else:
            before += here
            before_ones += here_ones
    if FINAL:
        row = sequence.to(tl.int64) * heads + head
        if LOG:
            some = before_ones > 0
            divisor = tl.where(some, before_ones, 1.0)
            tl.store(final_shift + row * M + i, tl.where(some, largest + tl.log2(divisor), 0.0), mask=i < M)
            before = before / divisor[:, None]
            before_ones = before_ones / divisor
        else:
            tl.store(final_shift + row, 0.0)
        address = final + row * (e + 1) * M + i
        tl.store(address[:, None] + column[None, :] * M, before, mask=(i < M)[:, None] & (column < e)[None, :])
        tl.store(address + e * M, before_ones, mask=i < M)
