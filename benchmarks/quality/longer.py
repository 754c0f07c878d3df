"""Runs of different lengths beside each other, and how many residues a gain takes, extrapolated.

Accuracy above the unigram baseline grows about with the logarithm of the residues seen. For each kind of attention with
runs of two lengths or more, the line through the longest two says at which number of residues the wanted gain is
reached, and the time per residue of the longest run how long that takes.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.quality.recipe import has_results, recipe_in
from benchmarks.quality.report import in_order, read_run, run_names, title_of
from benchmarks.quality.table import CURVES, RUNS, Finished, write_runs
from benchmarks.tables import check_outputs, markdown
from protlm.errors import UserError


def finished_in(works: Sequence[Path]) -> list[Finished]:
    """The finished runs of several work folders, sorted by corpus, direction, kind, seed and steps.

    Raises:
        UserError: if a folder has none.
    """
    runs: list[Finished] = []
    for work in works:
        recipes: Mapping[str, Mapping[str, Any] | None] = {name: recipe_in(work / name) for name in run_names(work)}
        own = [
            read_run(name, recipe, work / name)
            for name, recipe in recipes.items()
            if recipe and has_results(work / name)
        ]
        if not own:
            raise UserError(f"{work}: no run has finished; start with 'train'")
        runs += own
    return in_order(sorted(runs, key=lambda run: run.steps))


def gain(run: Finished, split: str) -> float:
    """Accuracy above the unigram baseline, in points."""
    return 100 * (run.results[split]["accuracy"] - run.results[split]["unigram_accuracy"])


def residues_for(points: float, short: tuple[float, float], long: tuple[float, float]) -> float:
    """The residues at which the line through two (residues, gain) over the logarithm of residues reaches a gain.

    inf if the gain does not grow.

    >>> residues_for(4.0, (1e6, 1.0), (1e7, 2.0))
    1000000000.0
    """
    slope = (long[1] - short[1]) / math.log10(long[0] / short[0])
    return math.inf if slope <= 0 else long[0] * 10 ** ((points - long[1]) / slope)


def tables(runs: Sequence[Finished], split: str, points: float) -> str:
    """Markdown: a line for each run, then one for each kind that can be extrapolated."""
    head = ["direction", "attention", "seed", "steps", "residues", "minutes of training"]
    head += ["accuracy %", "above unigram", "perplexity", "unigram"]
    lines = []
    for run in runs:
        row = run.results[split]
        line = [run.direction, title_of(run), run.seed, f"{run.steps:,}", f"{run.residues / 1e6:.1f} M"]
        line += [f"{run.seconds / 60:.1f}", f"{100 * row['accuracy']:.2f}", f"{gain(run, split):+.2f}"]
        lines.append([*line, f"{row['perplexity']:.2f}", f"{row['unigram_perplexity']:.2f}"])
    parts = [markdown(head, lines)]
    ahead = []
    for name in dict.fromkeys(run.name for run in runs):
        *_, short, long = [None, *(run for run in runs if run.name == name)]
        if short is None or short.steps == long.steps:
            continue
        needed = residues_for(points, *((run.residues, gain(run, split)) for run in (short, long)))
        hours = needed * long.seconds / long.residues / 3600
        cells = (
            [f"{needed / 1e6:,.0f} M", f"{needed / long.residues:,.0f}", f"{hours:,.1f}"]
            if needed < math.inf
            else "---"
        )
        ahead.append([long.direction, title_of(long), f"{short.steps:,}, {long.steps:,}", *cells])
    if ahead:
        columns = [
            "direction",
            "attention",
            "from runs of",
            f"residues to {points:g} points",
            "times the longest run",
            "hours",
        ]
        parts.append(markdown(columns, ahead))
    return "\n\n".join(parts)


def compare_lengths(works: Sequence[Path], split: str, points: float, results: Path) -> None:
    """Prints the tables and writes quality.csv and quality_curves.csv.

    Raises:
        UserError: for folders without a finished run, or a split that a run was not tested on.
    """
    runs = finished_in(works)
    if odd := [run.name for run in runs if split not in run.results]:
        raise UserError(f"{odd[0]}: has no results of the split {split!r}")
    check_outputs(results / RUNS, results / CURVES)
    print(tables(runs, split, points))
    write_runs(runs, results)
