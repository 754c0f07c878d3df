"""A table of the results of all runs of a multirun, with means over seeds."""

import csv
import json
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml

from protlm.files import atomic_output
from protlm.tables import aligned

TABLE = "results.csv"
_METRICS = (("accuracy", 100), ("unigram_accuracy", 100), ("perplexity", 1), ("unigram_perplexity", 1))
_SEED = "seed"

Job = dict[str, Any]
"""{"job": name of the folder, "options": {name: value}, "results": {split: {metric: value}}, "stopped": message};
without results if the run failed or has not finished; "stopped" is None unless trainer.max_time ended it early."""


def read_jobs(folder: Path) -> list[Job]:
    """The runs in a multirun's folder, in order, with the options in which they differ."""
    jobs = []
    for path in sorted(
        folder.glob("*/.hydra/overrides.yaml"), key=lambda path: (len(path.parts[-3]), path)
    ):  # 10 after 9
        parts = [str(override).partition("=") for override in yaml.safe_load(path.read_text())]
        options = {name: value for name, _, value in parts}
        run = path.parents[1]
        results, record = (
            json.loads((run / name).read_text()) if (run / name).exists() else {}
            for name in ("results.json", "run.json")
        )
        jobs.append({"job": run.name, "options": options, "results": results, "stopped": record.get("stopped")})
    names = list(dict.fromkeys(name for job in jobs for name in job["options"]))
    varying = [name for name in names if len({job["options"].get(name) for job in jobs}) > 1]
    return [{**job, "options": {name: job["options"].get(name, "") for name in varying}} for job in jobs]


def write_jobs(jobs: Sequence[Job], path: Path) -> None:
    """Writes a CSV file with one row per run and split; accuracies are fractions, not percentages."""
    with atomic_output(path) as partial, partial.open("w", newline="") as file:
        options = list(jobs[0]["options"])
        writer = csv.writer(file)
        writer.writerow(["job", *options, "split", *(name for name, _ in _METRICS)])
        for job in jobs:
            for split, row in job["results"].items() or [("", {})]:
                values = [row.get(name, "") for name, _ in _METRICS]
                writer.writerow([job["job"], *job["options"].values(), split, *values])


def format_jobs(jobs: Sequence[Job]) -> str:
    """A plain-text table with one line per run and split, means and standard deviations over seeds, and early stops.

    >>> row = {"accuracy": 0.2, "unigram_accuracy": 0.1, "perplexity": 12.0, "unigram_perplexity": 18.0}
    >>> better = {**row, "accuracy": 0.22}
    >>> one, two = ({"model.attention": "relu", "seed": seed} for seed in ("1", "2"))
    >>> stopped = "stopped by trainer.max_time at step 9 of 10"
    >>> print(format_jobs([
    ...     {"job": "0", "options": one, "results": {"test": row}, "stopped": None},
    ...     {"job": "1", "options": two, "results": {"test": better}, "stopped": stopped},
    ... ]))
    job   model.attention  seed    split  accuracy %  unigram  perplexity    unigram
    0     relu             1       test   20.00       10.00    12.000        18.000
    1     relu             2       test   22.00       10.00    12.000        18.000
    mean  relu             2 runs  test   21.00±1.41  10.00    12.000±0.000  18.000
    job 1: stopped by trainer.max_time at step 9 of 10
    """
    options = list(jobs[0]["options"]) if jobs else []
    header = ["job", *options, "split", "accuracy %", "unigram", "perplexity", "unigram"]
    lines = []
    groups: dict[tuple[Any, ...], list[dict[str, float | None]]] = {}
    for job in jobs:
        values = list(job["options"].values())
        if not job["results"]:
            lines.append([job["job"], *values, "no results", "", "", "", ""])
        for split, row in job["results"].items():
            lines.append([job["job"], *values, split, *_cells([row])])
            others = tuple(value for name, value in job["options"].items() if name != _SEED)
            groups.setdefault((others, split), []).append(row)
    if _SEED in options:
        for (others, split), rows in groups.items():
            if len(rows) > 1:
                left = iter(others)
                values = [f"{len(rows)} runs" if name == _SEED else next(left) for name in options]
                lines.append(["mean", *values, split, *_cells(rows)])
    table = aligned(header, lines, left=range(len(header)))
    return "\n".join([table, *(f"job {job['job']}: {job['stopped']}" for job in jobs if job["stopped"])])


def _cells(rows: list[dict[str, float | None]]) -> list[str]:
    cells = []
    for name, factor in _METRICS:
        values = [math.nan if (value := row[name]) is None else factor * value for row in rows]
        digits = 2 if factor == 100 else 3
        spread = f"±{stdev(values):.{digits}f}" if len(values) > 1 and not name.startswith("unigram") else ""
        cells.append(f"{mean(values):.{digits}f}{spread}")
    return cells
