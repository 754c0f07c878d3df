"""Processor seconds of a training step of each kind, which other programs on the machine hardly change."""

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig

from benchmarks.bits.studies import Study
from benchmarks.models import bare_step, random_batch
from benchmarks.quality.recipe import composed
from benchmarks.tables import check_outputs, markdown, write_csv
from protlm.training.from_config import network


def measure_time(study: Study, kinds: Sequence[str], repeats: int, path: Path) -> None:
    """Writes the table as it is measured, and prints it.

    Args:
        study: of whose experiment a step is taken.
        kinds: of the study.
        repeats: number of steps whose median is taken, after one warm-up step.
        path: the CSV file.

    Raises:
        UserError: if the file cannot be written.
    """
    check_outputs(path)
    rows: list[dict[str, Any]] = []

    def measured() -> Iterable[dict[str, Any]]:
        for kind in kinds:
            options = [f"+experiment={study.experiment}", "data.corpus=none", "data.alphabet=bytes"]
            config = composed([*options, *study.options, *study.kinds[kind].options])
            about = {"kind": kind, "length": config.data.max_length, "layers": config.model.layers}
            seconds = processor_seconds(step_of(config), repeats)
            rows.append({**about, "threads": torch.get_num_threads(), "processor_seconds": seconds})
            yield rows[-1]

    write_csv(measured(), path)
    head = ["attention", "L", "layers", f"processor seconds of a step, {torch.get_num_threads()} threads"]
    lines = [
        [study.kinds[row["kind"]].title, f"{row['length']:,}", row["layers"], f"{row['processor_seconds']:.2f}"]
        for row in rows
    ]
    print(markdown(head, lines))


def step_of(config: DictConfig) -> Callable[[], None]:
    """A training step on random bytes, as many as in training."""
    torch.manual_seed(0)
    model = network(config.model, config.data).train()
    optimizer = instantiate(config.optimizer, _convert_="all")(model)
    length = config.data.max_length
    return partial(
        bare_step(model, optimizer, config.trainer.gradient_clip_val),
        random_batch(max(1, config.data.token_budget // length), length),
    )


def processor_seconds(step: Callable[[], None], repeats: int) -> float:
    """The median over repeats, after one warm-up call."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.process_time()
        step()
        seconds.append(time.process_time() - start)
    return statistics.median(seconds[1:])
