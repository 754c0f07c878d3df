"""A shuffled order that takes no memory: each place is computed by itself."""

from functools import lru_cache

import numpy as np

_LISTED = 1 << 16  # up to here the order is drawn as a whole
_ROUNDS = 8


def mix(x: np.ndarray) -> np.ndarray:
    """Scrambles the bits of (n,) uint64: equal for equal numbers, without pattern for others.

    The finaliser of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number generators").
    """
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class Permutation:
    """A random order of the numbers below `size`, as a function from places (n,) to numbers (n,) int64.

    Small ones are drawn by numpy. Large ones are a Feistel network of eight rounds over the next power of two, walked
    again from every result that is too large (Black and Rogaway 2002, "Ciphers with arbitrary finite domains"): no
    array of `size` is ever made, and any place can be asked for at once.

    Args:
        size: from 0.
        key: the same key gives the same order.
    """

    def __init__(self, size: int, key: tuple[int, ...]) -> None:
        self.size = size
        self._order: np.ndarray | None = None
        if size <= _LISTED:
            self._order = np.random.default_rng(key).permutation(size)
            return
        self._bits = (size - 1).bit_length()
        self._keys = np.random.SeedSequence(key).generate_state(_ROUNDS, np.uint64)

    def __call__(self, places: np.ndarray) -> np.ndarray:
        if self._order is not None:
            return self._order[places]
        numbers = self._scramble(np.asarray(places, dtype=np.uint64))
        while (out := np.flatnonzero(numbers >= self.size)).size:
            numbers[out] = self._scramble(numbers[out])
        return numbers.astype(np.int64)

    def _scramble(self, x: np.ndarray) -> np.ndarray:
        """A permutation of numbers of `_bits` bits: the halves change places, one mixed with a hash of the other."""
        low_bits = self._bits // 2
        high_bits = self._bits - low_bits
        high, low = x >> np.uint64(low_bits), x & np.uint64((1 << low_bits) - 1)
        for key in self._keys:
            high, low = low, high ^ (mix(low + key) & np.uint64((1 << high_bits) - 1))
            high_bits, low_bits = low_bits, high_bits
        return (high << np.uint64(low_bits)) | low


@lru_cache(maxsize=16)
def permutation(size: int, key: tuple[int, ...]) -> Permutation:
    """A `Permutation`, kept for the next call."""
    return Permutation(size, key)
