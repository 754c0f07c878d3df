"""Finished runs as rows of quality.csv and quality_curves.csv, written and read back.

The files outlive the work folder: runs in the files that are not in the folder are kept.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.tables import DAMAGED, METRICS, read_rows, replace_csv, whole
from protlm.errors import UserError

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
"""Column -> its type; all columns except names and metrics."""
NOT_SHARED = (
    *("model.attention", "model.norms", "model.num_features", "redraw."),  # what defines a kind of attention
    "model.local_",
    *("model.causal", "data.causal", "seed", "data.seed", "model.feature_seed"),
)
"""Prefixes of the options in which the runs of a table may differ."""


@dataclass(frozen=True)
class Finished:
    """A finished run; accuracies are fractions.

    Args:
        features: M.
        shared: hash (12 digits) of the options that all runs of a table should have in common.
        step: hash of the options that determine the time of a step, see `benchmarks.quality.time.step_recipe`.
        results: split -> accuracy, perplexity, and the same of the unigram baseline.
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
        """Corpus and direction: runs are compared within a panel."""
        return self.corpus, self.direction

    @property
    def name(self) -> str:
        """Its folder within the work folder."""
        return f"{self.corpus}/{self.direction}/{self.kind}/{self.seed}"


def shared_options(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a run except its kind of attention, direction and seed."""
    return {name: value for name, value in sorted(recipe.items()) if not name.startswith(NOT_SHARED)}


def shared_digits(recipe: Mapping[str, Any]) -> str:
    """`shared_options` as a hash of 12 digits."""
    return hashlib.sha256(json.dumps(shared_options(recipe)).encode()).hexdigest()[:12]


def write_runs(runs: Sequence[Finished], folder: Path) -> None:
    """Writes both files, each atomically."""
    curves = [{**_names(run), **point} for run in runs for point in run.curve]
    results = [
        {**_names(run), "split": split, **row, **_about(run)} for run in runs for split, row in run.results.items()
    ]
    for rows, name in ((curves, CURVES), (results, RUNS)):  # in this order: a run in quality.csv has its curve
        if rows:
            replace_csv(rows, folder / name)


def _names(run: Finished) -> dict[str, Any]:
    return {name: getattr(run, name) for name in NAMES}


def _about(run: Finished) -> dict[str, Any]:
    values = {name: getattr(run, name) for name in ABOUT}
    return {**values, "residues": whole(run.residues)}


def read_runs(folder: Path) -> list[Finished]:
    """The runs that `write_runs` wrote; none without the files.

    Raises:
        UserError: if the files are something else.
    """
    path = folder / CURVES
    try:
        curves: dict[tuple[str, ...], list[dict[str, float]]] = {}
        for row in read_rows(path):
            point = {"step": int(row["step"]), **{name: float(row[name]) for name in METRICS}}
            curves.setdefault(tuple(row[name] for name in NAMES), []).append(point)
        path = folder / RUNS
        runs: dict[tuple[str, ...], Finished] = {}
        for row in read_rows(path):
            names = tuple(row[name] for name in NAMES)
            if names not in runs:
                about = {column: read(row[column]) for column, read in ABOUT.items()}
                runs[names] = Finished(*names[:3], int(row["seed"]), **about, results={}, curve=curves.get(names, []))
            runs[names].results[row["split"]] = {name: float(row[name]) for name in METRICS}
    except DAMAGED as error:
        raise UserError(f"{path}: not a table of 'python -m benchmarks.quality report'; remove it") from error
    return list(runs.values())
