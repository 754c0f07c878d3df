"""Tables and figure of the finished runs of `python -m benchmarks.quality train`.

Writes quality.csv, one row per run and split; quality_curves.csv, one row per validation; and the figure. Runs that are
in the files but not in the work folder are kept, unless the folder has an unfinished run of that name with other
options. The Markdown table has means over seeds with half the range, and the difference from the exact Transformer in
percentage points over the seeds that both have. The time to the same accuracy is an estimate: the step of the first
validation, in runs at the recipe's length, that reaches the exact Transformer's last one minus half a point, times the
seconds of a step at L=1024 in quality_time.csv, if they were measured with the options of the run.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.quality.recipe import EFFORT, has_results, recipe_in
from benchmarks.quality.runs import read_curve, residues_seen
from benchmarks.quality.table import (
    CURVES,
    RUNS,
    Finished,
    read_runs,
    shared_digits,
    shared_options,
    write_runs,
)
from benchmarks.quality.time import LONG, read_seconds, step_recipe
from benchmarks.tables import DAMAGED, METRICS, check_outputs, markdown, read_json
from protlm.errors import UserError, counted

TITLES = {
    "exact": "exact Transformer",
    "relu": "Performer-ReLU",
    "softmax": "Performer-softmax (hyperbolic, 2 x {})",
    "softmax_fixed": "Performer-softmax (hyperbolic, 2 x {}), no redraw",
    "relu_local": "Performer-ReLU, 3 of 4 heads local",
    "softmax_local": "Performer-softmax (hyperbolic, 2 x {}), no redraw, 3 of 4 heads local",
    "linformer": "Linformer",
    "reformer": "Reformer",
    "window": "window",
    "opt": "no attention (OPT)",
}
"""Kind -> title with a placeholder for M."""
COLOURS = {
    "exact": "#000000",
    "relu": "#0072B2",
    "softmax": "#D55E00",
    "softmax_fixed": "#E69F00",
    "relu_local": "#0072B2",
    "softmax_local": "#E69F00",
    "linformer": "#009E73",
    "reformer": "#CC79A7",
    "window": "#56B4E9",
    "opt": "#888888",
}
"""Colours of Okabe and Ito; lines are dashed for local heads."""
MARKERS = dict(zip(COLOURS, "os^vsvDPX*", strict=True))
NEAR = 5.0
"""The figure shows differences of up to this many points from the exact Transformer."""
SLACK = 0.005
"""The time is taken at the exact Transformer's accuracy minus this."""
ABOUT = f"""\
\\* The first validation within half a point of the exact Transformer's last one, and that step times the seconds of a
step at L={LONG:,} (quality_time.csv): an estimate, since the runs themselves have shorter proteins. Hyperbolic, 2 x M:
features of w and -w for M directions. The feature type, norms and redraws of the softmax Performer, and the step sizes
of queries and keys of all kinds, were chosen for it on the families corpus with seed 1 (decisions.md); the other kinds
were not tuned."""


Recipes = Mapping[str, Mapping[str, Any]]


def run_names(work: Path) -> list[str]:
    """The runs of this benchmark in a work folder, finished or not."""
    names = sorted(path.parent.relative_to(work).as_posix() for path in work.glob("*/*/*/*/run.json"))
    return [name for name in names if re.fullmatch(rf"[^/]+/[^/]+/({'|'.join(TITLES)})/\d+", name)]


def read_run(name: str, recipe: Mapping[str, Any], folder: Path) -> Finished:
    """A finished run; `UserError` for damaged files."""
    corpus, direction, kind, seed = name.split("/")
    results, effort = (read_json(folder / file) for file in ("results.json", EFFORT))
    try:
        results = {split: {metric: float(row[metric]) for metric in METRICS} for split, row in results.items()}
        return Finished(
            corpus,
            direction,
            kind,
            int(seed),
            steps=recipe["trainer.max_steps"],
            residues=residues_seen(folder),
            seconds=float(effort["seconds"]),
            parameters=int(effort["parameters"]),
            features=recipe["model.num_features"],
            shared=shared_digits(recipe),
            step=step_recipe(recipe),
            results=results,
            curve=read_curve(folder),
        )
    except DAMAGED as error:
        raise UserError(f"{folder}: damaged ({error!r}); remove it, and train again") from error


def report(work: Path, results: Path, figure: Path) -> None:
    """Writes the CSV files and the figure, and prints the table and notes on missing runs.

    Without a work folder it reports the runs of the CSV files.

    Raises:
        UserError: if there is no finished run in either; for files that are damaged or something else.
    """
    earlier = read_runs(results)
    recipes = {name: recipe_in(work / name) for name in run_names(work)}
    finished = [
        read_run(name, recipes[name], work / name) for name in recipes if recipes[name] and has_results(work / name)
    ]
    seconds = read_seconds(results / "quality_time.csv")
    if not finished and not earlier:
        raise UserError(f"{work}: none of {counted(len(recipes), 'run')} has finished; start with 'train'")
    check_outputs(results / RUNS, results / CURVES, picture=figure)
    kept = [run for run in earlier if stays(run, recipes) and run.name not in {own.name for own in finished}]
    runs = in_order([*finished, *kept])
    write_runs(runs, results)
    print(tables(runs, seconds))
    draw(runs, figure)
    print("", ABOUT, *untimed(runs, seconds), *notes(recipes, finished, kept), sep="\n")


def stays(run: Finished, recipes: Recipes) -> bool:
    """Whether a run of the files is not in the work folder, or is there with the same options."""
    if run.kind not in TITLES:
        return False
    recipe = recipes.get(run.name)
    return not recipe or (run.shared, run.step) == (shared_digits(recipe), step_recipe(recipe))


def in_order(runs: Sequence[Finished]) -> list[Finished]:
    """Sorted by corpus, direction, kind and seed."""
    kinds = {kind: number for number, kind in enumerate(TITLES)}
    return sorted(runs, key=lambda run: (*run.panel, kinds[run.kind], run.seed))


def steps_to(run: Finished, exact: Finished) -> float:
    """The first step with the exact Transformer's last validation accuracy minus `SLACK`; inf if there is none."""
    target = exact.curve[-1]["accuracy"] - SLACK if exact.curve else math.inf
    return next((point["step"] for point in run.curve if point["accuracy"] >= target), math.inf)


def tables(runs: Sequence[Finished], seconds: Mapping[tuple[str, str, str], float]) -> str:
    """The Markdown tables, one per corpus and direction.

    Args:
        runs: at least one.
        seconds: (direction, kind, `step_recipe`) -> seconds of a step at L=1024; a dash where it is missing.
    """
    splits = list(dict.fromkeys(split for run in runs for split in run.results))
    head = ["attention", "seeds", "parameters"]
    head += [f"{split} {name}" for split in splits for name in ("accuracy %", "from exact", "perplexity")]
    head += ["steps to exact's*", f"minutes to it at L={LONG:,}, estimated*"]
    blocks = []
    for panel in dict.fromkeys(run.panel for run in runs):
        here = [run for run in runs if run.panel == panel]
        exact = {run.seed: run for run in here if run.kind == "exact"}
        lines = []
        for kind in [kind for kind in TITLES if any(run.kind == kind for run in here)]:
            own = [run for run in here if run.kind == kind]
            cells = [title_of(own[0]), str(len(own)), f"{mean(run.parameters for run in own) / 1e6:.2f} M"]
            for split in splits:
                cells += [
                    spread([100 * run.results[split]["accuracy"] for run in own if split in run.results], 2),
                    difference(own, exact, split),
                    spread([run.results[split]["perplexity"] for run in own if split in run.results], 2),
                ]
            steps = [steps_to(run, exact[run.seed]) for run in own if run.seed in exact]
            reached = bool(steps) and all(map(math.isfinite, steps))
            cells.append(f"{mean(steps):,.0f}" if reached else "-")
            time = seconds.get((panel[1], kind, own[0].step))
            cells.append(f"{mean(steps) * time / 60:.1f}" if reached and time else "-")
            lines.append(cells)
        unigram = ["unigram", "", ""]
        for split in splits:
            rows = list({run.seed: run.results[split] for run in here if split in run.results}.values())
            accuracies = [100 * row["unigram_accuracy"] for row in rows]
            unigram += [spread(accuracies, 2), "", spread([row["unigram_perplexity"] for row in rows], 2)]
        steps = ", ".join(f"{count:,}" for count in sorted({run.steps for run in here}))
        blocks.append(markdown(head, [*lines, [*unigram, "", ""]], f"**{panel[0]}, {panel[1]}**, {steps} steps"))
    return "\n\n".join(blocks)


def spread(values: Sequence[float], digits: int) -> str:
    """Mean and half the range.

    >>> spread([1.0, 2.0], 1)
    '1.5 ± 0.5'
    """
    if not values:
        return "-"
    half = f" ± {(max(values) - min(values)) / 2:.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{half}"


def title_of(run: Finished) -> str:
    """The title of its kind of attention."""
    return TITLES[run.kind].format(run.features)


def difference(own: Sequence[Finished], exact: dict[int, Finished], split: str) -> str:
    """Points of accuracy above the exact Transformer, averaged over the seeds that both have."""
    values = [
        100 * (run.results[split]["accuracy"] - exact[run.seed].results[split]["accuracy"])
        for run in own
        if run.seed in exact and split in run.results
    ]
    return f"{mean(values):+.2f}" if values and own[0].kind != "exact" else ""


def untimed(runs: Sequence[Finished], seconds: Mapping[tuple[str, str, str], float]) -> list[str]:
    """A line that names the kinds without a timed step, if there are any; arguments as those of `tables`."""
    names = dict.fromkeys(
        f"{run.direction}/{run.kind}" for run in runs if (run.direction, run.kind, run.step) not in seconds
    )
    line = f"no minutes: quality_time.csv has no step at L={LONG:,} with the options of {', '.join(names)}"
    return [line] * bool(names)


def notes(recipes: Recipes, finished: Sequence[Finished], kept: Sequence[Finished]) -> list[str]:
    """Lines on unfinished runs, on runs kept from the files, and on panels whose runs differ in more than attention."""
    there = {run.name for run in (*finished, *kept)}
    lines = []
    if missing := [name for name in recipes if name not in there]:
        lines.append(f"{len(missing)} of {counted(len(recipes), 'run')} have not finished: {', '.join(missing)}")
    if kept:
        lines.append(f"{counted(len(kept), 'run')} not in the work folder, kept from {RUNS}")
    for panel in dict.fromkeys(run.panel for run in (*finished, *kept)):
        options = [shared_options(recipes[run.name]) for run in finished if run.panel == panel]
        names = sorted({name for found in options for name in found})
        odd = [name for name in names if len({json.dumps(found.get(name)) for found in options}) > 1]
        if not odd and len({run.shared for run in (*finished, *kept) if run.panel == panel}) > 1:
            odd = [f"options of earlier runs, kept from {RUNS}"]
        if odd:
            lines.append(f"{'/'.join(panel)}: the runs differ in more than attention: {', '.join(odd)}")
    return lines


def draw(runs: Sequence[Finished], path: Path) -> None:
    """Draws learning curves, means over seeds, with a column for each corpus and direction.

    Rows: accuracy; its difference from the exact Transformer's, over the seeds and steps that both have; perplexity.
    Runs without a validation are left out; if there are no others, nothing is drawn.
    """
    from matplotlib.figure import Figure  # not pyplot, which has global state and needs a display

    panels = list(dict.fromkeys(run.panel for run in runs if run.curve))
    if not panels:
        return
    figure = Figure(figsize=(max(8.5, 1 + 4.0 * len(panels)), 10.0), layout="constrained")
    grid = figure.subplots(3, len(panels), squeeze=False, sharex="col")
    shown, titles = {}, {run.kind: title_of(run) for run in runs}
    for column, panel in enumerate(panels):
        here = [run for run in runs if run.panel == panel]
        exact = {(run.seed, point["step"]): point for run in here if run.kind == "exact" for point in run.curve}
        rows = (("accuracy", 100, {}), ("accuracy", 100, exact), ("perplexity", 1, {}))
        for axes, (name, factor, base) in zip(grid[:, column], rows, strict=True):
            for kind in [kind for kind in TITLES if any(run.kind == kind for run in here)]:
                points: dict[float, list[float]] = {}
                for run in here:
                    for point in run.curve if run.kind == kind else ():
                        zero = base.get((run.seed, point["step"])) if base else dict.fromkeys(point, 0.0)
                        if zero:
                            points.setdefault(point["step"], []).append(factor * (point[name] - zero[name]))
                style: dict[str, Any] = {"color": COLOURS[kind], "marker": MARKERS[kind], "ms": 4, "lw": 1.6}
                style |= {"ls": "--", "mfc": "white"} if kind.endswith("_local") else {}
                (shown[titles[kind]],) = axes.plot(list(points), [mean(values) for values in points.values()], **style)
            if base:
                low, high = axes.get_ylim()
                axes.set_ylim(max(low, -NEAR), min(high, NEAR))
            else:
                unigram = [factor * point[f"unigram_{name}"] for run in here for point in run.curve[:1]]
                shown["unigram"] = axes.axhline(mean(unigram), color="0.4", ls="--", lw=1.2)
            axes.spines[["top", "right"]].set_visible(False)
        seeds = len({run.seed for run in here})
        grid[0, column].set_title(f"{', '.join(panel)} ({counted(seeds, 'seed')})")
        grid[2, column].set_xlabel("step")
    grid[0, 0].set_ylabel("validation accuracy, %")
    grid[1, 0].set_ylabel(f"difference from exact,\npoints (within {NEAR:g})")
    grid[2, 0].set_ylabel("validation perplexity")
    names = [*(titles[kind] for kind in TITLES if titles.get(kind) in shown), "unigram"]
    figure.legend(
        [shown[name] for name in names], names, loc="outside lower center", ncol=min(4, len(panels)), frameon=False
    )
    figure.savefig(path, dpi=150)
