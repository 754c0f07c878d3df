"""The longest sequence whose training step fits into a given memory, found with few steps."""

from collections.abc import Callable
from math import sqrt

NEAR = 0.01
"""The search ends within this fraction of the length."""
ROOM = 0.995
"""The search aims at this fraction of the memory, so as not to end just above it."""
GRAIN = 32
"""Lengths to try are multiples of this."""
TRIES = 8


def largest_length(
    peaks: dict[int, int | None],
    memory: int,
    run: Callable[[int], int | None],
    affordable: Callable[[int], bool],
) -> tuple[int, str]:
    """The largest length whose peak is at most `memory` bytes, and how it was found.

    "measured": a step of this length was run and fits; one a hundredth longer should not. If the next step would take
    too long: "interpolated" or "extrapolated" linearly from the two nearest lengths that were run, or "at least" if
    that exceeds twice the longest of them. "none": no length fits.

    Args:
        peaks: length -> peak bytes, or None for a step that ran out of memory; lengths that are run are added.
        memory: bytes.
        run: measures the peak of a length.
        affordable: whether a step of a length is fast enough to be run.

    >>> peaks = {1000: 100_000, 2000: 200_000}
    >>> largest_length(peaks, 151_000, lambda n: 100 * n, lambda n: True)
    (1472, 'measured')
    >>> largest_length(peaks, 301_000, lambda n: 100 * n, lambda n: False)
    (2976, 'extrapolated')
    """

    def fits(length: int) -> bool:
        peak = peaks[length]
        return peak is not None and peak <= memory

    low = 0
    for _ in range(TRIES):
        low = max((length for length in peaks if fits(length)), default=0)
        if not low:
            return 0, "none"
        high = min((length for length in peaks if length > low), default=None)
        guess, how = _estimate(peaks, low, high, ROOM * memory)
        if guess <= low * (1 + NEAR):
            break
        if not affordable(min(guess, 2 * low)):
            return (guess, how) if high or guess <= 2 * low else (low, "at least")
        guess = min(guess, 2 * low)
        peaks[guess] = run(guess)
    return low, "measured"


def _estimate(peaks: dict[int, int | None], low: int, high: int | None, memory: float) -> tuple[int, str]:
    """Where a line through the nearest two lengths reaches the memory, and on which side of them."""
    one, how = (high, "interpolated") if high and peaks[high] else (None, "extrapolated")
    if one is None:
        one = max((length for length in peaks if length < low), default=None)
    first, last = peaks[low] or 0, (peaks[one] or 0) if one else 0
    slope = (last - first) / (one - low) if one else first / low
    guess = low + (memory - first) / slope if slope > 0 else 2.0 * low + GRAIN
    if high and guess >= high:
        guess = sqrt(low * high)
    return int(guess) // GRAIN * GRAIN, how
