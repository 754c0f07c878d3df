"""Device function: matrix products with sums in float32."""

import triton
import triton.language as tl


@triton.jit
def product(a, b, sums, PRECISION: tl.constexpr):
    """sums + a b, or a b if sums is None; PRECISION is that of float32 operands.

    "emulated" widens 16-bit operands, since Triton's interpreter cannot multiply bfloat16.
    """
    if PRECISION == "emulated":
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    if sums is None:
        return tl.dot(a, b, input_precision="ieee" if PRECISION == "emulated" else PRECISION)
    else:
        return tl.dot(a, b, sums, input_precision="ieee" if PRECISION == "emulated" else PRECISION)
