"""The runs of benchmarks/quality.py as rows of CSV files: quality.csv and quality_curves.csv, written and read again.

So a comparison outlives its work folder: a run that is in the files and not in the folder stays in them.
"""

import csv
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.tables import DAMAGED, METRICS, whole, write_csv
from protlm.errors import UserError
from protlm.files import atomic_output

RUNS, CURVES = "quality.csv", "quality_curves.csv"
NAMES = ("corpus", "direction", "kind", "seed")
ABOUT: dict[str, Callable[[str], Any]] = {
    "steps": int,
    "residues": lambda text: float(text or math.nan),
    "seconds": float,
    "parameters": int,
    "features": int,
    "shared": str,
    "step": str,
}
"""Column -> its type; all but names and metrics."""
NOT_SHARED = (
    *("model.attention", "model.norms", "model.num_features", "redraw."),  # what a kind of attention is
    "model.local_",
    *("model.causal", "data.causal", "seed", "data.seed", "model.feature_seed"),
)
"""Beginnings of the options in which the runs of a table may differ."""


@dataclass(frozen=True)
class Done:
    """A run with its results; accuracies are fractions.

    Args:
        features: M.
        shared: of its options, those that all runs of a table should have in common, as 12 digits.
        step: those that the time of a step depends on, see `benchmarks.quality_time.step_recipe`.
        results: split -> accuracy, perplexity, and those of the unigram baseline.
        curve: see `read_curve`.
    """

    corpus: str
    direction: str
    kind: str
    seed: int
    steps: int
    residues: float
    seconds: float
    parameters: int
    features: int
    shared: str
    step: str
    results: dict[str, dict[str, float]]
    curve: list[dict[str, float]]

    @property
    def panel(self) -> tuple[str, str]:
        """Corpus and direction, within which runs are compared."""
        return self.corpus, self.direction

    @property
    def name(self) -> str:
        """As in the plan."""
        return f"{self.corpus}/{self.direction}/{self.kind}/{self.seed}"


def shared_options(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Of the options of a run, those that are not its kind of attention, direction or seed."""
    return {name: value for name, value in sorted(recipe.items()) if not name.startswith(NOT_SHARED)}


def shared_digits(recipe: Mapping[str, Any]) -> str:
    """The same as 12 digits."""
    return hashlib.sha256(json.dumps(shared_options(recipe)).encode()).hexdigest()[:12]


def write_runs(runs: Sequence[Done], folder: Path) -> None:
    """Both files, each replaced as a whole: a kill leaves the old rows or the new ones."""
    curves = [{**_names(run), **point} for run in runs for point in run.curve]
    results = [
        {**_names(run), "split": split, **row, **_about(run)} for run in runs for split, row in run.results.items()
    ]
    for rows, name in ((curves, CURVES), (results, RUNS)):  # in this order: a run in the second is whole
        if rows:
            with atomic_output(folder / name) as partial:
                write_csv(rows, partial)


def _names(run: Done) -> dict[str, Any]:
    return {name: getattr(run, name) for name in NAMES}


def _about(run: Done) -> dict[str, Any]:
    values = {name: getattr(run, name) for name in ABOUT}
    return {**values, "residues": whole(run.residues)}


def read_runs(folder: Path) -> list[Done]:
    """What `write_runs` has written; none without the files.

    Raises:
        UserError: if they are something else.
    """
    if not (folder / RUNS).exists():
        return []
    path = folder / CURVES
    try:
        curves: dict[tuple[str, ...], list[dict[str, float]]] = {}
        for row in _rows(path) if path.exists() else []:
            point = {"step": int(row["step"]), **{name: float(row[name]) for name in METRICS}}
            curves.setdefault(tuple(row[name] for name in NAMES), []).append(point)
        path = folder / RUNS
        runs: dict[tuple[str, ...], Done] = {}
        for row in _rows(path):
            names = tuple(row[name] for name in NAMES)
            if names not in runs:
                about = {column: read(row[column]) for column, read in ABOUT.items()}
                runs[names] = Done(*names[:3], int(row["seed"]), **about, results={}, curve=curves.get(names, []))
            runs[names].results[row["split"]] = {name: float(row[name]) for name in METRICS}
    except DAMAGED as error:
        raise UserError(f"{path}: no table of 'python -m benchmarks.quality report'; remove it") from error
    return list(runs.values())


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))
