"""Seconds of a training step of each kind of attention, on the same batch, the kinds taking turns.

A step is forward, loss, backward, clipping and the optimizer's step, and Reformer's draw of directions; redraws of the
Performers, every 25 steps and more, are not in the median.
"""

import csv
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import nn

from benchmarks.measure import medians
from benchmarks.models import bare_step, random_batch
from benchmarks.quality_plan import build, composed, recipe_of
from benchmarks.tables import check_outputs, write_csv
from protlm.errors import UserError
from protlm.performer import Performer

LONG = 1024
"""Length at which the time to the same accuracy is stated."""
COLUMNS = ["direction", "kind", "length", "batch", "parameters", "threads", "recipe", "seconds"]
STEP = ("model.", "optimizer.", "data.token_budget", "trainer.precision", "trainer.gradient_clip_val")
"""Beginnings of options that the time of a step depends on, but for the length."""


def training_step(config: DictConfig, length: int) -> tuple[Callable[[], None], Performer]:
    """A step of a model with random weights on a batch of full length, as many tokens as in training; the model.

    Raises:
        UserError: for a model that cannot be made.
    """
    torch.manual_seed(0)
    model = build(config)
    optimizer = instantiate(config.optimizer, _convert_="all")(model)
    batch = random_batch(max(1, config.data.token_budget // length), length)
    step = partial(bare_step(model, optimizer, config.trainer.gradient_clip_val), batch)
    return step, model


def size(module: nn.Module) -> int:
    """Parameters."""
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
    """Prints the table and writes it; rows of the file for other kinds, directions and lengths stay in it.

    Args:
        pairs: (direction, kind) to be measured.
        kinds, directions: name -> options of `protlm.train`.
        lengths: of the sequences, in tokens; None for that of the recipe and `LONG`.
        repeats: steps of which the median is taken, after one more.
        overrides: more options.
        path: the CSV file.

    Raises:
        UserError: for a model that cannot be made, a file that cannot be written or is something else.
    """
    check_outputs(path)
    kept = {(row["direction"], row["kind"], row["length"]): row for row in read_rows(path)}
    base = ["+experiment=quality", "data.corpus=none"]  # nothing is read from it
    budget = composed([*base, *overrides]).data
    lengths = lengths or sorted({budget.max_length, LONG})
    rows: list[dict[str, Any]] = []
    threads = torch.get_num_threads()
    for direction in dict.fromkeys(direction for direction, _ in pairs):
        names = [kind for where, kind in pairs if where == direction]
        for length in lengths:
            print(f"\n{direction}, L={length}, {budget.token_budget:,} tokens a step: milliseconds (ratio to exact)")
            steps, about = {}, {}
            for kind in names:
                sizes = [f"data.max_length={length}", f"data.token_budget={max(length, budget.token_budget)}"]
                options = [*base, directions[direction], *kinds[kind], *overrides, *sizes]
                config = composed(options)
                steps[kind], model = training_step(config, length)
                about[kind] = {"parameters": size(model), "threads": threads, "recipe": step_recipe(recipe_of(config))}
            seconds = medians(steps, repeats)
            for kind in names:
                ratio = f" ({seconds[kind] / seconds['exact']:.2f})" if "exact" in seconds else ""
                print(f"{kind:<16}{1e3 * seconds[kind]:>8.0f}{ratio}", flush=True)
                batch = max(1, budget.token_budget // length)
                row = {"direction": direction, "kind": kind, "length": str(length), "batch": batch}
                kept.pop((direction, kind, str(length)), None)
                rows.append({**row, **about[kind], "seconds": seconds[kind]})
    write_csv([*rows, *kept.values()], path)


def step_recipe(options: Mapping[str, Any]) -> str:
    """Of the options of a run, those that the time of a step depends on, as 12 digits."""
    without = ("model.max_length", "model.feature_seed")
    left = {name: value for name, value in options.items() if name.startswith(STEP) and name not in without}
    return hashlib.sha256(json.dumps(left, sort_keys=True).encode()).hexdigest()[:12]


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of the file of `measure_steps`; none without it.

    Raises:
        UserError: if it is something else.
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
    raise UserError(f"{path}: no table of 'python -m benchmarks.quality time'; remove it, and measure again")


def read_seconds(path: Path, length: int = LONG) -> dict[tuple[str, str, str], float]:
    """(direction, kind, `step_recipe`) -> seconds of a step at that length, of the file of `measure_steps`."""
    rows = [row for row in read_rows(path) if int(row["length"]) == length]
    return {(row["direction"], row["kind"], row["recipe"]): float(row["seconds"]) for row in rows}
