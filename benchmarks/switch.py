"""From Transformer to Performer: weights of a trained exact Transformer, and how much fine-tuning brings accuracy back.

    python -m benchmarks.switch train runs/quality/families/bidirectional/exact/1     # may be cut, and goes on
    python -m benchmarks.switch report

The paper's LM1B experiment (Choromanski et al. 2021, section 4.3) on proteins. The best checkpoint of a run of
`python -m protlm.train` is fine-tuned with the run's own options, but with another kind of attention, a new schedule
(a short warm-up, then linearly to zero) and fewer steps: the softmax kernel with several numbers of features M, with
new directions every so many steps and with the same ones throughout, the hyperbolic kernel with whole bases of
directions alike, the ReLU kernel, and, as a control, the exact Transformer itself. Accuracy and perplexity are taken
before the first step and at stated shares of the steps of the original run, over the same masked residues every time.
"""

import argparse
import hashlib
import json
import math
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from benchmarks.measure import numbers, positive, program
from benchmarks.quality_plan import PLAN, Plan, Run, check_models, read_plan, write_plan
from benchmarks.quality_runs import run_all
from benchmarks.switch_report import report
from benchmarks.tables import check_outputs
from protlm.checkpoint import export, load
from protlm.errors import UserError
from protlm.files import atomic_output
from protlm.metrics import ResidueMetrics
from protlm.performer import Performer
from protlm.training.datamodule import TremblDataModule
from protlm.training.task import LanguageModelTask

ALONG = "along.json"
REPLACED = (
    "ckpt_path",
    "init",
    "hydra.",
    "data.corpus",
    "trainer.max_steps",
    "trainer.val_check_interval",
    "model.attention",
    "model/attention",
    "model.norms",
    "model.num_features",
    "optimizer.lr",
    "schedule",
    "callbacks.redraw",
    "+callbacks.effort",
    "callbacks.curve",
    "trainer.enable_progress_bar",
)
"""Beginnings of options of the original run that fine-tuning gives anew."""


class Along(Callback):
    """Accuracy and perplexity before the first step and behind some later ones; what is known is on disk at once.

    Args:
        path: of the JSON file: step -> split -> metrics.
        steps: numbers of optimizer steps; 0 is before the first.
        splits: which of valid, test, ood; empty ones are left out.
        limit: batches of each split.
    """

    def __init__(self, path: str, steps: Sequence[int], splits: Sequence[str], limit: int) -> None:
        self.path, self.steps, self.splits, self.limit = Path(path), set(steps), tuple(splits), limit

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step == 0:
            self.path.unlink(missing_ok=True)  # of an earlier run in this folder
            self._measure(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._measure(trainer, pl_module)

    def _measure(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, LanguageModelTask)
        if trainer.global_step not in self.steps:
            return
        known = json.loads(self.path.read_text()) if self.path.exists() else {}
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        splits = [split for split in self.splits if data.corpora.count(split)[0]]
        known[str(trainer.global_step)] = {split: measure(pl_module.model, data, split, self.limit) for split in splits}
        with atomic_output(self.path) as partial:
            partial.write_text(json.dumps(known, indent=1) + "\n")


def measure(model: Performer, data: TremblDataModule, split: str, limit: int) -> dict[str, float]:
    """Metrics of a model over the first batches of a split, the same residues at each call, as in a test."""
    question = data.question.for_evaluation()
    samples = data.batches(data.corpora, split, question, data.max_length, data.token_budget, data.seed)
    device = next(model.parameters()).device
    metrics, training = ResidueMetrics().to(device), model.training
    model.eval()
    with torch.no_grad():
        for key in islice(samples.plan(0), limit):
            inputs, targets, scored, key_mask = (tensor.to(device) for tensor in samples[key][:4])
            metrics.update(model(inputs, key_mask), targets, scored)
    model.train(training)
    return metrics.beside(data.unigram)


def variants(features: Sequence[int], interval: int, head: int, usual: int) -> dict[str, list[str]]:
    """Name -> options of `protlm.train`.

    Args:
        features: M of the softmax kernel.
        interval: steps between two draws of the directions.
        head: width of a head, which is M of the hyperbolic kernel with constant norms.
        usual: M of the original run's configuration, for the ReLU kernel.
    """
    kinds = {f"softmax_{count}": ["model.attention=softmax", f"model.num_features={count}"] for count in features}
    kinds[f"hyperbolic_{head}"] = ["model.attention=hyperbolic", "model.norms=constant", f"model.num_features={head}"]
    found = {"exact": ["model.attention=exact"]}
    for name, kind in kinds.items():
        found[name] = [*kind, f"callbacks.redraw.every_n_steps={interval}"]
        found[f"{name}_fixed"] = [*kind, "callbacks.redraw.every_n_steps=0"]
    return {**found, "relu": ["model.attention=relu", f"model.num_features={usual}"]}


def original_run(folder: Path) -> dict[str, Any]:
    """What run.json of a trained exact Transformer says.

    Raises:
        UserError: if the folder holds no finished run, or another kind of attention.
    """
    try:
        about = json.loads((folder / "run.json").read_text())
        kind = about["config"]["model"]["attention"]
        kind = kind if isinstance(kind, str) else kind["_target_"].rsplit(".", 1)[-1].lower()
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{folder}: no run of protlm.train; expected its folder, with run.json") from error
    if kind != "exact":
        raise UserError(f"{folder}: its model has {kind} attention; expected a run with model.attention=exact")
    if not (folder / "results.json").exists() or not (folder / "checkpoints" / "best.ckpt").exists():
        raise UserError(f"{folder}: the run has not ended; train it to its end first")
    return about


def initial_model(folder: Path, work: Path) -> Path:
    """The run's best model as a folder of the work folder, named by its content."""
    model = load(folder / "checkpoints" / "best.ckpt")
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(name.encode() + weight.numpy().tobytes())
    path = work / f"initial-{digest.hexdigest()[:12]}"
    work.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        export(model, path)
    return path


def runs_of(options: argparse.Namespace, about: dict[str, Any]) -> list[Run]:
    """All that is fine-tuned, in order; `about` is what `original_run` gives."""
    config = about["config"]
    total = config["trainer"]["max_steps"]
    at = sorted({0, *(max(1, round(total * percent / 100)) for percent in options.percent if percent)})
    steps = at[-1]
    if not steps:
        raise UserError("--percent: expected numbers above 0")
    kept = [option for option in about["overrides"] if not option.startswith(REPLACED)]
    initial = initial_model(options.run, options.work).resolve()
    highest = options.lr or config["optimizer"]["lr"] / 5
    interval = options.redraw or max(1, steps // 10)
    common = [*kept, f"init='{initial}'", f"trainer.max_steps={steps}", f"optimizer.lr={highest:g}"]
    common += ["schedule=warmup_linear", f"schedule.steps={max(1, steps // 20)}"]
    common += ["trainer.limit_test_batches=1", "trainer.limit_val_batches=0", *options.overrides]
    (corpus,) = [config["data"]["corpus"]] if isinstance(config["data"]["corpus"], str) else config["data"]["corpus"]
    model, found = config["model"], []
    head = model["width"] // model["heads"]
    for name, kind in variants(options.features, interval, head, model["num_features"]).items():
        path = (options.work / name / ALONG).resolve()
        along = f"path:'{path}',steps:{at},splits:[test,ood],limit:{options.limit}".replace(" ", "")
        callback = f"+callbacks.along={{_target_:benchmarks.switch.Along,{along}}}"
        found.append(Run(name, Path(corpus), (*common, *kind, callback)))
    return found


def train(options: argparse.Namespace) -> int:
    """Fine-tunes what is not done; the exit code."""
    about = original_run(options.run)
    check_outputs(options.work / PLAN)
    runs = runs_of(options, about)
    check_models(runs)
    plan: Plan = write_plan(runs, options.work, options.redo, options.ignore)
    original = {"steps": about["config"]["trainer"]["max_steps"], "run": str(options.run)}
    (options.work / "original.json").write_text(json.dumps(original) + "\n")  # of the plan that is now in force
    return run_all(runs, plan, options.work, options.jobs)


def percents(text: str) -> list[float]:
    """For argparse: numbers from 0 to 100, divided by commas."""
    values = [as_number(part) for part in text.split(",")]
    if not all(0 <= value <= 100 for value in values):
        raise argparse.ArgumentTypeError(f"{text}: expected numbers from 0 to 100, divided by commas")
    return values


def rate(text: str) -> float:
    """For argparse: a learning rate."""
    value = as_number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: expected a number above 0")
    return value


def as_number(text: str) -> float:
    """nan for what is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def main() -> int:
    """The command; the exit code."""
    parser = argparse.ArgumentParser(description="A trained exact Transformer turned into a Performer.")
    parts = parser.add_subparsers(dest="part", required=True)
    part = parts.add_parser("train", help="fine-tune with each kind of attention")
    part.add_argument("run", type=Path, help="folder of a finished run with model.attention=exact")
    part.add_argument("--features", type=numbers, default=[64, 256, 1024], help="M of the softmax kernel")
    part.add_argument("--percent", type=percents, default=[0, 0.5, 1, 2, 5, 10], help="of the run's steps")
    part.add_argument("--redraw", type=positive, help="steps between two draws; by default a tenth of all")
    part.add_argument("--lr", type=rate, help="at its highest; by default a fifth of the run's")
    part.add_argument("--limit", type=positive, default=100, help="batches of each split that are measured")
    part.add_argument("--jobs", type=positive, default=1, help="runs at a time, which share the threads")
    part.add_argument("--overrides", nargs="+", default=[], help="more options of protlm.train")
    part.add_argument("--redo", action="store_true", help="put aside runs that were made with other options")
    part.add_argument("--ignore", nargs="+", default=[], metavar="OPTION", help="not to be compared with earlier runs")
    part = parts.add_parser("report", help="table, CSV file and figure of what is done")
    part.add_argument("--csv", type=Path, default=Path("docs/results/switch.csv"))
    part.add_argument("--figure", type=Path, default=Path("docs/figures/switch.png"))
    for part in parts.choices.values():
        part.add_argument("--work", type=Path, default=Path("runs/switch"), help="folder of plan and runs")
    options = parser.parse_args()
    if options.part == "train":
        return train(options)
    report(read_plan(options.work), options.work, options.csv, options.figure)
    return 0


if __name__ == "__main__":
    program(main)
