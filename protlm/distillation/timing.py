"""Seconds of a forward pass of teacher and student, by length."""

import math
import time
from collections.abc import Callable, Sequence
from statistics import median

import torch

from protlm.performer import Performer
from protlm.sequence.alphabet import INDEX, STANDARD

LENGTHS = (1024, 2048, 4096, 8192, 16_384, 32_768)
"""Tokens at which both models are timed."""
MINUTE = 60.0
_REPEATS, _SHORT = 3, 5.0  # passes, and seconds up to which they are repeated


def timed(
    teacher: Performer,
    student: Performer,
    lengths: Sequence[int] = LENGTHS,
    limit: float = math.inf,
    note: Callable[[str], None] = lambda text: None,
) -> tuple[dict[int, list[float]], str | None]:
    """Times one protein of each length.

    Args:
        teacher, student: in evaluation mode.
        lengths: in tokens.
        limit: seconds of a pass of the teacher; longer proteins are left out. Its time grows at most with the square
            of the length.
        note: called with what is measured next.

    Returns:
        length -> seconds of teacher and student, the median of three passes, or one of more than five seconds; and why
        no longer proteins were timed, or None.
    """
    seconds: dict[int, list[float]] = {}
    for length in sorted(lengths):
        if seconds:
            last = max(seconds)
            expected = seconds[last][0] * (length / last) ** 2
            if expected > limit:
                return seconds, f"not timed from {length:,} tokens on: the teacher would take up to {expected:.0f} s"
        note(f"time at {length:,} tokens")
        try:
            seconds[length] = [_seconds(model, length) for model in (teacher, student)]
        except (torch.OutOfMemoryError, MemoryError):
            return seconds, f"not timed from {length:,} tokens on: not enough memory"
        except RuntimeError as error:
            if "memory" not in str(error):  # of the CPU's allocator
                raise
            return seconds, f"not timed from {length:,} tokens on: not enough memory"
    return seconds, None


def _seconds(model: Performer, length: int) -> float:
    device = model.embedding.weight.device
    generator = torch.Generator().manual_seed(length)
    residues = torch.tensor([INDEX[letter] for letter in STANDARD])
    row = residues[torch.randint(len(STANDARD), (1, length), generator=generator)].to(device)
    taken: list[float] = []
    while len(taken) < _REPEATS and sum(taken) < _SHORT:
        start = time.perf_counter()
        model.hidden(row).sum().item()  # waits for the device
        taken.append(time.perf_counter() - start)
    return median(taken)
