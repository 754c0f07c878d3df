"""Pieces of the causal kernels: where a program's positions are, tiles of rows, and features of a tile.

Legend: C positions of a chunk, G positions of a group, d head width, e value width, M features; D, E and BM are tile
widths of d, e and M.

A sequence is cut into groups, counted over the batch by their slots. For dense tensors, the group g of sequence b has
slot b x groups + g. For packed ones it is floor(start / G) + s + g, where s is the sequence and `start` its first
position: unique, and known on the device without a sum over the lengths before.
"""

import triton
import triton.language as tl

from protlm.performer.kernels.products import product

LOG2E = tl.constexpr(1.4426950408889634)
FINE = tl.constexpr(16)
"""Positions and features of a tile on the exact way."""
LIMIT = tl.constexpr(60.0)
"""Base-2 logarithm by which features of a tile of keys may exceed the shift; beyond it the tile takes the exact way."""


@triton.jit
def locate(slot, groups, length, boundaries, sequences, G: tl.constexpr, PACKED: tl.constexpr):
    """Of a slot (int64): batch row, first position of the group, and positions from there on, at most 0 if unused."""
    if PACKED:
        count = 0
        for block in range(0, sequences, 128):
            index = block + tl.arange(0, 128)
            first = tl.load(boundaries + index, mask=index < sequences, other=0)
            count += tl.sum(((first // G + index <= slot) & (index < sequences)).to(tl.int32))
        begin = tl.load(boundaries + count - 1)
        own = tl.load(boundaries + count) - begin
        batch = slot * 0
        start = (slot - begin // G - (count - 1)) * G
    else:
        batch = slot // groups
        begin = slot * 0
        own = length
        start = (slot - batch * groups) * G
    return batch, begin + start, (own - start).to(tl.int32)


@triton.jit
def rows(x, stride, real, width: tl.constexpr, C: tl.constexpr, WIDTH: tl.constexpr):
    """(C, WIDTH): rows of `width` numbers from the pointer x on, 0 where not `real` (C)."""
    column = tl.arange(0, WIDTH)
    address = x + tl.arange(0, C)[:, None] * stride + column[None, :]
    mask = real[:, None]
    if width < WIDTH:
        mask = mask & (column < width)[None, :]
    return tl.load(address, mask=mask, other=0.0)


@triton.jit
def columns(x, stride, real, width: tl.constexpr, C: tl.constexpr, WIDTH: tl.constexpr):
    """(WIDTH, C): the same, transposed."""
    row = tl.arange(0, WIDTH)
    address = x + tl.arange(0, C)[None, :] * stride + row[:, None]
    mask = real[None, :]
    if width < WIDTH:
        mask = mask & (row < width)[:, None]
    return tl.load(address, mask=mask, other=0.0)


@triton.jit
def write_rows(x, stride, values, real, width: tl.constexpr, C: tl.constexpr, WIDTH: tl.constexpr):
    """Writes (C, WIDTH) to rows of `width` numbers from the pointer x on, where `real` (C)."""
    column = tl.arange(0, WIDTH)
    address = x + tl.arange(0, C)[:, None] * stride + column[None, :]
    tl.store(address, values.to(x.dtype.element_ty), mask=real[:, None] & (column < width)[None, :])


@triton.jit
def real_keys(mask, left, C: tl.constexpr, MASKED: tl.constexpr):
    """(C) bool: which of `left` positions are not masked; `mask` points at the first."""
    at = tl.arange(0, C)
    real = at < left
    if MASKED:
        real = real & (tl.load(mask + at, mask=real, other=0) != 0)
    return real


@triton.jit
def logarithm(p, epsilon, FUNCTION: tl.constexpr):
    """Base-2 logarithm of exp(p), or of exp(p) + epsilon for the function "exp"."""
    u = p * LOG2E
    if FUNCTION == "exp":
        floor = tl.log2(epsilon)
        top = tl.maximum(u, floor)
        u = top + tl.log2(tl.exp2(u - top) + tl.exp2(floor - top))
    return u


@triton.jit
def logarithm_slope(p, u, FUNCTION: tl.constexpr):
    """The derivative of the natural logarithm of a feature, of which u is the base-2 logarithm."""
    slope = 1.0
    if FUNCTION == "exp":
        slope = tl.exp2(p * LOG2E - u)
    return slope


@triton.jit
def directions(
    weight, start, dtype: tl.constexpr, M: tl.constexpr, d: tl.constexpr, BM: tl.constexpr, D: tl.constexpr,
    PROJECTED: tl.constexpr,
):  # fmt: skip
    """(BM, D): rows of the directions from `start` on, 0 beyond M; a number without a projection."""
    w = 0.0
    if PROJECTED:
        w = rows(weight + start * d, d, start + tl.arange(0, BM) < M, d, BM, D).to(dtype)
    return w


@triton.jit
def projected(
    x, w, bias, start, scale, M: tl.constexpr, BM: tl.constexpr, PROJECTED: tl.constexpr, BIASED: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """p (rows of x, BM) of x (rows, D) and directions w (BM, D), of which `start` is the first."""
    if PROJECTED:
        p = product(x, tl.trans(w), None, PRECISION)
        if BIASED:
            i = start + tl.arange(0, BM)
            p += tl.load(bias + i, mask=i < M, other=0.0).to(tl.float32)[None, :]
    else:
        p = x.to(tl.float32) * scale
    return p


@triton.jit
def projected_columns(
    x, w, bias, start, scale, M: tl.constexpr, BM: tl.constexpr, PROJECTED: tl.constexpr, BIASED: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """p (BM, columns of x) of x (D, columns)."""
    if PROJECTED:
        p = product(w, x, None, PRECISION)
        if BIASED:
            i = start + tl.arange(0, BM)
            p += tl.load(bias + i, mask=i < M, other=0.0).to(tl.float32)[:, None]
    else:
        p = x.to(tl.float32) * scale
    return p


@triton.jit
def size_of(x, real, quadratic, axis: tl.constexpr):
    """Base-2 logarithms of the keys' factors exp(c |x|^2 / 2), -inf where not real; x has `axis` of width D."""
    wide = x.to(tl.float32)
    return tl.where(real, tl.sum(wide * wide, axis) * quadratic, -float("inf"))
