"""Peak memory of a training step, measured in a separate process; see benchmarks/train_step/__main__.py."""

import multiprocessing
import resource
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import kibibytes, peak_bytes
from benchmarks.models import DIRECTIONS, Sizes, bare_step, random_batch
from protlm.performer.kind import Kind
from protlm.training.base_task import return_freed_memory
from protlm.training.optimizer import adamw

GIB = 2**30
RESERVE = 2 * GIB  # left free for other processes


IMPORTED = ["torch._dynamo", "protlm.training.task", "protlm.training.optimizer"]
"""Imported once for all processes, since importing takes longer than most steps."""


@dataclass(frozen=True)
class MemoryCase:
    """One measurement of `memory`."""

    attention: str | Kind
    direction: str
    checkpointing: bool
    length: int


def step_memory(case: MemoryCase, sizes: Sizes, threads: int, limit: int) -> tuple[int, float] | None:
    """Peak bytes and seconds of one step, measured in this process; None if it runs out of memory."""
    torch.set_num_threads(threads)
    Path("/proc/self/oom_score_adj").write_text("1000")  # the first to be killed if memory runs out
    seconds = 0.0

    def full_step(sizes: Sizes, length: int) -> None:
        nonlocal seconds
        model = sizes.build(case.attention, DIRECTIONS[case.direction], length)
        model.activation_checkpointing = case.checkpointing
        if case.checkpointing:
            return_freed_memory()  # as LanguageModelTask does
        step = bare_step(model, adamw(model))
        step(random_batch(1, min(length, 32)))  # allocates the optimizer state, as in every later step
        start = time.perf_counter()
        step(random_batch(1, length))
        seconds = time.perf_counter() - start

    full_step(Sizes(1, 16, 2, 16, 8), 32)  # loads libraries
    most = kibibytes("/proc/self/status", "VmData") * 1024 + limit
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))  # allocations beyond it fail
    try:
        return peak_bytes(lambda: full_step(sizes, case.length)), seconds
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or "alloc" in str(error) or "memory" in str(error):
            return None
        raise


def separate_step(case: MemoryCase, sizes: Sizes, limit: int) -> tuple[int, float] | None:
    """`step_memory` in a new process; None also if that process is killed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    try:
        with ProcessPoolExecutor(1, context) as pool:
            return pool.submit(step_memory, case, sizes, torch.get_num_threads(), limit).result()
    except BrokenProcessPool:
        return None


def measure_memory(
    lengths: Iterable[int], sizes: Sizes, kinds: Iterable[str], directions: Iterable[str], limit: int
) -> Iterator[dict[str, Any]]:
    """A row for each case, printed as it is measured."""
    name = f"batch 1, {sizes.layers} layers of width {sizes.width}: GiB at the peak of a step, and seconds"
    print(f"{name}\n{'':<30}{'length':>8}{'all stored':>20}{'checkpointing':>20}", flush=True)
    for kind in kinds:
        for direction in directions:
            for length in lengths:
                print(f"{kind + ', ' + direction:<30}{length:>8}", end="", flush=True)
                for checkpointing in (False, True):
                    case = MemoryCase(kind, direction, checkpointing, length)
                    found = separate_step(case, sizes, limit)
                    cell = f"{found[0] / GIB:.2f} ({found[1]:.1f} s)" if found else "out of memory"
                    print(f"{cell:>20}", end="\n" if checkpointing else "", flush=True)
                    peak, seconds = found or ("", "")
                    yield {**asdict(case), "layers": sizes.layers, "peak_bytes": peak, "seconds": seconds}
