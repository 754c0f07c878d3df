"""Blocks of 8,192 tokens of concatenated proteins: a small Performer against the largest Transformer of equal speed.

Both use conf/experiment/trembl_concat_small.yaml, except for the Transformer's layers, width and heads; its
feed-forward is four times as wide, as the Performer's is. A step of each Transformer of the grid is timed alternately
with one of the Performer. Of those that take no longer, the one with most parameters in its blocks is trained for as
many steps. If none is as fast, the fastest one is; the table has the seconds of both. A Performer of which some heads
are local may be trained, too.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.quality.recipe import EFFORT, Run, compared, composed
from benchmarks.quality.runs import residues_seen, run_all
from benchmarks.quality.time import mean_seconds, size, training_step
from benchmarks.tables import check_outputs, markdown, read_json, replace_json, whole, write_csv
from protlm.corpus.reader import Corpus
from protlm.errors import UserError

CHOICE = "choice.json"
BASE = ["+experiment=trembl_concat_small", "trainer.max_time=null", "callbacks.checkpoint.every_n_train_steps=100"]
PERFORMER = ["model.attention=relu"]
LOCAL = "performer_local"


@dataclass(frozen=True)
class Grid:
    """The Transformers to try.

    Args:
        layers, widths, heads: all combinations are tried.
        repeats: number of steps whose median is taken, after one warm-up step.
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
        parameters, in_blocks: all parameters, and those that do not belong to tokens or positions.
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
    """The Performer and the timed Transformers of the grid, in order of width, heads and layers.

    More layers are not tried once a Transformer of that width and number of heads is too slow.

    Args:
        grid: the Transformers to try.
        options: options of `protlm.train` that all share.
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
            ratio = pair["transformer"] / pair["performer"]  # measured at the same moment
            parameters = (size(other.model), size(other.model.blocks))
            found.append(Candidate(layers, width, heads, tuple(sizes), *parameters, ratio))
            if ratio > 1:
                break
    if not found:
        raise UserError("none of the widths is divisible by twice any of the numbers of heads")
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
    """The sizes in which a choice is at the grid's upper edge, as text; "" if none.

    >>> at_edge(Candidate(3, 64, 4, (), 1, 1, 1.0), Grid())
    'layers and heads'
    """
    sizes = {"layers": (choice.layers, grid.layers), "width": (choice.width, grid.widths)}
    sizes["heads"] = (choice.heads, grid.heads)
    return " and ".join(name for name, (value, values) in sizes.items() if value == max(values))


def with_local_heads(performer: Candidate, heads: int, repeats: int, options: Sequence[str]) -> Candidate:
    """The Performer with some local heads, timed alternately with the one without."""
    own = [*PERFORMER, f"model.local_heads={heads}"]
    configs = [composed([*BASE, "data.corpus=none", *options, *kind]) for kind in (PERFORMER, own)]
    usual, other = (training_step(config, config.data.max_length) for config in configs)
    pair = mean_seconds({"performer": usual, LOCAL: other}, repeats)
    seconds = performer.seconds * pair[LOCAL] / pair["performer"]
    parameters, in_blocks = size(other.model), size(other.model.blocks)
    return replace(performer, options=tuple(own), parameters=parameters, in_blocks=in_blocks, seconds=seconds)


def chosen(
    work: Path, grid: Grid, directions: Mapping[str, str], overrides: Sequence[str], local_heads: int = 0
) -> dict[str, dict[str, Candidate]]:
    """Direction -> kind -> model; measured once per set of options, since repeating could choose another model."""
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
            replace_json(stored, path)
        result[name] = {kind: _candidate(values) for kind, values in stored[key].items()}
        if local_heads:
            key += f" {local_heads} local heads"
            if key not in stored:
                local = with_local_heads(result[name]["performer"], local_heads, grid.repeats, [direction, *overrides])
                stored[key] = asdict(local)
                replace_json(stored, path)
            result[name][LOCAL] = _candidate(stored[key])
    return result


def _candidate(values: Mapping[str, Any]) -> Candidate:
    return Candidate(**{**values, "options": tuple(values["options"])})


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
    local_heads: int = 0,
) -> int:
    """Measures, chooses, trains the runs that are not done, writes and prints the table; returns the exit code."""
    if not corpus.exists():
        raise UserError(f"{corpus}: no such corpus; give one made by 'protlm prepare'")
    Corpus(corpus)  # raises for any other file
    check_outputs(path, work / CHOICE)
    pairs = chosen(work, grid, directions, overrides, local_heads)
    runs, models = [], {}
    kinds = ("performer", "transformer", *([LOCAL] if local_heads else []))
    for seed, (name, direction), kind in product(seeds, directions.items(), kinds):
        model = pairs[name][kind]
        run = Run(f"{name}/{kind}/{seed}", corpus, (*BASE, direction, *overrides, *model.options, f"seed={seed}"))
        runs.append(run)
        models[run.name] = model
    comparison = compared(runs, work, redo, ignored)
    code = run_all(runs, comparison, jobs)
    rows: list[dict[str, Any]] = []
    for run in runs:
        if comparison.is_done(run.name):
            rows += table_rows(run.name, models[run.name], comparison.recipes[run.name], work / run.name)
    if rows:
        write_csv(rows, path)
        print(table(rows))
    for name, pair in pairs.items():
        if pair["transformer"].seconds > pair["performer"].seconds:
            print(f"{name}: no Transformer of the grid is as fast as the Performer; a smaller one may be")
        elif edge := at_edge(pair["transformer"], grid):
            print(f"{name}: the Transformer has the greatest {edge} of the grid; a larger grid may hold a better one")
    return code


def table_rows(name: str, model: Candidate, recipe: Mapping[str, Any], folder: Path) -> list[dict[str, Any]]:
    """A row for each split of a run."""
    direction, kind, seed = name.split("/")
    results, effort = (read_json(folder / file) for file in ("results.json", EFFORT))
    about = {"direction": direction, "kind": kind, "seed": int(seed)}
    about |= {name: getattr(model, name) for name in ("layers", "width", "heads", "parameters")}
    about |= {"seconds_per_step": model.seconds, "steps": recipe["trainer.max_steps"]}
    about |= {"residues": whole(residues_seen(folder)), "seconds": effort["seconds"]}
    return [{**about, "split": split, **row} for split, row in results.items()]


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The Markdown table, a line for each run and split."""
    head = ["direction", "model", "layers", "width", "heads", "parameters", "s per step", "steps", "seed", "split"]
    head += ["accuracy %", "unigram", "perplexity", "unigram"]
    lines = []
    for row in rows:
        line = [row[name] for name in ("direction", "kind", "layers", "width", "heads")]
        line += [f"{row['parameters']:,}", f"{row['seconds_per_step']:.2f}", row["steps"], row["seed"], row["split"]]
        line += [f"{100 * row[name]:.2f}" for name in ("accuracy", "unigram_accuracy")]
        lines.append([*line, *(f"{row[name]:.2f}" for name in ("perplexity", "unigram_perplexity"))])
    return markdown(head, lines)
