"""Probe, trained head, LoRA and full fine-tuning on the same proteins, beside the baselines of `protlm fit`.

    python -m benchmarks.finetune DATA --model MODEL --name "ESM-2 8M" --methods probe head lora

DATA is a folder with the public files of `benchmarks/labelled_tasks.py`. Each cell, a task by a method, is what `protlm
fit` does with its defaults: it is fitted in the folder `--runs`, which keeps the model and its report. The CSV file
gets, for each cell, every metric on the test with its bootstrap interval over proteins, and the same for baselines and
for the probe that was fitted to the same training proteins (`probe, same proteins`: without those that validate), and
by how much the cell's method is better than each of them, in pairs (`gain_value`, `gain_low`, `gain_high`). A
benchmark that is interrupted resumes: cells of the CSV file are left out, an unfinished fit continues. Relatives for
the validation part are searched once for all cells, not in each fit, and are not counted in the minutes.
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas

from benchmarks.labelled_tasks import TASKS, Task
from benchmarks.measure import positive, program
from benchmarks.tables import check_outputs, markdown, read_rows, replace_csv
from protlm.supervised.evaluation import interval, shown
from protlm.supervised.fit_api import METHODS, PROBE, fit
from protlm.supervised.fit_options import FitOptions
from protlm.supervised.labels import read_labels
from protlm.supervised.predictor import Predictor
from protlm.supervised.predictor_folder import load_predictor
from protlm.supervised.split import split_of

ENDS = ("value", "low", "high")
SAME = "probe, same proteins"
"""The probe beside a method that keeps some proteins for validation."""


def rows_of(task: Task, model: str, method: str, predictor: Predictor, seconds: float) -> Iterator[dict[str, Any]]:
    """The figures of a cell, one row for each method and metric of its report."""
    report = predictor.report
    about = report.get("training", {})
    target = report["targets"][0]
    for name, metrics in target["metrics"].items():
        for metric, estimate in metrics.items():
            gain = target["gains"].get(name, {}).get(metric, {})
            yield {
                "task": task.name,
                "model": model,
                "cell": method,
                "method": SAME if method != PROBE and name == PROBE else name,
                "metric": metric,
                **{end: "" if estimate[end] is None else f"{estimate[end]:.4f}" for end in ENDS},
                **{f"gain_{end}": "" if (x := gain.get(end)) is None else f"{x:.4f}" for end in ENDS},
                "kept": about.get("kept", ""),
                "start": f"{about['start']:.4f}" if about else "",
                "score": f"{about['score']:.4f}" if about else "",
                "epochs": about.get("epochs", ""),
                "minutes": f"{seconds / 60:.2f}",
            }


def validated(task: Task, seed: int) -> Task:
    """The task with the validation part that `protlm fit` chooses for labels, of different proteins, without one."""
    if task.labels.suffix != ".tsv":
        return task
    path = task.labels.with_name(f"{task.labels.stem}-{seed}.tsv")
    if not path.exists():
        split = split_of(read_labels(task.labels), FitOptions(seed=seed, threads=1), lambda done, total: None, True)
        table = pandas.read_csv(task.labels, sep="\t")
        valid = [name for name, own in zip(split.labelled.ids, split.partition.final.valid, strict=True) if own]
        table.loc[table["id"].isin(valid), "split"] = "valid"
        table.to_csv(path, sep="\t", index=False)
        print(split.partition.described, flush=True)
    return replace(task, labels=path)


def fitted(task: Task, model: str | None, method: str, folder: Path, arguments: argparse.Namespace) -> float:
    """Fits a cell in `folder`, unless that has been done, and returns the seconds that it took."""
    if method != PROBE:
        task = validated(task, arguments.seed)
    start = time.perf_counter()
    training = {} if method == PROBE else {"epochs": arguments.epochs, "settings": arguments.set}
    options = {"relatives": False, "threads": 1, "seed": arguments.seed}
    fit(task.labels, folder, model, method, **task.options, **training, **options)
    return time.perf_counter() - start


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The main metric of all cells, with its interval."""
    main = {"localisation": "accuracy", "secondary structure": "accuracy", "GB1 two_vs_rest": "Spearman"}
    cells = []
    for row in rows:
        if row["metric"] != main.get(row["task"], "AUPRC"):
            continue
        ends = {end: float(row[end]) if row[end] else None for end in ENDS}
        value = f"{shown(row['metric'], float(row['value'] or 'nan'))} {interval(row['metric'], ends)}"
        cells.append([row[name] for name in ("task", "model", "cell", "method")] + [value, row["kept"], row["minutes"]])
    return markdown(["task", "model", "cell", "method", "test", "kept", "minutes"], cells)


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.finetune", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", required=True, help="model folder or checkpoint")
    parser.add_argument("--name", help="of the model in the table; by default that of its folder")
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS[:3]))
    parser.add_argument("--epochs", type=positive, help="at most; by default that of protlm fit")
    parser.add_argument("--set", nargs="+", default=[], help="as for protlm fit")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=Path("runs/finetune"))
    parser.add_argument("--output", type=Path, default=Path("finetune.csv"))
    arguments = parser.parse_args(given)
    name = arguments.name or Path(arguments.model).name
    runs = arguments.runs / name.replace(" ", "_")
    check_outputs(arguments.output, runs / "cells")
    rows: list[dict[str, Any]] = list(read_rows(arguments.output))
    for chosen in arguments.tasks:
        task = TASKS[chosen](arguments.data, runs)
        for method in arguments.methods:
            if any((row["task"], row["model"], row["cell"]) == (task.name, name, method) for row in rows):
                continue
            folder = runs / f"{chosen}-{method}"
            seconds = fitted(task, arguments.model, method, folder, arguments)
            found = list(rows_of(task, name, method, load_predictor(folder), seconds))
            rows += found
            replace_csv(rows, arguments.output)
            print(table(found), flush=True)
    print(table(rows))


if __name__ == "__main__":
    program(main)
