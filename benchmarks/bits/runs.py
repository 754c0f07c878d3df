"""What the runs of a study have written: learning curves and results, also of runs that have not finished."""

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.bits.studies import Kind
from benchmarks.quality.recipe import EFFORT
from benchmarks.tables import DAMAGED, read_json, whole
from protlm.errors import UserError

TRAIN, VALID = "train", "valid"


@dataclass(frozen=True)
class Measured:
    """A run; bits are per byte, or per dimension of a picture.

    Args:
        kind, seed: its name.
        steps: optimizer steps done, as last logged.
        total: steps of the whole run.
        bytes: bytes trained on.
        seconds: of a training step, averaged over the run; NaN before it has finished.
        parameters: their number; 0 before it has finished.
        curves: "train" or "valid" -> (step, bits); the loss in training is that of the last batch before that step.
        results: split -> bits, unigram_bits and accuracy; empty before it has finished.
    """

    kind: str
    seed: int
    steps: int
    total: int
    bytes: float
    seconds: float
    parameters: int
    curves: Mapping[str, list[tuple[int, float]]]
    results: Mapping[str, Mapping[str, float]]

    @property
    def state(self) -> str:
        """How it ended."""
        if self.results:
            return "finished"
        losses = self.curves[TRAIN]
        if losses and not math.isfinite(losses[-1][1]):
            return f"loss not finite by step {self.steps:,}"
        return f"step {self.steps:,} of {self.total:,}"


def measured(kinds: Mapping[str, Kind], work: Path) -> list[Measured]:
    """The runs in a work folder that have logged anything, in the order of the kinds.

    Raises:
        UserError: for damaged files.
    """
    folders = [(kind, folder) for kind in kinds for folder in sorted(work.glob(f"{kind}/*"))]
    logged = [(kind, folder) for kind, folder in folders if (folder / "metrics" / "metrics.csv").exists()]
    runs = [_read(kind, folder) for kind, folder in logged if folder.name.isdigit()]
    return [run for run in runs if run.steps]


def _read(kind: str, folder: Path) -> Measured:
    try:
        with (folder / "metrics" / "metrics.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        curves: dict[str, list[tuple[int, float]]] = {TRAIN: [], VALID: []}
        last: dict[str, Any] = {}
        for row in rows:
            last |= {name: value for name, value in row.items() if value}
            step = int(row["step"]) + 1  # Lightning numbers steps from 0
            if row.get("train/loss"):
                curves[TRAIN].append((step, float(row["train/loss"]) / math.log(2)))
            if row.get("valid/perplexity"):
                curves[VALID].append((step, math.log2(float(row["valid/perplexity"]))))
        about = read_json(folder / "run.json")["config"]["trainer"]
        done = (folder / "results.json").exists() and (folder / EFFORT).exists()
        effort = read_json(folder / EFFORT) if done else {"seconds": math.nan, "parameters": 0}
        results = read_json(folder / "results.json") if done else {}
        total = int(about["max_steps"])
        return Measured(
            kind,
            int(folder.name),
            steps=max([step for curve in curves.values() for step, _ in curve], default=0),
            total=total,
            bytes=float(last.get("train/residues", math.nan)),
            seconds=float(effort["seconds"]) / total,
            parameters=int(effort["parameters"]),
            curves=curves,
            results={split: _bits(row) for split, row in results.items()},
        )
    except DAMAGED as error:
        raise UserError(f"{folder}: damaged ({error!r}); remove it, and train again") from error


def _bits(row: Mapping[str, float]) -> dict[str, float]:
    perplexities = {"bits": row["perplexity"], "unigram_bits": row["unigram_perplexity"]}
    bits = {name: math.log2(value) for name, value in perplexities.items()}
    return {**bits, "accuracy": row["accuracy"]}


def result_rows(runs: list[Measured]) -> list[dict[str, Any]]:
    """Rows of the table of results: one for each split of a finished run, one for any other run."""
    rows = []
    empty = {"bits": "", "unigram_bits": "", "accuracy": ""}
    for run in runs:
        about = {"kind": run.kind, "seed": run.seed, "steps": run.steps, "of": run.total, "bytes": whole(run.bytes)}
        about |= {"seconds_per_step": "" if math.isnan(run.seconds) else run.seconds}
        about |= {"parameters": run.parameters or "", "state": run.state}
        for split, bits in (run.results or {"": empty}).items():
            rows.append({**about, "split": split, **bits})
    return rows


def curve_rows(runs: list[Measured]) -> list[dict[str, Any]]:
    """Rows of the table of curves."""
    return [
        {"kind": run.kind, "seed": run.seed, "split": split, "step": step, "bits": bits}
        for run in runs
        for split, curve in run.curves.items()
        for step, bits in curve
    ]
