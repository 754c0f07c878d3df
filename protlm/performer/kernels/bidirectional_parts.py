"""Into how many parts the bidirectional kernels divide a sequence, so that few sequences still occupy a GPU.

Legend: S sequences, H heads, L length, d head width, e value width, M features.
"""

from typing import NamedTuple

PARTS = 32
"""The most parts that a sequence is divided into."""
PROCESSORS = 132
"""Programs that run at once, by which the number of parts is chosen; of an H100 or H200."""
WAVES = {"sum_rows": 16, "sum_keys": 1, "sum_queries": 1, "differentiate_keys": 4}
"""Programs of a kernel for each of PROCESSORS, from which the number of parts follows."""


class Shape(NamedTuple):
    """Sizes of one call."""

    sequences: int
    heads: int
    length: int
    longest: int
    features: int
    width: int
    values: int
    packed: bool


def parts_of(shape: Shape, name: str, programs: int, rows: int) -> int:
    """Parts of a sequence for a kernel of `programs` programs otherwise, each of at least `rows` rows."""
    wanted = WAVES[name] * PROCESSORS // max(1, programs)
    if shape.packed:
        wanted = max(wanted, shape.longest // 4096)  # one long protein among short ones
    return max(1, min(wanted, -(-shape.longest // rows), PARTS))


def centre_parts(shape: Shape) -> int:
    """Parts of a sequence for the sums of q + k."""
    return parts_of(shape, "sum_rows", shape.sequences * shape.heads, 128)
