"""Numerical stability of deep, narrow models: several kernels, both directions, float32 and bf16-mixed.

    python -m benchmarks.stability data/swissprot.h5      # three hours with one thread; resumes if interrupted

Each case is a run of `python -m protlm.train +experiment=trembl` (the paper's optimizer: lr 1e-3 without warm-up,
gradients clipped to 0.5, dropout 0.1) with a model as deep as the paper's, but narrow, on short proteins. Every step
records the loss, the output of each block, the gradient before clipping, and the weights. A case ends at the first
non-finite value. Cases that are in the CSV file are not run again.
"""

import argparse
import csv
import json
import math
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from benchmarks.measure import amount, positive, program
from benchmarks.models import DIRECTIONS
from benchmarks.tables import read_rows
from benchmarks.train_step.throughput import run_protlm
from protlm.training.task import LanguageModelTask

ATTENTION = ["relu", "softmax", "elu+1", "exact"]
PRECISIONS = {"float32": "32-true", "bf16": "bf16-mixed"}
MEAN = 50
"""The first and the last loss are means over this many steps."""


@dataclass(frozen=True)
class Case:
    """One run."""

    attention: str
    direction: str
    precision: str
    steps: int = 500
    layers: int = 36
    width: int = 64
    heads: int = 4
    feed_forward: int = 128
    features: int = 32
    length: int = 128
    tokens: int = 1024
    lr: float = 1e-3
    seed: int = 1

    def overrides(self) -> list[str]:
        """Options of `protlm.train`."""
        return [
            "+experiment=trembl",
            f"model.attention={self.attention}",
            f"model.causal={DIRECTIONS[self.direction]}",
            f"trainer.precision={PRECISIONS[self.precision]}",
            f"trainer.max_steps={self.steps}",
            f"model.layers={self.layers}",
            f"model.width={self.width}",
            f"model.heads={self.heads}",
            f"model.feed_forward={self.feed_forward}",
            f"model.num_features={self.features}",
            f"data.max_length={self.length}",
            f"data.token_budget={self.tokens}",
            f"optimizer.lr={self.lr}",
            f"seed={self.seed}",
            "trainer.accelerator=cpu",
            "trainer.val_check_interval=1000000",
            "trainer.limit_test_batches=1",
            "trainer.enable_progress_bar=false",
            "callbacks.progress=null",
        ]


class Watch(Callback):
    """Records loss, activations, gradient and weights of every step; writes them when training ends.

    Args:
        path: the JSON file.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self._seen: dict[str, list[float]] = {"loss": [], "activation": [], "gradient": [], "weights": []}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, LanguageModelTask)
        self._outputs: list[Tensor] = []
        for block in pl_module.model.blocks:
            block.register_forward_hook(self._note)

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        self._seen["loss"].append(loss.item())
        self._seen["activation"].append(torch.stack(self._outputs).max().item())
        self._outputs = []

    def on_after_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        gradients = [weight.grad for weight in pl_module.parameters() if weight.grad is not None]
        self._seen["gradient"].append(get_total_norm(gradients).item())

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._seen["weights"].append(get_total_norm([weight.detach() for weight in pl_module.parameters()]).item())
        if not math.isfinite(self._seen["weights"][-1]):
            trainer.should_stop = True

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.path.write_text(json.dumps(self._seen))

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self.path.write_text(json.dumps(self._seen))

    def _note(self, block: nn.Module, inputs: Any, output: Tensor) -> None:
        self._outputs.append(output.detach().abs().max().float())


def run(case: Case, corpus: Path) -> dict[str, Any]:
    """Runs a case; returns its row of the table.

    Raises:
        RuntimeError: if the run fails although all values were finite.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "seen.json"
        watch = f"+callbacks.watch={{_target_:benchmarks.stability.Watch,path:'{path}'}}"
        try:
            run_protlm([*case.overrides(), watch], corpus, Path(folder))
            failed = None
        except RuntimeError as error:
            failed = error
        seen: dict[str, list[float]] = json.loads(path.read_text()) if path.exists() else {}
    odd = {name: first for name, values in seen.items() if (first := first_nonfinite(values))}
    if failed and not odd:
        raise failed
    step = min(odd.values(), default=0)
    loss = seen["loss"]
    return {
        **asdict(case),
        "done": len(seen["weights"]),  # steps taken
        "nonfinite_step": step or "",
        "nonfinite": " ".join(name for name, first in odd.items() if first == step),
        "first_loss": mean(loss[:MEAN]),
        "last_loss": mean(loss[-MEAN:]),
        "largest_gradient": largest(seen["gradient"]),
        "largest_activation": largest(seen["activation"]),
    }


def first_nonfinite(values: Iterable[float]) -> int:
    """The first step with a non-finite value, counted from 1; 0 if there is none."""
    return next((step for step, value in enumerate(values, 1) if not math.isfinite(value)), 0)


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def largest(values: Iterable[float]) -> float:
    """The largest finite value."""
    return max((value for value in values if math.isfinite(value)), default=math.nan)


def measure(cases: Iterable[Case], corpus: Path, path: Path) -> None:
    """Prints each row and appends it to the CSV file; rows already in the file are only printed."""
    names = [field.name for field in fields(Case)]
    done = {tuple(row[name] for name in names): row for row in read_rows(path)}
    print(
        f"{'':<32}{'steps':>7}{'non-finite':>24}{'loss, first':>13}{'last':>8}{'max gradient':>14}{'activation':>12}",
        flush=True,
    )
    for case in cases:
        line: dict[str, Any] | None = done.get(tuple(str(value) for value in asdict(case).values()))
        if line is None:
            line = run(case, corpus)
            append(line, path)
        odd = f"{line['nonfinite']} in step {line['nonfinite_step']}" if line["nonfinite"] else "-"
        print(
            f"{f'{case.attention}, {case.direction}, {case.precision}':<32}{line['done']:>7}{odd:>24}"
            f"{float(line['first_loss']):>13.3f}{float(line['last_loss']):>8.3f}"
            f"{float(line['largest_gradient']):>14.2f}{float(line['largest_activation']):>12.1f}",
            flush=True,
        )


def append(line: dict[str, Any], path: Path) -> None:
    """Adds a row to the CSV file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(line), lineterminator="\n")
        if new:
            writer.writeheader()
        results = list(line)[len(fields(Case)) :]
        short = {name: f"{line[name]:.6g}" for name in results if isinstance(line[name], float)}
        writer.writerow({**line, **short})


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stability", description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path, help="made by `protlm prepare`")
    parser.add_argument("--attention", nargs="+", default=ATTENTION, metavar="KIND")
    parser.add_argument("--directions", nargs="+", default=list(DIRECTIONS), choices=DIRECTIONS)
    parser.add_argument("--precisions", nargs="+", default=list(PRECISIONS), choices=PRECISIONS)
    for field in fields(Case)[3:]:
        kind = amount if field.name == "lr" else positive
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=kind, default=field.default)
    parser.add_argument("--csv", type=Path, default=Path("docs/results/stability.csv"), help="table to continue")
    options = vars(parser.parse_args())
    sizes = {field.name: options[field.name] for field in fields(Case)[3:]}
    chosen = product(options["attention"], options["directions"], options["precisions"])
    measure((Case(*names, **sizes) for names in chosen), options["corpus"], options["csv"])


if __name__ == "__main__":
    program(main)
