"""Seconds of a training step of each kind of attention, on the same batch, the kinds taking turns.

A step is forward pass, loss, backward pass, clipping and optimizer step; the median is reported. The time of drawing
directions is added in proportion to the draws of a run: one before each step of Reformer, fewer for a Performer.
"""

import csv
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import nn

from benchmarks.measure import medians
from benchmarks.models import bare_step, random_batch
from benchmarks.quality.recipe import build, composed, recipe_of
from benchmarks.tables import check_outputs, write_csv
from protlm.errors import UserError, counted
from protlm.performer import Performer

LONG = 1024
"""The time to the same accuracy is reported at this length."""
COLUMNS = ["direction", "kind", "length", "batch", "parameters", "threads", "recipe", "seconds"]
STEP = ("model.", "optimizer.", "redraw.", "data.token_budget", "trainer.precision", "trainer.gradient_clip_val")
"""Prefixes of the options, besides the length, that determine the time of a step."""


@dataclass(frozen=True)
class TrainingStep:
    """A training step of a model with random weights.

    Args:
        model: the model that the step changes.
        run: a step without drawing directions.
        draws: draws per step, averaged over a run.
    """

    model: Performer
    run: Callable[[], None]
    draws: float

    def draw(self) -> None:
        """Draws new directions, as training does."""
        self.model.redraw(self.model.draw_number + 1)


def training_step(config: DictConfig, length: int) -> TrainingStep:
    """A step on sequences of full length with as many tokens as in training.

    Raises:
        UserError: if the configuration is not that of a model.
    """
    torch.manual_seed(0)
    model = build(config)
    optimizer = instantiate(config.optimizer, _convert_="all")(model)
    batch = random_batch(max(1, config.data.token_budget // length), length)
    step = partial(bare_step(model, optimizer, config.trainer.gradient_clip_val, draws=False), batch)
    return TrainingStep(model, step, draws_per_step(config, model))


def draws_per_step(config: DictConfig, model: Performer) -> float:
    """Draws per step, averaged over a run with `protlm.training.callbacks.RedrawFeatures`."""
    if not (redraw := config.callbacks.get("redraw")):
        return 0.0
    every = model.config.redraw_every if redraw.every_n_steps is None else redraw.every_n_steps
    steps = config.trainer.max_steps
    return min(steps - 1, int(redraw.until * steps)) // every / steps if every and steps > 0 else 0.0


def mean_seconds(steps: Mapping[str, TrainingStep], repeats: int) -> dict[str, float]:
    """Seconds of a step by name, draws included; the steps take turns, then the draws."""
    seconds = medians({name: step.run for name, step in steps.items()}, repeats)
    draws = medians({name: step.draw for name, step in steps.items() if step.draws}, repeats)
    return {name: found + steps[name].draws * draws.get(name, 0.0) for name, found in seconds.items()}


def size(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(weight.numel() for weight in module.parameters())


def measure_steps(
    pairs: Sequence[tuple[str, str]],
    kinds: Mapping[str, Sequence[str]],
    directions: Mapping[str, str],
    lengths: Sequence[int] | None,
    repeats: int,
    overrides: Sequence[str],
    path: Path,
) -> None:
    """Prints and writes the table; rows that are already in the file stay if their options and threads are the same.

    Args:
        pairs: (direction, kind) to measure.
        kinds, directions: name -> options of `protlm.train`, for everything that can be in the file.
        lengths: of the sequences, in tokens; None for the recipe's and `LONG`.
        repeats: number of steps whose median is reported, after one warm-up step.
        overrides: additional options.
        path: the CSV file.

    Raises:
        UserError: for an invalid model, or a file that cannot be written or is something else.
    """
    check_outputs(path)
    before = read_table(path)
    base = ["+experiment=quality", "data.corpus=none"]  # no data is read
    budget = composed([*base, *overrides]).data
    lengths = lengths or sorted({budget.max_length, LONG})
    rows: list[dict[str, Any]] = []
    threads = torch.get_num_threads()

    def options(direction: str, kind: str) -> list[str]:
        return [*base, directions[direction], *kinds[kind], *overrides]

    @cache
    def recipe(direction: str, kind: str) -> str:
        return step_recipe(recipe_of(composed(options(direction, kind))))

    def stays(row: Mapping[str, str]) -> bool:
        known = row["direction"] in directions and row["kind"] in kinds and row["threads"] == str(threads)
        return known and row["recipe"] == recipe(row["direction"], row["kind"])

    for direction in dict.fromkeys(direction for direction, _ in pairs):
        names = [kind for where, kind in pairs if where == direction]
        for length in lengths:
            print(f"\n{direction}, L={length}, {budget.token_budget:,} tokens per step: milliseconds (ratio to exact)")
            steps, about = {}, {}
            for kind in names:
                sizes = [f"data.max_length={length}", f"data.token_budget={max(length, budget.token_budget)}"]
                steps[kind] = step = training_step(composed([*options(direction, kind), *sizes]), length)
                about[kind] = {"parameters": size(step.model), "threads": threads, "recipe": recipe(direction, kind)}
            seconds = mean_seconds(steps, repeats)
            for kind in names:
                ratio = f" ({seconds[kind] / seconds['exact']:.2f})" if "exact" in seconds else ""
                print(f"{kind:<16}{1e3 * seconds[kind]:>8.0f}{ratio}", flush=True)
                batch = max(1, budget.token_budget // length)
                row = {"direction": direction, "kind": kind, "length": str(length), "batch": batch}
                rows.append({**row, **about[kind], "seconds": seconds[kind]})
    new = {(row["direction"], row["kind"], row["length"]) for row in rows}
    others = [row for row in before if (row["direction"], row["kind"], row["length"]) not in new]
    kept = [row for row in others if stays(row)]
    if len(kept) < len(others):
        print(f"\n{path}: removed {counted(len(others) - len(kept), 'row')} with other options or threads")
    write_csv([*rows, *kept], path)


def step_recipe(options: Mapping[str, Any]) -> str:
    """The options of a run that determine the time of a step, as a hash of 12 digits."""
    without = ("model.max_length", "model.feature_seed")
    left = {name: value for name, value in options.items() if name.startswith(STEP) and name not in without}
    return hashlib.sha256(json.dumps(left, sort_keys=True).encode()).hexdigest()[:12]


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of the file of `measure_steps`; none without the file.

    Raises:
        UserError: if the file is something else.
    """
    if not path.exists():
        return []
    try:
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
        if reader.fieldnames == COLUMNS and all(int(row["length"]) and float(row["seconds"]) for row in rows):
            return rows
    except (OSError, ValueError, TypeError, csv.Error):
        pass
    raise UserError(f"{path}: not a table of 'python -m benchmarks.quality time'; remove it, and measure again")


def read_seconds(path: Path, length: int = LONG) -> dict[tuple[str, str, str], float]:
    """(direction, kind, `step_recipe`) -> seconds of a step at that length, from the file of `measure_steps`."""
    rows = [row for row in read_table(path) if int(row["length"]) == length]
    return {(row["direction"], row["kind"], row["recipe"]): float(row["seconds"]) for row in rows}
