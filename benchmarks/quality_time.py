"""Seconds of a training step of each kind of attention, on the same batch, the kinds taking turns.

A step is forward, loss, backward, clipping and the optimizer's step, of which the median is taken; what the draws of
directions take is added, by how many there are in a run: one before each step of Reformer, fewer of a Performer.
"""

import csv
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
from protlm.errors import UserError, counted
from protlm.performer import Performer

LONG = 1024
"""Length at which the time to the same accuracy is stated."""
COLUMNS = ["direction", "kind", "length", "batch", "parameters", "threads", "recipe", "seconds"]
STEP = ("model.", "optimizer.", "redraw.", "data.token_budget", "trainer.precision", "trainer.gradient_clip_val")
"""Beginnings of options that the time of a step depends on, but for the length."""


@dataclass(frozen=True)
class TrainingStep:
    """A step of a model with random weights.

    Args:
        model: which it changes.
        run: a step without draws of directions.
        draws: in a run, for each step.
    """

    model: Performer
    run: Callable[[], None]
    draws: float

    def draw(self) -> None:
        """What training does in a draw."""
        self.model.redraw(self.model.draw_number + 1)


def training_step(config: DictConfig, length: int) -> TrainingStep:
    """A step on a batch of full length, as many tokens as in training.

    Raises:
        UserError: for a model that cannot be made.
    """
    torch.manual_seed(0)
    model = build(config)
    optimizer = instantiate(config.optimizer, _convert_="all")(model)
    batch = random_batch(max(1, config.data.token_budget // length), length)
    step = partial(bare_step(model, optimizer, config.trainer.gradient_clip_val, draws=False), batch)
    return TrainingStep(model, step, draws_per_step(config, model))


def draws_per_step(config: DictConfig, model: Performer) -> float:
    """Mean over a run, as `protlm.training.callbacks.RedrawFeatures` draws."""
    if not (redraw := config.callbacks.get("redraw")):
        return 0.0
    every = model.config.redraw_every if redraw.every_n_steps is None else redraw.every_n_steps
    steps = config.trainer.max_steps
    return min(steps - 1, int(redraw.until * steps)) // every / steps if every and steps > 0 else 0.0


def mean_seconds(steps: Mapping[str, TrainingStep], repeats: int) -> dict[str, float]:
    """Of a step by name, draws included; the steps take turns, and then the draws."""
    seconds = medians({name: step.run for name, step in steps.items()}, repeats)
    draws = medians({name: step.draw for name, step in steps.items() if step.draws}, repeats)
    return {name: found + steps[name].draws * draws.get(name, 0.0) for name, found in seconds.items()}


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
    """Prints the table and writes it; other rows of the file stay in it, if they are of the same options and threads.

    Args:
        pairs: (direction, kind) to be measured.
        kinds, directions: name -> options of `protlm.train`; of all that can be in the file.
        lengths: of the sequences, in tokens; None for that of the recipe and `LONG`.
        repeats: steps of which the median is taken, after one more.
        overrides: more options.
        path: the CSV file.

    Raises:
        UserError: for a model that cannot be made, a file that cannot be written or is something else.
    """
    check_outputs(path)
    before = read_rows(path)
    base = ["+experiment=quality", "data.corpus=none"]  # nothing is read from it
    budget = composed([*base, *overrides]).data
    lengths = lengths or sorted({budget.max_length, LONG})
    rows: list[dict[str, Any]] = []
    threads = torch.get_num_threads()

    def options(direction: str, kind: str) -> list[str]:
        return [*base, directions[direction], *kinds[kind], *overrides]

    def stays(row: Mapping[str, str]) -> bool:
        known = row["direction"] in directions and row["kind"] in kinds and row["threads"] == str(threads)
        return known and row["recipe"] == step_recipe(recipe_of(composed(options(row["direction"], row["kind"]))))

    for direction in dict.fromkeys(direction for direction, _ in pairs):
        names = [kind for where, kind in pairs if where == direction]
        for length in lengths:
            print(f"\n{direction}, L={length}, {budget.token_budget:,} tokens a step: milliseconds (ratio to exact)")
            steps, about = {}, {}
            for kind in names:
                sizes = [f"data.max_length={length}", f"data.token_budget={max(length, budget.token_budget)}"]
                steps[kind] = step = training_step(composed([*options(direction, kind), *sizes]), length)
                recipe = step_recipe(recipe_of(composed(options(direction, kind))))
                about[kind] = {"parameters": size(step.model), "threads": threads, "recipe": recipe}
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
        print(f"\n{path}: {counted(len(others) - len(kept), 'row')} of other options or threads left out")
    write_csv([*rows, *kept], path)


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
