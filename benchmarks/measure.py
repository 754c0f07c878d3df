"""Time and memory of functions of tensors, and what all benchmark programs share: argument types and exit codes."""

import argparse
import gc
import math
import signal
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor

from protlm.errors import UserError

Function = Callable[..., Tensor]


def forward(function: Function, inputs: list[Tensor]) -> Callable[[], None]:
    """A call without gradients."""

    def run() -> None:
        with torch.no_grad():
            function(*inputs)

    return run


def forward_backward(function: Function, inputs: list[Tensor]) -> Callable[[], None]:
    """A call, and the gradients of all inputs."""

    def run() -> None:
        leaves = [x.detach().requires_grad_() for x in inputs]
        result = function(*leaves)
        result.backward(torch.ones_like(result))

    return run


PASSES = {"forward": forward, "forward+backward": forward_backward}


def program(main: Callable[[], int | None]) -> NoReturn:
    """Runs a benchmark's main function and exits: code 2 and one line for a `UserError`, 130 for Ctrl-C."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:  # see __init__.py
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


def positive(text: str) -> int:
    """For argparse: a positive integer."""
    return natural(text, 1)


def numbers(text: str) -> list[int]:
    """For argparse: positive integers, separated by commas."""
    try:
        return [positive(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected positive integers, separated by commas") from None


def natural(text: str, least: int = 0) -> int:
    """For argparse: a non-negative integer."""
    value = int(text)
    if value < least:
        raise ValueError
    return value


def amount(text: str) -> float:
    """For argparse: a number above 0."""
    value = float(text)
    if not 0 < value < math.inf:
        raise ValueError
    return value


def seconds(run: Callable[[], None]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def medians(runs: dict[str, Callable[[], None]], repeats: int) -> dict[str, float]:
    """Median seconds by name; the functions take turns, so that a noisy moment affects all of them."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats + 1):
        for name, run in runs.items():
            times[name].append(seconds(run))
    return {name: statistics.median(values[1:]) for name, values in times.items()}  # the first call warms up


def peak_bytes(run: Callable[[], None]) -> int:
    """Memory of the process at the peak of one call minus memory before it (Linux).

    Call it in a process that has not freed anything large, since freed memory is not always returned to the system.
    """
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak to the memory now in use
    before = kibibytes("/proc/self/status", "VmRSS")
    run()
    return (kibibytes("/proc/self/status", "VmHWM") - before) * 1024


def kibibytes(path: str, field: str) -> int:
    """A field of a file in /proc (Linux)."""
    line = next(line for line in Path(path).read_text().splitlines() if line.startswith(f"{field}:"))
    return int(line.split()[1])
