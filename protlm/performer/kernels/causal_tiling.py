"""Tile sizes of the causal kernels.

Legend: M features, d head width, e value width.
"""

from typing import NamedTuple

import torch


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


_SMALL = Launch(chunk=32, features=32)
_SMALLEST = Launch(chunk=16, features=16)
_SMALLEST_WIDE = Launch(chunk=16, features=16, num_warps=8)
_SMALLEST_KEYS = _SMALLEST_WIDE._replace(num_stages=1)
"""Of keys and values in float32, and of positive features and heads wider than 64 in 16 bits, there also of queries
before Hopper."""

FORWARD = Tiling(group=128, outputs=Launch(chunk=128, num_warps=8))
"""Of the forward pass for 16-bit inputs, from Hopper on."""
BACKWARD = Tiling()
"""Of its backward pass."""
PADDED_FORWARD = Tiling(group=128, outputs=Launch(num_warps=8))
PADDED_BACKWARD = Tiling(queries=Launch(num_warps=8), keys=Launch(features=32, num_warps=8))
"""The same on Hopper for heads narrower than their tiles, whose masks take registers."""
MASKED_BACKWARD = Tiling(keys=Launch(features=32, num_stages=1))
"""The same on Hopper for positive features with a key mask."""
BLACKWELL_BACKWARD = Tiling(keys=Launch(features=16))
BLACKWELL_MASKED_FORWARD = Tiling(group=128, outputs=Launch(chunk=128, num_warps=8, num_stages=1))
AMPERE = Tiling(states=_SMALL, outputs=_SMALL, queries=_SMALL, keys=Launch(chunk=32, features=16, num_warps=8))
"""Of both passes for 16-bit inputs on GPUs before Hopper."""
FLOAT32 = Tiling(
    group=32,
    states=_SMALLEST,
    outputs=_SMALLEST_WIDE,
    queries=_SMALLEST_WIDE,
    keys=_SMALLEST_KEYS,
)
"""Of both passes for float32 inputs; heads wider than 64 spill registers."""

HOPPER = 9
"""The major compute capability of the GPUs whose products are by groups of warps, from shared memory."""
NARROWEST = 64
"""The smallest tile width of d and e for 16-bit inputs on HOPPER, a row of 128 bytes.

With rows of 32 or 64 bytes, ptxas of CUDA 12.8, which Triton 3.6 uses, computes where some operands lie in shared
memory from registers that nothing has written: kernels end with an illegal memory access.
"""


def generation(device: torch.device) -> int:
    """The major compute capability of a device; Hopper's if it is no GPU, as in the interpreter."""
    return torch.cuda.get_device_capability(device)[0] if device.type == "cuda" else 9


def tiling(
    width: int,
    short: bool,
    backward: bool,
    capability: int,
    padded: bool = False,
    masked: bool = False,
    exponential: bool = False,
    positive: bool = False,
) -> Tiling:
    """The sizes for head and value widths up to `width`, 16-bit inputs or not, and a major compute capability.

    `padded` says that the tiles are wider than the heads or values; `masked`, that features are positive and keys have
    a mask; `exponential`, that the map is "exp", whose logarithms take registers; `positive`, that features are
    positive, so that kernels have an exact way for keys that outgrow others, which takes registers.
    """
    if not short:
        sizes = FLOAT32
    elif capability < 9:
        sizes = AMPERE
    elif capability == HOPPER and padded:
        sizes = PADDED_BACKWARD if backward else PADDED_FORWARD
    elif backward and capability == HOPPER:
        sizes = MASKED_BACKWARD if masked else BACKWARD
    elif backward:
        sizes = BLACKWELL_BACKWARD
    else:
        sizes = BLACKWELL_MASKED_FORWARD if masked and capability > HOPPER else FORWARD
    halved: dict[str, Launch] = {}
    for name in ("states", "outputs", "queries", "keys"):
        launch: Launch = getattr(sizes, name)
        # half the features in a tile for rows with twice the numbers, and for this map, but for the sums of groups
        halvings = (width > 64) + (short and exponential and name != "states")
        halved[name] = launch._replace(features=max(16, launch.features >> halvings))
    wide = short and width > 64
    if wide and positive:
        halved["keys"] = _SMALLEST_KEYS
    if (wide and capability < HOPPER) or (short and exponential and capability > HOPPER):
        halved["queries"] = halved["queries"]._replace(num_warps=8)
    if wide and positive and capability < HOPPER:
        halved["queries"] = _SMALLEST_KEYS
    return sizes._replace(**halved)
