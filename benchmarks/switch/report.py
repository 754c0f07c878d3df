"""Table and figure of `python -m benchmarks.switch`: accuracy right after the switch and along fine-tuning."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.plots.charts import BLUE, GREEN, ORANGE, PINK, RED, SKY
from benchmarks.quality.recipe import has_results
from benchmarks.switch.along import ALONG
from benchmarks.tables import DAMAGED, METRICS, check_outputs, markdown, read_json, write_csv
from protlm.errors import UserError, counted

ORIGINAL = "original.json"
NAME = re.compile(r"(exact|relu|softmax|hyperbolic)(?:_(\d+)(_fixed)?)?")
TITLES = {
    "exact": "exact Transformer",
    "softmax": "Performer-softmax (positive, M={})",
    "hyperbolic": "Performer-softmax (hyperbolic, 2 x {})",
    "relu": "Performer-ReLU",
}
"""Kind -> title with a placeholder for M."""
COLOURS = (RED, BLUE, GREEN, PINK, ORANGE, SKY)
"""One for each estimator."""


QUANTITIES = {"accuracy": "accuracy %", "bits": "bits per byte"}
"""What is shown -> its title."""


def value_of(row: Mapping[str, float], quantity: str, prefix: str = "") -> float:
    """Of the metrics of a split; the prefix "unigram_" for the baseline.

    >>> value_of({"accuracy": 0.5, "perplexity": 8.0}, "bits")
    3.0
    """
    if quantity == "bits":
        return math.log2(row[f"{prefix}perplexity"])
    return 100 * row[f"{prefix}accuracy"]


@dataclass(frozen=True)
class Tuned:
    """A finished run.

    Args:
        name: exact, relu, softmax_M or hyperbolic_M, followed by _fixed for directions that were not redrawn.
        points: steps of fine-tuning -> split -> metrics.
    """

    name: str
    points: dict[int, dict[str, dict[str, float]]]

    @property
    def features(self) -> int | None:
        """M of an estimator of softmax attention; None for other kinds."""
        found = NAME.fullmatch(self.name)
        return int(found[2]) if found and found[2] else None

    @property
    def redrawn(self) -> bool:
        """Whether the directions were redrawn."""
        return self.features is not None and not self.name.endswith("_fixed")

    @property
    def title(self) -> str:
        """For tables and figures."""
        title = TITLES[self.name.split("_")[0]].format(self.features)
        return f"{title}, no redraw" if self.features and not self.redrawn else title


def report(work: Path, path: Path, figure: Path, quantity: str = "accuracy") -> None:
    """Writes the CSV file and the figure, prints the table and names the runs that have not finished.

    `quantity` is one of QUANTITIES.

    Raises:
        UserError: if no run has finished, or the folder is not of this benchmark; for outputs that cannot be written.
    """
    if not (work / ORIGINAL).exists():
        raise UserError(f"{work}: not a folder of 'python -m benchmarks.switch train'; give one as --work")
    folders = sorted((path.parent for path in work.glob("*/run.json")), key=_order)
    names = [folder.name for folder in folders if NAME.fullmatch(folder.name)]
    finished = [name for name in names if has_results(work / name)]
    if not finished:
        raise UserError(f"{work}: none of {counted(len(names), 'run')} has finished")
    check_outputs(path, picture=figure)
    total, tuned = read_tuned(finished, work)
    write_csv(rows(tuned, total), path)
    print(tables(tuned, total, quantity))
    draw(tuned, total, figure, quantity)
    if missing := [name for name in names if name not in finished]:
        print(f"{len(missing)} of {counted(len(names), 'run')} have not finished: {', '.join(missing)}")


def _order(folder: Path) -> tuple[int, int, bool]:
    """Sorts runs as `variants` does: by kind, features, and fixed directions last."""
    found = NAME.fullmatch(folder.name)
    kinds = ("exact", "softmax", "hyperbolic", "relu")
    return (kinds.index(found[1]), int(found[2] or 0), bool(found[3])) if found else (len(kinds), 0, False)


def read_tuned(names: Sequence[str], work: Path) -> tuple[int, list[Tuned]]:
    """Steps of the original run, and the runs with those names.

    Raises:
        UserError: for files that are not of this benchmark.
    """
    path, tuned = work / ORIGINAL, []
    try:
        total = int(read_json(path)["steps"])
        for name in names:
            path = work / name / ALONG
            known = {int(step): splits for step, splits in read_json(path).items()}
            for row in (row for splits in known.values() for row in splits.values()):
                [float(row[name]) for name in METRICS]
            tuned.append(Tuned(name, known))
    except DAMAGED as error:
        raise UserError(f"{path}: not of this benchmark; remove it, and train again") from error
    return total, tuned


def rows(tuned: Sequence[Tuned], total: int) -> list[dict[str, Any]]:
    """A row for each run, step and split; step 0 of the exact Transformer is before the switch."""
    return [
        {
            "attention": run.name.split("_")[0],
            "features": run.features or "",
            "redraw": run.redrawn,
            "step": step,
            "percent": 100 * step / total,
            "split": split,
            **found,
        }
        for run in tuned
        for step, splits in run.points.items()
        for split, found in splits.items()
    ]


def tables(tuned: Sequence[Tuned], total: int, quantity: str = "accuracy") -> str:
    """A Markdown table for each split: the quantity against steps, in % of the original run's."""
    splits = list(dict.fromkeys(split for run in tuned for found in run.points.values() for split in found))
    steps = sorted({step for run in tuned for step in run.points})
    before = next((run.points[0] for run in tuned if run.name == "exact"), None)
    blocks = []
    for split in splits:
        head = ["attention", "after the switch", *(f"{100 * step / total:.1f} %" for step in steps if step)]
        lines = []
        for run in tuned:
            found = [run.points.get(step, {}).get(split) for step in steps]
            cells = [f"{value_of(point, quantity):.2f}" if point else "-" for point in found]
            lines.append([run.title, *cells, f"{found[-1]['perplexity']:.2f}" if found[-1] else "-"])
        first = next(found[split] for run in tuned for found in run.points.values() if split in found)
        base = f"unigram {value_of(first, quantity, 'unigram_'):.2f}"
        if before:
            base = f"before the switch {value_of(before[split], quantity):.2f}, {base}"
        title = f"**{split}**, {QUANTITIES[quantity]} against steps of fine-tuning in % of {total:,} ({base})"
        blocks.append(markdown([*head, "perplexity"], lines, title))
    return "\n\n".join(blocks)


def draw(tuned: Sequence[Tuned], total: int, path: Path, quantity: str = "accuracy") -> None:
    """Draws the quantity against steps of fine-tuning, with a panel each for test and ood."""
    from matplotlib.figure import Figure  # not pyplot, which has global state and needs a display

    present = [split for run in tuned for found in run.points.values() for split in found]
    splits = [split for split in ("test", "ood") if split in present]
    figure = Figure(figsize=(2.2 + 3.8 * len(splits), 4.8), layout="constrained")
    grid = figure.subplots(1, len(splits), squeeze=False)[0]
    estimators = dict.fromkeys(run.name.removesuffix("_fixed") for run in tuned if run.features)
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(estimators)}
    shown: dict[str, Any] = {}
    for axes, split in zip(grid, splits, strict=True):
        for run in tuned:
            points = {step: found[split] for step, found in sorted(run.points.items()) if split in found}
            values = [value_of(point, quantity) for point in points.values()]
            style: dict[str, Any] = {"marker": "o", "ms": 4, "lw": 1.6}
            if run.features:
                style |= {"color": colours[run.name.removesuffix("_fixed")]}
                style |= {} if run.redrawn else {"ls": ":", "marker": "s"}
            else:
                style |= {"color": "black" if run.name == "exact" else "0.55", "marker": "^"}
            (shown[run.title],) = axes.plot([100 * step / total for step in points], values, **style)
            if run.name == "exact":
                shown["before the switch"] = axes.axhline(values[0], color="black", ls="-.", lw=1)
        unigram = next(run.points[step][split] for run in tuned for step in run.points if split in run.points[step])
        # in the title, since a line would be so far below that the kinds could not be told apart
        axes.set(
            title=f"{split} (unigram {value_of(unigram, quantity, 'unigram_'):.1f})",
            xlabel=f"steps of fine-tuning, % of {total:,}",
        )
        axes.spines[["top", "right"]].set_visible(False)
    grid[0].set_ylabel(QUANTITIES[quantity])
    names = sorted(shown, key=lambda name: name == "before the switch")
    figure.legend([shown[name] for name in names], names, loc="outside right center", frameon=False)
    figure.savefig(path, dpi=150)
