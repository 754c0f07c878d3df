"""Tables and figure of the runs of benchmarks/quality.py that are done.

Written: quality.csv, a row for each run and split; quality_curves.csv, a row for each validation; and the figure. Runs
that are in the files and not in the work folder stay, unless the plan has them with other options. The Markdown
table has means over seeds with half the range, and the difference from the exact Transformer in points, of the seeds
that both have. The time to the same accuracy is an estimate: the step of the first validation, in runs at the recipe's
length, that reaches the exact Transformer's last one less half a point, times the seconds of a step at L=1024 in
quality_time.csv, if they were measured with the options of the run.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.quality_plan import EFFORT, PLAN, Plan, read_plan
from benchmarks.quality_runs import read_curve, residues_seen
from benchmarks.quality_table import (
    CURVES,
    RUNS,
    Done,
    read_runs,
    shared_digits,
    shared_options,
    write_runs,
)
from benchmarks.quality_time import LONG, read_seconds, step_recipe
from benchmarks.tables import DAMAGED, METRICS, check_outputs, read_json
from protlm.errors import UserError

TITLES = {
    "exact": "exact Transformer",
    "relu": "Performer-ReLU",
    "softmax": "Performer-softmax (hyperbolic, 2 x {})",
    "softmax_fixed": "Performer-softmax (hyperbolic, 2 x {}), no redraw",
    "relu_local": "Performer-ReLU, 3 of 4 heads see a window",
    "softmax_local": "Performer-softmax (hyperbolic, 2 x {}), no redraw, 3 of 4 heads see a window",
    "linformer": "Linformer",
    "reformer": "Reformer",
    "window": "window",
    "opt": "no attention (OPT)",
}
"""With a place for M."""
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
"""Of Okabe and Ito, which the colour-blind tell apart; dashed where some heads see a window."""
MARKERS = dict(zip(COLOURS, "os^vsvDPX*", strict=True))
NEAR = 5.0
"""Points of accuracy from the exact Transformer that the figure shows."""
SLACK = 0.005
"""How far below the exact Transformer's accuracy the time is taken."""
ABOUT = f"""\
\\* The first validation that reaches the exact Transformer's last one less half a point, and that step times the
seconds of a step at L={LONG:,} (quality_time.csv): an estimate, since the runs themselves have shorter proteins.
Hyperbolic, 2 x M: features of w and of -w for M directions. Kind of features, norms and redraws of the softmax
Performer, and the steps of queries and keys for all kinds, were chosen for it on the corpus of families with seed 1
(decisions.md); the other kinds were not tuned."""


def read_done(plan: Plan, work: Path) -> list[Done]:
    """All runs of the plan that are done, in its order.

    Raises:
        UserError: for a plan of another benchmark, and files that are damaged.
    """
    done = [name for name in plan.recipes if plan.is_done(name, work)]
    if not all(re.fullmatch(rf"[^/]+/[^/]+/({'|'.join(TITLES)})/\d+", name) for name in done):
        raise UserError(f"{work}: its plan is of another benchmark; name the folder of 'train' as --work")
    return [read_run(name, plan.recipes[name], work / name) for name in done]


def read_run(name: str, recipe: dict[str, Any], folder: Path) -> Done:
    """A run that is done; `UserError` for files that are damaged."""
    corpus, direction, kind, seed = name.split("/")
    results, effort = (read_json(folder / file) for file in ("results.json", EFFORT))
    try:
        results = {split: {metric: float(row[metric]) for metric in METRICS} for split, row in results.items()}
        return Done(
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
    """Writes the CSV files and the figure, and prints the table and what is missing.

    Without a work folder, those of the CSV files.

    Raises:
        UserError: if no run is done or in the files; for files that are damaged or something else.
    """
    earlier = read_runs(results)
    plan = Plan({}) if earlier and not (work / PLAN).exists() else read_plan(work)
    done = read_done(plan, work)
    seconds = read_seconds(results / "quality_time.csv")
    if not done and not earlier:
        raise UserError(f"{work}: none of {len(plan.recipes)} runs is done")
    check_outputs(results / RUNS, results / CURVES, picture=figure)
    kept = [run for run in earlier if stays(run, plan) and run.name not in {own.name for own in done}]
    runs = in_order([*done, *kept])
    write_runs(runs, results)
    print(markdown(runs, seconds))
    draw(runs, figure)
    print("", ABOUT, *untimed(runs, seconds), *notes(plan, done, kept), sep="\n")


def stays(run: Done, plan: Plan) -> bool:
    """Whether a run of the files is none of the plan, or has its options."""
    if run.kind not in TITLES:
        return False
    recipe = plan.recipes.get(run.name)
    return recipe is None or (run.shared, run.step) == (shared_digits(recipe), step_recipe(recipe))


def in_order(runs: Sequence[Done]) -> list[Done]:
    """By corpus, direction, kind and seed, the same whatever is done first."""
    kinds = {kind: number for number, kind in enumerate(TITLES)}
    return sorted(runs, key=lambda run: (*run.panel, kinds.get(run.kind, len(kinds)), run.seed))


def steps_to(run: Done, exact: Done) -> float:
    """Steps to the validation that first reaches the exact Transformer's last accuracy less `SLACK`; inf if none."""
    target = exact.curve[-1]["accuracy"] - SLACK if exact.curve else math.inf
    return next((point["step"] for point in run.curve if point["accuracy"] >= target), math.inf)


def markdown(runs: Sequence[Done], seconds: Mapping[tuple[str, str, str], float]) -> str:
    """The table, as in docs/results.md.

    Args:
        runs: at least one.
        seconds: (direction, kind, `step_recipe`) -> of a step at L=1024; where there are none, a dash.
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
        lines.append([*unigram, "", ""])
        table = [head, ["---"] * len(head), *lines]
        steps = ", ".join(f"{count:,}" for count in sorted({run.steps for run in here}))
        title = f"**{panel[0]}, {panel[1]}**, {steps} steps"
        blocks.append("\n".join([title, "", *("| " + " | ".join(line) + " |" for line in table)]))
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


def title_of(run: Done) -> str:
    """Of its kind, for a reader."""
    return TITLES[run.kind].format(run.features)


def difference(own: Sequence[Done], exact: dict[int, Done], split: str) -> str:
    """Points of accuracy above the exact Transformer, mean over the seeds that both have."""
    values = [
        100 * (run.results[split]["accuracy"] - exact[run.seed].results[split]["accuracy"])
        for run in own
        if run.seed in exact and split in run.results
    ]
    return f"{mean(values):+.2f}" if values and own[0].kind != "exact" else ""


def untimed(runs: Sequence[Done], seconds: Mapping[tuple[str, str, str], float]) -> list[str]:
    """A line, if there are runs with whose options no step was timed; arguments as those of `markdown`."""
    names = dict.fromkeys(
        f"{run.direction}/{run.kind}" for run in runs if (run.direction, run.kind, run.step) not in seconds
    )
    line = f"no minutes: quality_time.csv has no step at L={LONG:,} with the options of {', '.join(names)}"
    return [line] * bool(names)


def notes(plan: Plan, done: Sequence[Done], kept: Sequence[Done]) -> list[str]:
    """What a reader of the table has to know: runs that are missing, runs that differ in more than attention."""
    there = {run.name for run in (*done, *kept)}
    missing = [name for name in plan.recipes if name not in there]
    lines = [f"{len(missing)} of {len(plan.recipes)} runs of the plan are missing: {', '.join(missing)}"] * bool(
        missing
    )
    if kept:
        lines.append(f"{len(kept)} runs are not in the work folder and were kept from {RUNS}")
    for panel in dict.fromkeys(run.panel for run in (*done, *kept)):
        recipes = [shared_options(plan.recipes[run.name]) for run in done if run.panel == panel]
        names = sorted({name for recipe in recipes for name in recipe})
        odd = [name for name in names if len({json.dumps(recipe.get(name)) for recipe in recipes}) > 1]
        if not odd and len({run.shared for run in (*done, *kept) if run.panel == panel}) > 1:
            odd = [f"options of earlier ones, kept from {RUNS}"]
        if odd:
            lines.append(f"{'/'.join(panel)}: the runs differ in more than attention: {', '.join(odd)}")
    return lines


def draw(runs: Sequence[Done], path: Path) -> None:
    """Learning curves: a column for each corpus and direction, means over seeds.

    Below each other: accuracy; its difference from the exact Transformer's, over the seeds and steps that both have;
    perplexity. Runs without a validation are left out; if there are no others, nothing is drawn.
    """
    from matplotlib.figure import Figure  # no pyplot: no global state, no display

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
        grid[0, column].set_title(f"{', '.join(panel)} ({seeds} seed{'s' if seeds > 1 else ''})")
        grid[2, column].set_xlabel("step")
    grid[0, 0].set_ylabel("validation accuracy, %")
    grid[1, 0].set_ylabel(f"from the exact Transformer,\npoints (within {NEAR:g})")
    grid[2, 0].set_ylabel("validation perplexity")
    names = [*(titles[kind] for kind in TITLES if titles.get(kind) in shown), "unigram"]
    figure.legend(
        [shown[name] for name in names], names, loc="outside lower center", ncol=min(4, len(panels)), frameon=False
    )
    figure.savefig(path, dpi=150)
