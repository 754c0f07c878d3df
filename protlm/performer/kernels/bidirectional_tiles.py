"""Tile sizes of the kernels of bidirectional attention, found by trial.

Legend: d head width, e value width, M features.
"""

from functools import cache

import triton

TILES: dict[tuple[str, int, int], dict[str, int]] = {}
"""Sizes by (kernel, padded width, bytes of a number) that replace those below, for trials."""
_NAMES = ("BLOCK_N", "BLOCK_M", "num_warps", "num_stages", "REPEAT")
_TILES: dict[str, list[tuple[int, int, int, int, int]]] = {
    "sum_rows": [(64, 16, 4, 2, 1)] * 4,
    "sum_keys": [(64, 128, 8, 2, 1), (64, 128, 8, 2, 1), (32, 32, 4, 1, 1), (32, 16, 8, 1, 1)],
    "join": [(64, 64, 4, 2, 1)] * 4,
    "attend": [(128, 128, 8, 2, 1), (128, 64, 8, 2, 1), (32, 32, 4, 1, 1), (16, 32, 4, 1, 1)],
    "sum_queries": [(64, 128, 8, 2, 1), (64, 128, 8, 2, 1), (32, 32, 4, 1, 1), (32, 16, 8, 1, 1)],
    "differentiate_keys": [(64, 32, 4, 2, 1), (32, 32, 4, 2, 1), (16, 32, 4, 1, 1), (16, 16, 8, 1, 1)],
    "differentiate_queries": [(64, 128, 8, 2, 1), (64, 64, 8, 2, 1), (32, 32, 8, 1, 1), (16, 16, 4, 1, 1)],
}
"""BLOCK_N, BLOCK_M, num_warps, num_stages and REPEAT; 16 bits up to a width of 64 and above, then 32 bits."""
_OLDER_TILES: dict[str, list[tuple[int, int, int, int, int]]] = {
    "sum_rows": [(64, 16, 4, 2, 1), (32, 16, 4, 2, 1)],
    "sum_keys": [(32, 64, 4, 2, 1), (64, 64, 8, 2, 1)],
    "attend": [(128, 128, 8, 2, 1), (64, 64, 8, 2, 1)],
    "sum_queries": [(64, 64, 4, 2, 1), (64, 64, 8, 2, 1)],
    "differentiate_keys": [(32, 32, 4, 2, 1), (32, 32, 8, 2, 1)],
}
"""The same for 16 bits on GPUs before Hopper, where sums are in the registers of more threads."""


def tiles(name: str, width: int, itemsize: int, features: int, older: bool = False) -> dict[str, int]:
    """BLOCK_N positions, BLOCK_M features, REPEAT blocks a program, num_warps and num_stages of a kernel.

    Args:
        name: of the kernel.
        width: the larger of d and e, padded.
        itemsize: bytes of a number in matrix products.
        features: M.
        older: whether the GPU is one before Hopper.
    """
    replaced = TILES.get((name, width, itemsize), {})
    return _tiles(name, width, itemsize, features, older, tuple(replaced.items()))


@cache
def _tiles(
    name: str, width: int, itemsize: int, features: int, older: bool, replaced: tuple[tuple[str, int], ...]
) -> dict[str, int]:
    table = _OLDER_TILES if older and itemsize == 2 and name in _OLDER_TILES else _TILES
    sizes = table[name][2 * (itemsize == 4) + (width > 64)]
    chosen = dict(zip(_NAMES, sizes, strict=True)) | dict(replaced)
    block_m = min(chosen["BLOCK_M"], max(16, triton.next_power_of_2(features)))
    if block_m < 64 and itemsize == 2 and width <= 64:
        chosen["num_warps"] = 4
    return chosen | {"BLOCK_M": block_m}
