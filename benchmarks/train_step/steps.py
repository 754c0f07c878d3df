"""Training steps against length: the peak memory of one in a separate process, and times of models that take turns."""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.measure import seconds
from benchmarks.models import Sizes, redraw
from benchmarks.train_step.memory import MemoryCase, separate_step
from protlm.batching.batches import Batch
from protlm.performer import Performer
from protlm.performer.baselines import Exact, ExactAttention
from protlm.performer.kind import AttentionSettings, Kind

MATRIX = "matrix"
PASSES = ["forward", "train_forward", "backward"]
MIB = 2**20


@dataclass(frozen=True)
class Matrix(Exact):
    """Exact attention that stores its matrix."""

    def module(self, settings: AttentionSettings) -> nn.Module:
        return MatrixAttention(settings.causal)


class MatrixAttention(ExactAttention):
    """`ExactAttention` computed as matrix products and a softmax of (B, H, L, L)."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            return super().forward(q, k, v, key_mask)


def kind_of(name: str) -> str | Kind:
    """The value of a model's `attention` for a kind of this benchmark."""
    return Matrix() if name == MATRIX else name


class Steps:
    """Training steps of one kind of attention in separate processes: peak memory, and whether a longer one is feasible.

    Args:
        kind: of attention.
        direction: of DIRECTIONS.
        sizes: of the model.
        allowed: bytes that a step may use in addition to the imported program.
        limit: seconds that a step may take.
    """

    def __init__(self, kind: str | Kind, direction: str, sizes: Sizes, allowed: int, limit: float) -> None:
        self.kind, self.direction = kind, direction
        self._sizes, self._allowed, self._limit = sizes, allowed, limit
        self.peaks: dict[int, int | None] = {}
        self.seconds: dict[int, float] = {}

    def run(self, length: int) -> int | None:
        """Peak bytes of one step; None if it ran out of memory or was killed."""
        found = separate_step(MemoryCase(self.kind, self.direction, False, length), self._sizes, self._allowed)
        self.peaks[length] = found and found[0]
        if found:
            self.seconds[length] = found[1]
        return self.peaks[length]

    def learn(self, row: Mapping[str, str]) -> None:
        """Adds a length from its row in the table, as if it had been run."""
        length = int(row["length"])
        if row["peak_mib"]:
            self.peaks[length] = round(float(row["peak_mib"]) * MIB)
            self.seconds[length] = float(row["train_forward_seconds"]) + float(row["backward_seconds"])
        elif row["outcome"] == "out of memory":
            self.peaks[length] = None

    def affordable(self, length: int) -> bool:
        """Whether a step should stay within the limit, extrapolating the growth between the last two lengths."""
        before = sorted(known for known in self.seconds if known <= length)
        if not before:
            return True
        last, power = before[-1], 1.0
        if len(before) > 1:
            growth = math.log(self.seconds[last] / self.seconds[before[-2]]) / math.log(last / before[-2])
            power = min(2.0, max(1.0, growth))  # between linear and quadratic; anything else is noise
        return self.seconds[last] * (length / last) ** power <= self._limit


def time_passes(model: Performer, batch: Batch) -> list[float]:
    """Seconds of each of PASSES; `redraw` is part of the forward pass of training. Gradients are cleared."""

    @torch.no_grad()
    def forward() -> None:
        model(batch.inputs, batch.key_mask)

    model.eval()
    times = [seconds(forward)]
    model.train()
    start = time.perf_counter()
    redraw(model)
    loss = model.loss(model(batch.inputs, batch.key_mask), batch.targets)
    middle = time.perf_counter()
    loss.backward()
    times += [middle - start, time.perf_counter() - middle]
    model.zero_grad()
    return times


def take_turns(runs: Mapping[str, Callable[[], list[float]]], repeats: int, budget: float) -> dict[str, dict[str, Any]]:
    """Median seconds of each of PASSES by name, and the number of counted turns; the functions take turns.

    The first turn is a warm-up, unless `budget` seconds leave time for no other.
    """
    times: dict[str, list[list[float]]] = {name: [] for name in runs}
    for turn in range(repeats + 1):
        for name, run in runs.items():
            spent = sum(map(sum, times[name]))
            if turn == 0 or (len(times[name]) == turn and spent * (turn + 1) / turn <= budget):
                times[name].append(run())
    found = {}
    for name, turns in times.items():
        counted = turns[1:] or turns
        found[name] = {
            f"{part}_seconds": statistics.median(values)
            for part, values in zip(PASSES, zip(*counted, strict=True), strict=True)
        }
        found[name]["turns"] = len(counted)
    return found
