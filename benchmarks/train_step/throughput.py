"""Throughput of `python -m protlm.train` against a bare training loop; see benchmarks/train_step/__main__.py."""

import copy
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch.optim import Optimizer

from benchmarks.models import bare_step
from protlm.batching.batches import Batch
from protlm.performer import Performer
from protlm.training.task import LanguageModelTask

EXPERIMENTS = [
    "trembl_small",
    "trembl_softmax_small",
    "trembl_unidirectional_small",
    "trembl_transformer_small",
    "trembl_concat_small",
]


class BareLoop(Callback):
    """Pauses training at regular intervals to repeat the same steps in a bare loop; writes the seconds of both.

    Args:
        path: the JSON file.
        steps: steps between two pauses.
        repeats: number of pauses.
        warmup: steps of both before the clock starts.
        optimizer: makes the optimizer of a model, as for the task.
    """

    def __init__(
        self, path: str, steps: int, repeats: int, warmup: int, optimizer: Callable[[Performer], Optimizer]
    ) -> None:
        self.path, self.steps, self.repeats, self.warmup = Path(path), steps, repeats, warmup
        self._optimizer = optimizer
        self._batches: list[Batch] = []
        self._rows: list[dict[str, float]] = []
        self._start = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, LanguageModelTask)
        self._model = copy.deepcopy(pl_module.model).train()
        self._step = bare_step(self._model, self._optimizer(self._model), trainer.gradient_clip_val)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        done = trainer.global_step - self.warmup
        if done >= 0 and done % self.steps == 0:
            trained, bare = time.perf_counter() - self._start, self._bare()
            if done:  # otherwise the warm-up has just ended
                tokens = sum(int(batch.key_mask.sum()) for batch in self._batches)
                self._rows.append({"steps": len(self._batches), "tokens": tokens, "trained": trained, "bare": bare})
                self.path.write_text(json.dumps(self._rows))
            self._batches = []
            self._start = time.perf_counter()
        self._batches.append(batch)

    def _bare(self) -> float:
        with torch.random.fork_rng():
            start = time.perf_counter()
            for batch in self._batches:
                self._step(batch)
            return time.perf_counter() - start


def measure_throughput(
    experiments: Iterable[str], corpus: Path, steps: int, repeats: int, warmup: int, overrides: Sequence[str] = ()
) -> Iterator[dict[str, Any]]:
    """A row for each experiment, printed as it is measured."""
    print("the training program, and a bare loop on the same batches")
    print(
        f"{'':<36}{'steps/s':>10}{'bare':>8}{'tokens/s':>11}{'bare':>9}{'of bare':>9}{'lowest':>9}{'highest':>9}",
        flush=True,
    )
    for experiment in experiments:
        with tempfile.TemporaryDirectory() as folder:
            rows = train(experiment, corpus, Path(folder), steps, repeats, warmup, overrides)
        shares = [row["bare"] / row["trained"] for row in rows]
        found: dict[str, Any] = {"experiment": experiment}
        for unit in ("steps", "tokens"):
            for name in ("trained", "bare"):
                found[f"{name}_{unit}_per_second"] = statistics.median(row[unit] / row[name] for row in rows)
        found |= {"share": statistics.median(shares), "lowest_share": min(shares), "highest_share": max(shares)}
        rates = [found[f"{name}_steps_per_second"] for name in ("trained", "bare")]
        tokens = [found[f"{name}_tokens_per_second"] for name in ("trained", "bare")]
        print(
            f"{experiment:<36}{rates[0]:>10.2f}{rates[1]:>8.2f}{tokens[0]:>11,.0f}{tokens[1]:>9,.0f}"
            f"{found['share']:>9.1%}{min(shares):>9.1%}{max(shares):>9.1%}",
            flush=True,
        )
        yield found


def train(
    experiment: str, corpus: Path, folder: Path, steps: int, repeats: int, warmup: int, overrides: Sequence[str]
) -> list[dict[str, float]]:
    """Runs `python -m protlm.train` with a `BareLoop`; returns the rows it wrote.

    Raises:
        RuntimeError: if the program fails.
    """
    result = folder / "seconds.json"
    options = f"path:'{result}',steps:{steps},repeats:{repeats},warmup:{warmup},optimizer:${{optimizer}}"
    arguments = [
        f"+experiment={experiment}",
        f"+callbacks.bare={{_target_:benchmarks.train_step.throughput.BareLoop,{options}}}",
        f"trainer.max_steps={warmup + steps * repeats + 1}",  # the last batch triggers the last pause
        "trainer.val_check_interval=1000000",
        "trainer.max_time=10:00:00:00",
        "trainer.limit_test_batches=1",
    ]
    run_protlm([*arguments, *overrides], corpus, folder)
    return json.loads(result.read_text())


def run_protlm(overrides: Sequence[str], corpus: Path, folder: Path) -> None:
    """`python -m protlm.train` in a separate process, with a progress bar as in a terminal.

    Raises:
        RuntimeError: if it fails, with its standard error.
    """
    command = [sys.executable, "-m", "protlm.train", *overrides]
    command += [f"data.corpus='{corpus.resolve()}'", f"hydra.run.dir='{folder}'"]
    environment = {**os.environ, "TTY_COMPATIBLE": "1", "TTY_INTERACTIVE": "1", "TERM": "xterm"}
    root = Path(__file__).parents[2]  # `benchmarks` can be imported from here
    done = subprocess.run(
        command, cwd=root, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
