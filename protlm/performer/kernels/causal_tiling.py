"""Tile sizes of the causal kernels.

Legend: M features, d head width, e value width.
"""

from typing import NamedTuple


class Launch(NamedTuple):
    """Warps of a program, and stages of its pipelined loops."""

    num_warps: int = 4
    num_stages: int = 2


class Tiling(NamedTuple):
    """What the kernels are compiled for.

    Args:
        chunk: positions whose pairs are computed together, at least 16.
        group: positions that share one state, a multiple of `chunk` and a power of 2.
        features: of a tile, a power of 2 of at least 16.
        precision: of products of float32 numbers.
        scan_features, scan_warps, scan_stages: of the sums over groups.
        states, outputs, queries, keys: of the other kernels.
    """

    chunk: int = 64
    group: int = 128
    features: int = 64
    precision: str = "tf32x3"
    scan_features: int = 16
    scan_warps: int = 4
    scan_stages: int = 3
    states: Launch = Launch()
    outputs: Launch = Launch()
    queries: Launch = Launch()
    keys: Launch = Launch()


SHORT = Tiling()
"""For 16-bit inputs."""
LONG = Tiling(chunk=32, group=128, features=32)
"""For float32 inputs."""


def tiling(d: int, e: int, features: int, short: bool) -> Tiling:
    """The sizes for a head width d, a value width e, M features, and inputs of 16 bits or not."""
    return SHORT if short else LONG
