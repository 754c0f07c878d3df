"""Chance that depends on numbers alone: the same for a sample wherever and whenever it is made."""

import numpy as np


class KeyedGenerator:
    """A numpy generator that is set to a stream of its own for each key, in 3 microseconds instead of 36 for a new one.

    The streams are those of the counter-based Philox4x64 (Salmon et al. 2011, "Parallel random numbers: as easy as
    1, 2, 3"), whose key they are.

    Args:
        seed: numbers from 0 that all streams depend on.

    >>> generator = KeyedGenerator(1, 2)
    >>> first = generator(5, 7).random()
    >>> generator(5, 8).random() == first, generator(5, 7).random() == first
    (False, True)
    """

    def __init__(self, *seed: int) -> None:
        self._base = np.random.SeedSequence(seed).generate_state(2, np.uint64)
        self._philox = np.random.Philox(0)
        self._generator = np.random.Generator(self._philox)
        self._state = self._philox.state
        self._key = self._state["state"]["key"]

    def __call__(self, first: int, second: int) -> np.random.Generator:
        """The generator at the beginning of the stream of two numbers from 0 below 2^63; used up at the next call."""
        self._key[0], self._key[1] = self._base[0] ^ np.uint64(first), self._base[1] ^ np.uint64(second)
        self._philox.state = self._state
        return self._generator
