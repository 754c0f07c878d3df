"""Seconds of a training step of each kind of attention, on the same batch, the kinds taking turns."""

import csv
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig
from torch import nn

from benchmarks.measure import medians
from benchmarks.models import bare_step, random_batch
from benchmarks.quality_plan import composed
from benchmarks.tables import write_csv
from protlm.errors import UserError
from protlm.performer import Performer
from protlm.sequence.alphabet import PAD, TOKENS

LONG = 1024
"""Length at which the time to the same accuracy is stated."""


def training_step(config: DictConfig, length: int) -> tuple[Callable[[], None], Performer]:
    """A step of a model with random weights on a batch of full length, as many tokens as in training; the model.

    Raises:
        UserError: for a model that cannot be made.
    """
    torch.manual_seed(0)
    start = get_class(config.data._target_).batches.start
    try:
        model = Performer(instantiate(config.model, vocab_size=len(TOKENS), pad_id=PAD, start_id=start)).train()
    except Exception as error:  # Hydra's, around that of the model
        raise UserError(" ".join(str(error.__cause__ or error).split())) from error
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
    """Prints the table and writes it: direction, kind, length, batch, parameters, threads, seconds.

    Args:
        pairs: (direction, kind) to be measured.
        kinds, directions: name -> options of `protlm.train`.
        lengths: of the sequences, in tokens; None for that of the recipe and `LONG`.
        repeats: steps of which the median is taken, after one more.
        overrides: more options.
        path: the CSV file.
    """
    base = ["+experiment=quality", "data.corpus=none"]  # nothing is read from it
    budget = composed([*base, *overrides]).data
    lengths = lengths or sorted({budget.max_length, LONG})
    rows: list[dict[str, Any]] = []
    threads = torch.get_num_threads()
    for direction in dict.fromkeys(direction for direction, _ in pairs):
        names = [kind for where, kind in pairs if where == direction]
        for length in lengths:
            print(f"\n{direction}, L={length}, {budget.token_budget:,} tokens a step: milliseconds (ratio to exact)")
            steps, parameters = {}, {}
            for kind in names:
                sizes = [f"data.max_length={length}", f"data.token_budget={max(length, budget.token_budget)}"]
                options = [*base, directions[direction], *kinds[kind], *overrides, *sizes]
                steps[kind], model = training_step(composed(options), length)
                parameters[kind] = size(model)
            seconds = medians(steps, repeats)
            for kind in names:
                ratio = f" ({seconds[kind] / seconds['exact']:.2f})" if "exact" in seconds else ""
                print(f"{kind:<16}{1e3 * seconds[kind]:>8.0f}{ratio}", flush=True)
                batch = max(1, budget.token_budget // length)
                row = {"direction": direction, "kind": kind, "length": length, "batch": batch}
                rows.append({**row, "parameters": parameters[kind], "threads": threads, "seconds": seconds[kind]})
    write_csv(rows, path)


def read_seconds(path: Path, length: int = LONG) -> dict[tuple[str, str], float]:
    """(direction, kind) -> seconds of a step at that length, of the file of `measure_steps`; nothing without it."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if int(row["length"]) == length]
    return {(row["direction"], row["kind"]): float(row["seconds"]) for row in rows}
