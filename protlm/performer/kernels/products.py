"""Device function: matrix products with sums in float32."""

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


@triton.jit
def product(a, b, sums, PRECISION: tl.constexpr):
    """sums + a b, or a b if sums is None; PRECISION is that of float32 operands."""
    if INTERPRETED:  # Triton's interpreter multiplies the bit patterns of bfloat16
        result = tl.dot(a.to(tl.float32), b.to(tl.float32), sums, input_precision="ieee")
    else:
        result = tl.dot(a, b, sums, input_precision=PRECISION)
    return result


@triton.jit
def projections(x, w, rest, PRECISION: tl.constexpr, SPLIT: tl.constexpr):
    """x w^T, or x (w + rest)^T where the directions are the sum of two."""
    p = product(x, tl.trans(w), None, PRECISION)
    if SPLIT:
        p = product(x, tl.trans(rest), p, PRECISION)
    return p
