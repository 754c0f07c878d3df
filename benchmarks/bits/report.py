"""Table, CSV files and learning curves of a study."""

import math
from pathlib import Path

from benchmarks.bits.runs import TRAIN, VALID, Measured, curve_rows, measured, result_rows
from benchmarks.bits.studies import Study
from benchmarks.plots.charts import Curve, Panel, curves
from benchmarks.tables import check_outputs, markdown, replace_csv
from protlm.errors import UserError

ABOVE = 1.0
"""The figure shows bits of up to this much above the unigram baseline, or the first validation without one."""


def report(study: Study, work: Path, table: Path, figure: Path) -> None:
    """Writes the table, its curves (NAME_curves.csv) and the figure, and prints the table.

    Raises:
        UserError: if there is no run, or an output cannot be written.
    """
    runs = measured(study.kinds, work)
    if not runs:
        raise UserError(f"{work}: has no runs of this study; train first")
    of_curves = table.with_name(f"{table.stem}_curves{table.suffix}")
    check_outputs(table, of_curves, picture=figure)
    replace_csv(result_rows(runs), table)
    replace_csv(curve_rows(runs), of_curves)
    print(table_of(study, runs))
    draw(study, runs, figure)


def table_of(study: Study, runs: list[Measured]) -> str:
    """The Markdown table, a line for each run."""
    splits = list(dict.fromkeys(split for run in runs for split in run.results))
    head = ["attention", "seed", "parameters", "steps", "s per step"]
    head += [f"{split}, bits per {study.unit}" for split in splits]
    lines = []
    for run in runs:
        parameters = f"{run.parameters / 1e6:.2f} M" if run.parameters else "-"
        seconds = f"{run.seconds:.2f}" if math.isfinite(run.seconds) else "-"
        steps = f"{run.steps:,}" if run.results else run.state
        cells = [study.kinds[run.kind].title, str(run.seed), parameters, steps, seconds]
        bits = [run.results.get(split, {}).get("bits") for split in splits]
        lines.append([*cells, *("-" if value is None else f"{value:.3f}" for value in bits)])
    if finished := [run for run in runs if run.results]:
        baseline = [finished[0].results.get(split, {}).get("unigram_bits") for split in splits]
        bits = ["-" if value is None else f"{value:.3f}" for value in baseline]
        lines.append(["byte frequencies", "", "", "", "", *bits])
    return markdown(head, lines)


def draw(study: Study, runs: list[Measured], path: Path) -> None:
    """Draws validation bits over steps, and those of the training batches."""
    titles = {VALID: "held-out", TRAIN: "training batches, smoothed"}
    first = min(runs, key=lambda run: run.seed).seed
    shown = [run for run in runs if run.seed == first]
    baselines = [row["unigram_bits"] for run in runs for row in run.results.values()]
    starts = [bits for run in shown for _, bits in run.curves[VALID][:1] if math.isfinite(bits)]
    most = (max(baselines) if baselines else max(starts, default=math.inf)) + ABOVE
    panels = []
    for split, title in titles.items():
        found = {}
        for run in shown:
            kind, points = study.kinds[run.kind], run.curves[split]
            steps, bits = [step for step, _ in points], [value for _, value in points]
            if split == TRAIN:
                bits = smooth(bits)
            style = kind.style if split == VALID else kind.style.lstrip("o^svD")
            found[kind.title] = Curve(steps, bits, kind.colour, style)
        least = min([bits for curve in found.values() for bits in curve.y if math.isfinite(bits)], default=0.0)
        limits = (least - 0.1, most if math.isfinite(most) else None)
        panels.append(Panel(found, title, "step", f"bits per {study.unit}", limits=limits))
    curves(path, panels)


def smooth(values: list[float], share: float = 0.3) -> list[float]:
    """Exponential moving average, in which each value has this share.

    >>> smooth([1.0, 2.0], 0.5)
    [1.0, 1.5]
    """
    smoothed: list[float] = []
    for value in values:
        smoothed.append(value if not smoothed else (1 - share) * smoothed[-1] + share * value)
    return smoothed
