"""Reports of progress, which library functions make and the command line shows as a bar."""

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Gets how much is done so far, and the total; a total of 0 is unknown."""
Advance = Callable[[int], None]
"""Gets how much was done since the last call."""


def summed(progress: Progress | None, total: int = 0) -> Advance:
    """Reports the sum of what each call has advanced."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress:
            progress(done, total)

    return advance
