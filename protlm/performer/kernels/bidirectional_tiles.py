"""Tile sizes of the kernels of bidirectional attention, found by trial.

Legend: d head width, e value width, M features.
"""

from typing import Any

import triton

TILES: dict[tuple[str, int, int], dict[str, int]] = {}
"""Sizes by (kernel, padded width, bytes of a number) that replace those below, for trials."""
_NAMES = ("BLOCK_N", "BLOCK_M", "num_warps", "num_stages", "REPEAT")
_TILES: dict[str, list[tuple[int, int, int, int, int]]] = {
    "sum_rows": [(64, 16, 4, 2, 1)] * 4,
    "sum_keys": [(64, 128, 8, 3, 1), (64, 128, 8, 2, 1), (32, 32, 4, 1, 1), (32, 16, 8, 1, 1)],
    "join": [(64, 64, 4, 2, 1)] * 4,
    "attend": [(64, 128, 4, 2, 2), (128, 64, 8, 2, 1), (32, 32, 4, 1, 1), (16, 32, 4, 1, 1)],
    "sum_queries": [(64, 128, 8, 3, 1), (64, 128, 8, 2, 1), (32, 32, 4, 1, 1), (32, 16, 8, 1, 1)],
    "differentiate_keys": [(64, 64, 4, 2, 1), (32, 32, 8, 2, 1), (16, 32, 4, 1, 1), (16, 16, 8, 1, 1)],
    "differentiate_queries": [(64, 64, 4, 2, 1), (64, 64, 8, 2, 1), (32, 32, 8, 1, 1), (16, 16, 4, 1, 1)],
}
"""BLOCK_N, BLOCK_M, num_warps, num_stages and REPEAT; 16 bits up to a width of 64 and above, then 32 bits.

The first column is the fastest of a sweep on an H200 with M = 128, and so are the variants below, except for those of
`differentiate_keys` and `differentiate_queries`, which are the largest without spills.
"""
_VARIANTS: dict[tuple[str, bool, bool], tuple[int, int, int, int, int]] = {
    ("sum_keys", True, False): (64, 128, 4, 3, 1),
    ("sum_keys", True, True): (128, 128, 8, 3, 1),
    ("attend", True, True): (128, 64, 8, 2, 1),
    ("attend", False, True): (128, 64, 8, 2, 1),
    ("sum_queries", True, True): (128, 128, 8, 3, 1),
    ("sum_queries", False, False): (64, 128, 4, 3, 1),
    ("sum_queries", False, True): (128, 128, 8, 3, 1),
    ("differentiate_keys", False, False): (128, 64, 8, 2, 1),
    ("differentiate_keys", False, True): (128, 64, 8, 2, 1),
    ("differentiate_queries", False, False): (128, 64, 8, 2, 2),
}
"""Instead of the first column, by kernel, whether features are logarithms, and whether M > 128; not for widths that
are padded nor for the map gelu, which take more registers."""
_OLDER_TILES: dict[str, list[tuple[int, int, int, int, int]]] = {
    "sum_rows": [(64, 16, 4, 2, 1), (32, 16, 4, 2, 1)],
    "sum_keys": [(32, 64, 4, 2, 1), (64, 64, 8, 2, 1)],
    "attend": [(128, 128, 8, 2, 1), (64, 64, 8, 2, 1)],
    "sum_queries": [(32, 64, 4, 2, 1), (64, 64, 8, 2, 1)],
    "differentiate_keys": [(64, 16, 4, 2, 1), (32, 32, 8, 2, 1)],
    "differentiate_queries": [(64, 32, 4, 2, 1), (64, 64, 8, 2, 1)],
}
"""The same for 16 bits on GPUs before Hopper, where sums are in the registers of more threads."""


def replaced() -> tuple[Any, ...]:
    """TILES as a key of a cache."""
    return tuple((key, *sizes.items()) for key, sizes in TILES.items())


def tiles(
    name: str, width: int, itemsize: int, features: int, log: bool, scarce: bool = False, older: bool = False
) -> dict[str, int]:
    """BLOCK_N positions, BLOCK_M features, REPEAT blocks a program, num_warps and num_stages of a kernel.

    Args:
        name: of the kernel.
        width: the larger of d and e, padded.
        itemsize: bytes of a number in matrix products.
        features: M.
        log: whether features are positive and computed as logarithms.
        scarce: whether registers are: d or e is smaller than what it is padded to, or the map is gelu.
        older: whether the GPU is one before Hopper.
    """
    older = older and itemsize == 2
    sizes = (_OLDER_TILES if older and name in _OLDER_TILES else _TILES)[name][2 * (itemsize == 4) + (width > 64)]
    if itemsize == 2 and width <= 64 and not (older or scarce):
        sizes = _VARIANTS.get((name, log, features > 128), sizes)
    chosen = dict(zip(_NAMES, sizes, strict=True)) | TILES.get((name, width, itemsize), {})
    block_m = min(chosen["BLOCK_M"], max(16, triton.next_power_of_2(features)))
    if block_m < 64 and itemsize == 2 and width <= 64:
        chosen["num_warps"] = 4
    return chosen | {"BLOCK_M": block_m}
