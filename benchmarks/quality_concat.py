"""Proteins joined into blocks of 8,192 tokens: a small Performer against the largest Transformer as fast as it.

Both are those of conf/experiment/trembl_concat_small.yaml but for the Transformer's layers, width and heads, its
feed-forward being four times as wide, as the Performer's. A step of each Transformer of the grid is measured beside one
of the Performer; of those that take no longer, the one with most parameters in its blocks is trained for as many steps.
If none is as fast, it is the fastest one, and the table has the seconds of both.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.quality_plan import EFFORT, Run, composed, write_plan
from benchmarks.quality_runs import residues_seen, run_all
from benchmarks.quality_time import mean_seconds, size, training_step
from benchmarks.tables import check_outputs, read_json, whole, write_csv
from protlm.corpus.reader import Corpus
from protlm.errors import UserError
from protlm.files import atomic_output

CHOICE = "choice.json"
BASE = ["+experiment=trembl_concat_small", "trainer.max_time=null", "callbacks.checkpoint.every_n_train_steps=100"]
PERFORMER = ["model.attention=relu"]


@dataclass(frozen=True)
class Grid:
    """Transformers that are tried.

    Args:
        layers, widths, heads: all of them with each other.
        repeats: steps of which the median is taken, after one more.
    """

    layers: tuple[int, ...] = (1, 2, 3)
    widths: tuple[int, ...] = (32, 64, 96, 128, 192)
    heads: tuple[int, ...] = (1, 2, 4)
    repeats: int = 3


@dataclass(frozen=True)
class Candidate:
    """A Transformer of the grid, or the Performer.

    Args:
        options: of `protlm.train`.
        parameters, in_blocks: all of them, and those that are not of tokens or positions.
        seconds: of a training step.
    """

    layers: int
    width: int
    heads: int
    options: tuple[str, ...]
    parameters: int
    in_blocks: int
    seconds: float


def transformer(layers: int, width: int, heads: int) -> list[str]:
    """Options of `protlm.train`."""
    sizes = {"layers": layers, "width": width, "heads": heads, "feed_forward": 4 * width}
    return ["model.attention=exact", *(f"model.{name}={value}" for name, value in sizes.items())]


def measure(grid: Grid, options: Sequence[str]) -> tuple[Candidate, list[Candidate]]:
    """The Performer, and the Transformers of the grid, narrow and flat ones first; it takes turns with each of them.

    What is already too slow with fewer layers is not tried with more.

    Args:
        grid: what to measure.
        options: of `protlm.train`, that all share.
    """
    config = composed([*BASE, "data.corpus=none", *options, *PERFORMER])
    length = config.data.max_length
    own = training_step(config, length)
    times, found = [], []
    print(f"a step at L={length:,}: seconds", flush=True)
    for width, heads in product(grid.widths, grid.heads):
        if width % (2 * heads):
            continue
        for layers in sorted(grid.layers):
            sizes = transformer(layers, width, heads)
            other = training_step(composed([*BASE, "data.corpus=none", *options, *sizes]), length)
            pair = mean_seconds({"performer": own, "transformer": other}, grid.repeats)
            times.append(pair["performer"])
            name = f"Transformer, width {width}, heads {heads}, layers {layers}"
            print(f"{name:<48}{pair['transformer']:.2f}, Performer {pair['performer']:.2f}", flush=True)
            ratio = pair["transformer"] / pair["performer"]  # of the same moment
            parameters = (size(other.model), size(other.model.blocks))
            found.append(Candidate(layers, width, heads, tuple(sizes), *parameters, ratio))
            if ratio > 1:
                break
    if not found:
        raise UserError("none of the widths can be divided among any of the numbers of heads")
    middle = statistics.median(times)
    shape, parameters = own.model.config, (size(own.model), size(own.model.blocks))
    first = Candidate(shape.layers, shape.width, shape.heads, tuple(PERFORMER), *parameters, middle)
    return first, [replace(candidate, seconds=candidate.seconds * middle) for candidate in found]


def choose(performer: Candidate, candidates: Sequence[Candidate]) -> Candidate:
    """The largest Transformer whose step takes no longer than the Performer's, or else the fastest.

    >>> small, large, slow = (Candidate(1, 8 * n, 1, (), n, n, n / 10) for n in (1, 2, 3))
    >>> choose(Candidate(3, 8, 1, (), 5, 5, 0.25), [small, large, slow]).width
    16
    """
    fast = [candidate for candidate in candidates if candidate.seconds <= performer.seconds]
    if fast:
        return max(fast, key=lambda candidate: (candidate.in_blocks, candidate.heads))
    return min(candidates, key=lambda candidate: candidate.seconds)


def at_edge(choice: Candidate, grid: Grid) -> str:
    """In what a choice is at the grid's upper edge, for a sentence; "" if in nothing.

    >>> at_edge(Candidate(3, 64, 4, (), 1, 1, 1.0), Grid())
    'layers and heads'
    """
    sizes = {"layers": (choice.layers, grid.layers), "width": (choice.width, grid.widths)}
    sizes["heads"] = (choice.heads, grid.heads)
    return " and ".join(name for name, (value, values) in sizes.items() if value == max(values))


def chosen(
    work: Path, grid: Grid, directions: Mapping[str, str], overrides: Sequence[str]
) -> dict[str, dict[str, Candidate]]:
    """Direction -> kind -> model; measured once for the same options, since a second measurement may choose another."""
    work.mkdir(parents=True, exist_ok=True)
    path = work / CHOICE
    stored = read_json(path) if path.exists() else {}
    result = {}
    for name, direction in directions.items():
        about = {"grid": asdict(grid), "overrides": list(overrides)}
        key = f"{name} {json.dumps(about)}"
        if key not in stored:
            print(f"\n{name}")
            performer, candidates = measure(grid, [direction, *overrides])
            pair = {"performer": performer, "transformer": choose(performer, candidates)}
            stored[key] = {kind: asdict(candidate) for kind, candidate in pair.items()}
            with atomic_output(path) as partial:
                partial.write_text(json.dumps(stored, indent=1) + "\n")
        result[name] = {
            kind: Candidate(**{**values, "options": tuple(values["options"])}) for kind, values in stored[key].items()
        }
    return result


def compare_concatenated(
    corpus: Path,
    work: Path,
    grid: Grid,
    directions: Mapping[str, str],
    seeds: Sequence[int],
    overrides: Sequence[str],
    jobs: int,
    redo: bool,
    ignored: Sequence[str],
    path: Path,
) -> int:
    """Measures, chooses, trains what is not done, and writes and prints the table of what is; the exit code."""
    if not corpus.exists():
        raise UserError(f"{corpus}: no such corpus; name one made by 'protlm prepare'")
    Corpus(corpus)  # refuses another file
    check_outputs(path, work / CHOICE)
    pairs = chosen(work, grid, directions, overrides)
    runs, models = [], {}
    for seed, (name, direction), kind in product(seeds, directions.items(), ("performer", "transformer")):
        model = pairs[name][kind]
        run = Run(f"{name}/{kind}/{seed}", corpus, (*BASE, direction, *overrides, *model.options, f"seed={seed}"))
        runs.append(run)
        models[run.name] = model
    plan = write_plan(runs, work, redo, ignored)
    code = run_all(runs, plan, work, jobs)
    rows: list[dict[str, Any]] = []
    for run in runs:
        if plan.is_done(run.name, work):
            rows += table_rows(run.name, models[run.name], plan.recipes[run.name], work / run.name)
    if rows:
        write_csv(rows, path)
        print(markdown(rows))
    for name, pair in pairs.items():
        if pair["transformer"].seconds > pair["performer"].seconds:
            print(f"{name}: no Transformer of the grid is as fast as the Performer; a smaller one may be")
        elif edge := at_edge(pair["transformer"], grid):
            print(f"{name}: the Transformer has the greatest {edge} of the grid; a larger grid may hold a better one")
    return code


def table_rows(name: str, model: Candidate, recipe: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """A row for each split of a run."""
    direction, kind, seed = name.split("/")
    results, effort = (read_json(folder / file) for file in ("results.json", EFFORT))
    about = {"direction": direction, "kind": kind, "seed": int(seed), "layers": model.layers, "width": model.width}
    about |= {
        "heads": model.heads,
        "parameters": model.parameters,
        "seconds_per_step": model.seconds,
        "steps": recipe["trainer.max_steps"],
    }
    about |= {"residues": whole(residues_seen(folder)), "seconds": effort["seconds"]}
    return [{**about, "split": split, **row} for split, row in results.items()]


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table, a line for each run and split."""
    head = ["direction", "model", "layers", "width", "heads", "parameters", "s a step", "steps", "seed", "split"]
    head += ["accuracy %", "unigram", "perplexity", "unigram"]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        sizes = [row["layers"], row["width"], row["heads"], f"{row['parameters']:,}", f"{row['seconds_per_step']:.2f}"]
        accuracies = [f"{100 * row[name]:.2f}" for name in ("accuracy", "unigram_accuracy")]
        perplexities = [f"{row[name]:.2f}" for name in ("perplexity", "unigram_perplexity")]
        figures = [accuracies[0], accuracies[1], *perplexities]
        lines.append([row["direction"], row["kind"], *sizes, row["steps"], row["seed"], row["split"], *figures])
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
