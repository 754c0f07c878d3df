"""Random permutations in constant memory: each element is computed independently."""

from functools import lru_cache

import numpy as np

_LISTED = 1 << 16  # up to this size the permutation is stored
_ROUNDS = 8


def mix(x: np.ndarray) -> np.ndarray:
    """Hashes (n,) uint64.

    The finaliser of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators").
    """
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class Permutation:
    """A random permutation of the numbers below `size`, as a function from positions (n,) to numbers (n,) int64.

    Small permutations are drawn by numpy. Large ones are a Feistel network of eight rounds over the next power of two,
    with cycle walking from every result that is too large (Black and Rogaway 2002, "Ciphers with arbitrary finite
    domains"), so no array of `size` elements is made.

    Args:
        size: at least 0.
        key: determines the permutation.
    """

    def __init__(self, size: int, key: tuple[int, ...]) -> None:
        self.size = size
        self._order: np.ndarray | None = None
        if size <= _LISTED:
            self._order = np.random.default_rng(key).permutation(size)
            return
        self._bits = (size - 1).bit_length()
        self._keys = np.random.SeedSequence(key).generate_state(_ROUNDS, np.uint64)

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        if self._order is not None:
            return self._order[positions]
        numbers = self._scramble(np.asarray(positions, dtype=np.uint64))
        while (out := np.flatnonzero(numbers >= self.size)).size:
            numbers[out] = self._scramble(numbers[out])
        return numbers.astype(np.int64)

    def _scramble(self, x: np.ndarray) -> np.ndarray:
        """Permutes numbers of `_bits` bits: the halves are swapped, one mixed with a hash of the other."""
        low_bits = self._bits // 2
        high_bits = self._bits - low_bits
        high, low = x >> np.uint64(low_bits), x & np.uint64((1 << low_bits) - 1)
        for key in self._keys:
            high, low = low, high ^ (mix(low + key) & np.uint64((1 << high_bits) - 1))
            high_bits, low_bits = low_bits, high_bits
        return (high << np.uint64(low_bits)) | low


@lru_cache(maxsize=16)
def permutation(size: int, key: tuple[int, ...]) -> Permutation:
    """A cached `Permutation`."""
    return Permutation(size, key)
