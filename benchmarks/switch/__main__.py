"""From Transformer to Performer: how much fine-tuning restores accuracy when a trained exact Transformer is switched.

    python -m benchmarks.switch train runs/quality/families/bidirectional/exact/1     # resumes if interrupted
    python -m benchmarks.switch report

The paper's LM1B experiment (Choromanski et al. 2021, section 4.3) on proteins, or on text with a run of
`python -m benchmarks.bits train text`. The best checkpoint of a run of
`python -m protlm.train` is fine-tuned with the run's own options except for the kind of attention, the schedule (a
short warm-up, then linear decay to zero) and fewer steps. Kinds: the softmax kernel with several numbers of features M,
with directions redrawn regularly and with fixed ones; the hyperbolic kernel with whole bases of directions, likewise;
the ReLU kernel; and the exact Transformer as a control. Accuracy and perplexity are measured before the first step and
at given percentages of the original run's steps, on the same masked residues every time.
"""

import argparse
import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.measure import numbers, positive, program
from benchmarks.quality.recipe import Run, check_models, compared
from benchmarks.quality.runs import run_all
from benchmarks.switch.along import ALONG
from benchmarks.switch.report import ORIGINAL, QUANTITIES, report
from benchmarks.tables import check_folder
from protlm.checkpoint import export, load
from protlm.errors import UserError

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
"""Prefixes of the original run's options that fine-tuning replaces."""


def variants(features: Sequence[int], interval: int, head: int, default: int) -> dict[str, list[str]]:
    """Name -> options of `protlm.train`.

    Args:
        features: M of the softmax kernel.
        interval: steps between two draws of the directions.
        head: width of a head, which is M of the hyperbolic kernel with constant norms.
        default: M in the original run's configuration, for the ReLU kernel.
    """
    kinds = {f"softmax_{count}": ["model.attention=softmax", f"model.num_features={count}"] for count in features}
    kinds[f"hyperbolic_{head}"] = ["model.attention=hyperbolic", "model.norms=constant", f"model.num_features={head}"]
    found = {"exact": ["model.attention=exact"]}
    for name, kind in kinds.items():
        found[name] = [*kind, f"callbacks.redraw.every_n_steps={interval}"]
        found[f"{name}_fixed"] = [*kind, "callbacks.redraw.every_n_steps=0"]
    return {**found, "relu": ["model.attention=relu", f"model.num_features={default}"]}


def original_run(folder: Path) -> dict[str, Any]:
    """The run.json of a trained exact Transformer.

    Raises:
        UserError: if the folder has no finished run, or one with another kind of attention.
    """
    try:
        about = json.loads((folder / "run.json").read_text())
        kind = about["config"]["model"]["attention"]
        kind = kind if isinstance(kind, str) else kind["_target_"].rsplit(".", 1)[-1].lower()
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{folder}: not a run of protlm.train; expected a folder with run.json") from error
    if kind != "exact":
        raise UserError(f"{folder}: its model has {kind} attention; expected a run with model.attention=exact")
    if not (folder / "results.json").exists() or not (folder / "checkpoints" / "best.ckpt").exists():
        raise UserError(f"{folder}: the run has not finished; finish training first")
    return about


def initial_model(folder: Path, work: Path) -> Path:
    """The run's best model, exported into the work folder under a name that is a hash of its weights."""
    model = load(folder / "checkpoints" / "best.ckpt", any_alphabet=True)
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(name.encode() + weight.numpy().tobytes())
    path = work / f"initial-{digest.hexdigest()[:12]}"
    work.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        export(model, path)
    return path


def runs_of(options: argparse.Namespace, about: dict[str, Any]) -> list[Run]:
    """All fine-tuning runs, in order; `about` is from `original_run`."""
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
        callback = f"+callbacks.along={{_target_:benchmarks.switch.along.Along,{along}}}"
        found.append(Run(name, Path(corpus), (*common, *kind, callback)))
    return found


def train(options: argparse.Namespace) -> int:
    """Fine-tunes the runs that are not done; returns the exit code."""
    about = original_run(options.run)
    check_folder(options.work)
    runs = runs_of(options, about)
    check_models(runs)
    comparison = compared(runs, options.work, options.redo, options.ignore)
    original = {"steps": about["config"]["trainer"]["max_steps"], "run": str(options.run)}
    (options.work / ORIGINAL).write_text(json.dumps(original) + "\n")
    return run_all(runs, comparison, options.jobs)


def percents(text: str) -> list[float]:
    """For argparse: numbers from 0 to 100, separated by commas."""
    values = [as_number(part) for part in text.split(",")]
    if not all(0 <= value <= 100 for value in values):
        raise argparse.ArgumentTypeError(f"{text}: expected numbers from 0 to 100, separated by commas")
    return values


def rate(text: str) -> float:
    """For argparse: a learning rate."""
    value = as_number(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: expected a number above 0")
    return value


def as_number(text: str) -> float:
    """A number; NaN for any other text."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def main() -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.switch", description="Fine-tunes a trained exact Transformer as a Performer."
    )
    parts = parser.add_subparsers(dest="part", required=True)
    part = parts.add_parser("train", help="fine-tune with each kind of attention")
    part.add_argument("run", type=Path, help="folder of a finished run with model.attention=exact")
    part.add_argument("--features", type=numbers, default=[64, 256, 1024], help="M of the softmax kernel")
    part.add_argument("--percent", type=percents, default=[0, 0.5, 1, 2, 5, 10], help="of the run's steps")
    part.add_argument("--redraw", type=positive, help="steps between two draws; default: a tenth of all steps")
    part.add_argument("--lr", type=rate, help="peak learning rate; default: a fifth of the run's")
    part.add_argument("--limit", type=positive, default=100, help="batches of each split to evaluate")
    part.add_argument("--jobs", type=positive, default=1, help="number of runs at a time, which share the threads")
    part.add_argument("--overrides", nargs="+", default=[], help="additional options of protlm.train")
    part.add_argument("--redo", action="store_true", help="set aside and repeat runs made with other options")
    part.add_argument(
        "--ignore", nargs="+", default=[], metavar="OPTION", help="options that may differ from earlier runs"
    )
    part = parts.add_parser("report", help="table, CSV file and figure of the finished runs")
    part.add_argument("--csv", type=Path, default=Path("docs/results/switch.csv"))
    part.add_argument("--figure", type=Path, default=Path("docs/figures/switch.png"))
    part.add_argument("--quantity", choices=QUANTITIES, default="accuracy", help="bits: for models of text")
    for part in parts.choices.values():
        part.add_argument("--work", type=Path, default=Path("runs/switch"), help="folder of the runs")
    options = parser.parse_args()
    if options.part == "train":
        return train(options)
    report(options.work, options.csv, options.figure, options.quantity)
    return 0


if __name__ == "__main__":
    program(main)
