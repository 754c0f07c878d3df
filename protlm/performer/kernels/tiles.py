"""Device functions: where a sequence lies in memory, and tiles of its rows.

Legend: S sequences, H heads, L length, d head width, e value width, M features. Strides come divided by ALIGN, a power
of 2, so that the compiler knows how a row is aligned without a new compilation for every length.
"""

import triton
import triton.language as tl


@triton.jit
def sequence(cu_seqlens, index, length):
    """Batch, first position and number of positions of a sequence; without cu_seqlens, each is a batch of its own."""
    if cu_seqlens is None:
        batch = index
        first = index * 0
        count = first + length
    else:
        batch = index * 0
        first = tl.load(cu_seqlens + index)
        count = tl.load(cu_seqlens + index + 1) - first
    return batch.to(tl.int64), first.to(tl.int64), count.to(tl.int32)


@triton.jit
def span(count, part, parts, BLOCK: tl.constexpr):
    """First and last position of one of `parts` parts of a sequence, each a multiple of BLOCK long."""
    size = tl.cdiv(tl.cdiv(count, parts), BLOCK) * BLOCK
    low = part * size
    return low, tl.minimum(low + size, count)


@triton.jit
def locate(x, batch, head, first, batch_stride, head_stride, row_stride, ALIGN: tl.constexpr):
    """Pointer to the first row of a sequence and head."""
    return x + (batch * batch_stride + head.to(tl.int64) * head_stride + first * row_stride) * ALIGN


@triton.jit
def real_rows(mask, row, stop, BLOCK: tl.constexpr):
    """(BLOCK) bool: the positions before `stop` that the mask, if there is one, calls real."""
    rows = row + tl.arange(0, BLOCK)
    real = rows < stop
    if mask is not None:
        real = real & (tl.load(mask + rows, mask=real, other=0) != 0)
    return real


@triton.jit
def load_rows(
    x, row_stride, row, real, WIDTH: tl.constexpr, PADDED: tl.constexpr, BLOCK: tl.constexpr, ALIGN: tl.constexpr
):
    """(BLOCK, PADDED) from row `row` on; 0 in rows that are not real and beyond WIDTH."""
    rows = (row + tl.arange(0, BLOCK)).to(tl.int64) * row_stride * ALIGN
    columns = tl.arange(0, PADDED)
    keep = real[:, None]
    if WIDTH < PADDED:
        keep = keep & (columns < WIDTH)[None, :]
    return tl.load(x + rows[:, None] + columns[None, :], mask=keep, other=0.0)


@triton.jit
def store_rows(
    x,
    values,
    row_stride,
    row,
    inside,
    WIDTH: tl.constexpr,
    PADDED: tl.constexpr,
    BLOCK: tl.constexpr,
    ALIGN: tl.constexpr,
):
    """The reverse of `load_rows`."""
    rows = (row + tl.arange(0, BLOCK)).to(tl.int64) * row_stride * ALIGN
    columns = tl.arange(0, PADDED)
    keep = inside[:, None]
    if WIDTH < PADDED:
        keep = keep & (columns < WIDTH)[None, :]
    tl.store(x + rows[:, None] + columns[None, :], values, mask=keep)


@triton.jit
def load_features(
    sums, index, feature, M: tl.constexpr, E: tl.constexpr, EP: tl.constexpr, BLOCK: tl.constexpr, DOT: tl.constexpr
):
    """(BLOCK, EP) of the sums (S x H, M, e); 0 beyond."""
    i = feature + tl.arange(0, BLOCK)
    columns = tl.arange(0, EP)
    pointers = sums + index.to(tl.int64) * (M * E) + i[:, None] * E + columns[None, :]
    if M % BLOCK == 0 and E == EP:
        return tl.load(pointers).to(DOT)
    else:
        return tl.load(pointers, mask=(i < M)[:, None] & (columns < E)[None, :], other=0.0).to(DOT)


@triton.jit
def store_features(
    sums, values, index, feature, M: tl.constexpr, E: tl.constexpr, EP: tl.constexpr, BLOCK: tl.constexpr
):
    """The reverse of `load_features`."""
    i = feature + tl.arange(0, BLOCK)
    columns = tl.arange(0, EP)
    pointers = sums + index.to(tl.int64) * (M * E) + i[:, None] * E + columns[None, :]
    tl.store(pointers, values, mask=(i < M)[:, None] & (columns < E)[None, :])


@triton.jit
def load_vector(x, index, feature, other, M: tl.constexpr, BLOCK: tl.constexpr):
    """(BLOCK) of (S x H, M) float32."""
    i = feature + tl.arange(0, BLOCK)
    return tl.load(x + index.to(tl.int64) * M + i, mask=i < M, other=other)


@triton.jit
def store_vector(x, values, index, feature, M: tl.constexpr, BLOCK: tl.constexpr):
    """The reverse of `load_vector`."""
    i = feature + tl.arange(0, BLOCK)
    tl.store(x + index.to(tl.int64) * M + i, values, mask=i < M)


@triton.jit
def total(partial, index, parts, WIDTH: tl.constexpr, D: tl.constexpr, DP: tl.constexpr, PARTS: tl.constexpr):
    """(DP) the sum over `parts` <= PARTS rows of (S x H, parts, WIDTH), of the first D columns."""
    part = tl.arange(0, PARTS)
    columns = tl.arange(0, DP)
    pointers = partial + (index.to(tl.int64) * parts + part[:, None]) * WIDTH + columns[None, :]
    return tl.sum(tl.load(pointers, mask=(part < parts)[:, None] & (columns < D)[None, :], other=0.0), 0)


@triton.jit
def real_count(centre, index, parts, D: tl.constexpr, PARTS: tl.constexpr):
    """Real positions of a sequence, at least 1: column D of the partial sums (S x H, parts, D + 1)."""
    part = tl.arange(0, PARTS)
    pointers = centre + (index.to(tl.int64) * parts + part) * (D + 1) + D
    return tl.maximum(tl.sum(tl.load(pointers, mask=part < parts, other=0.0), 0), 1.0)
