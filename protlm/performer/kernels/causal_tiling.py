"""Tile sizes of the causal kernels.

Legend: M features, d head width, e value width.
"""

from typing import NamedTuple


class Launch(NamedTuple):
    """How one kernel is compiled.

    Args:
        chunk: positions of a program or of a step, a power of 2 of at least 16.
        features: of a tile, a power of 2 of at least 16.
        num_warps: of a program.
        num_stages: of its pipelined loops.
    """

    chunk: int = 64
    features: int = 64
    num_warps: int = 4
    num_stages: int = 2


class Tiling(NamedTuple):
    """How the kernels of one pass are compiled.

    Args:
        group: positions that share one state, a power of 2 and at least any `chunk`.
        precision: of products of float32 numbers.
        scan_features, scan_warps, scan_stages: of the sums over groups.
        states, outputs, queries, keys: of the other kernels.
    """

    group: int = 64
    precision: str = "tf32x3"
    scan_features: int = 16
    scan_warps: int = 4
    scan_stages: int = 3
    states: Launch = Launch()
    outputs: Launch = Launch()
    queries: Launch = Launch()
    keys: Launch = Launch(features=32)


FORWARD = {
    2: Tiling(group=128, outputs=Launch(chunk=128, num_warps=8)),
    4: Tiling(group=32, states=Launch(chunk=32, features=32), outputs=Launch(chunk=32, features=32), scan_features=32),
}
"""Of the forward pass, by the bytes of an input number."""
BACKWARD = {
    2: Tiling(),
    4: Tiling(
        group=32,
        scan_features=32,
        states=Launch(chunk=32, features=32),
        queries=Launch(chunk=32, features=32),
        keys=Launch(chunk=32, features=32),
    ),
}
"""Of the backward pass."""


def tiling(width: int, short: bool, backward: bool) -> Tiling:
    """The sizes for head and value widths up to `width`, and inputs of 16 bits or not."""
    sizes = (BACKWARD if backward else FORWARD)[2 if short else 4]
    if width <= 64:
        return sizes
    # twice the numbers in each row: half the features in a tile
    halved = {
        name: launch._replace(features=max(16, launch.features // 2))
        for name in ("states", "outputs", "queries", "keys")
        for launch in (getattr(sizes, name),)
    }
    return sizes._replace(scan_features=max(16, sizes.scan_features // 2), **halved)
