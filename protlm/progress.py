"""Reports of progress: library functions make them; a terminal shows them as a bar, a log as plain lines."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Progress = Callable[[int, int], None]
"""Gets how much is done so far, and the total; a total of 0 is unknown."""
Advance = Callable[[int], None]
"""Gets how much was done since the last call."""
Stage = Callable[[str, str], Progress]
"""Label and unit of a stage of a run, such as "embedding" and "residues" -> where its progress is reported."""


def summed(progress: Progress | None, total: int = 0) -> Advance:
    """Reports the sum of what each call has advanced."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress:
            progress(done, total)

    return advance


def duration(seconds: float) -> str:
    """Hours, minutes and seconds, for messages.

    >>> duration(59.6), duration(3725), duration(200_000)
    ('1:00', '1:02:05', '2 d 7:33:20')
    """
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    clock = f"{hour}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"
    return f"{days} d {clock}" if days else clock


def plain_lines(
    show: Callable[[str], None], label: str, unit: str, seconds: float = 60, clock: Callable[[], float] = time.monotonic
) -> Progress:
    """A `Progress` that shows a line at most every `seconds`: for a log, in which a bar cannot move.

    Args:
        show: prints a line.
        label, unit: what is done, and what is counted, such as "embedding" and "residues".
        seconds: between two lines; the first comes after the same time. Rates count from the first report, since a
            resumed run does not start at 0.
        clock: tells the time in seconds.

    >>> now = iter([0, 30, 60, 61, 130])
    >>> report = plain_lines(print, "embedding", "residues", clock=lambda: next(now))
    >>> for done in (100, 200, 201, 300):
    ...     report(done, 1000)
    embedding: 200 of 1,000 residues (20 %), 3 residues/s, 4:00 left
    embedding: 300 of 1,000 residues (30 %), 2 residues/s, 5:50 left
    >>> now = iter([0, 0, 90])
    >>> report = plain_lines(print, "scoring", "assays", clock=lambda: next(now))
    >>> report(0, 217), report(1, 217)
    scoring: 1 of 217 assays (0 %), 1:30 per assay, 5:24:00 left
    (None, None)
    """
    start = shown = clock()
    before: int | None = None  # by an earlier run

    def report(done: int, total: int) -> None:
        nonlocal start, shown, before
        now = clock()
        if before is None:
            start, before = now, done
        if now - shown < seconds:
            return
        shown, rate = now, (done - before) / max(now - start, 1e-9)
        slow = 0 < rate < 1
        speed = f"{duration(1 / rate)} per {unit.removesuffix('s')}" if slow else f"{rate:,.0f} {unit}/s"
        line = f"{label}: {done:,} {unit}, {speed}"
        if total:
            left = f", {duration((total - done) / rate)} left" if rate else ""
            line = f"{label}: {done:,} of {total:,} {unit} ({100 * done / total:.0f} %), {speed}{left}"
        show(line)

    return report


def _on_standard_error(label: str, unit: str) -> Progress:
    return plain_lines(lambda line: print(line, file=sys.stderr, flush=True), label, unit)


_STAGE: ContextVar[Stage] = ContextVar("stage", default=_on_standard_error)


@contextmanager
def reporting_to(stage: Stage) -> Iterator[None]:
    """Within the context, `reported` reports to `stage`.

    >>> with reporting_to(lambda label, unit: lambda done, total: print(label, done, "of", total, unit)):
    ...     reported("comparing", "proteins")(1, 2)
    comparing 1 of 2 proteins
    """
    token = _STAGE.set(stage)
    try:
        yield
    finally:
        _STAGE.reset(token)


def reported(label: str, unit: str) -> Progress:
    """Where to report, for code that a configuration file builds, so that no argument reaches it.

    This is the stage of the `reporting_to` around it or, without one, plain lines on standard error.
    """
    return _STAGE.get()(label, unit)
