"""Speed and memory of whole models against length, as in Figure 3 of Choromanski et al. 2021.

    python -m benchmarks.train_step figure                              # an hour to an hour and a half
    python -m benchmarks.train_step figure --layers 6 --memory 1 2 4 8  # the paper's depth; two to three times as long

The model has the sizes of the paper's figure (8 heads, d=512, feed-forward 2,048; float32) but 3 layers instead of 6:
time grows with depth, and so does memory except for that of the weights. A step has one sequence without padding.

For each direction and length, the peak memory of a training step of each kind is measured first, as by `memory`: in a
separate process, in addition to the imported program, so it includes weights, gradients and the state of AdamW. A step
that needs more than 1.25 times the largest --memory fails ("out of memory"), so that the machine keeps running; a step
that would exceed --limit, by the growth so far, is not run ("too long"). Then the kinds take turns in one process:
inference without gradients, forward pass and loss of training, backward pass. The table has the medians of --repeats
turns after a warm-up turn, or of as many as --budget allows.

"matrix" is exact attention that stores its L x L matrix, as the Transformer of the paper does; "exact" is PyTorch's
fused attention, which stores blocks of it. "reformer" has Reformer's attention but not its reversible layers, which
would save memory with any kind of attention; its draw of directions before each step is part of the forward pass.

largest_length.csv: see `largest_length`. Both tables are rewritten after each length, and the same command resumes an
interrupted run. The table of another model is refused.
"""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import amount, kibibytes, positive
from benchmarks.models import DIRECTIONS, Sizes, random_batch
from benchmarks.tables import check_outputs, read_rows, replace_csv
from benchmarks.train_step.largest_length import largest_length
from benchmarks.train_step.memory import GIB, RESERVE
from benchmarks.train_step.report import draw, tables
from benchmarks.train_step.steps import MATRIX, MIB, PASSES, Steps, kind_of, take_turns, time_passes
from protlm.errors import UserError
from protlm.performer.kinds import ATTENTION

KINDS = {
    "bidirectional": ["exact", MATRIX, "relu", "softmax", "linformer", "reformer", "window", "opt"],
    "causal": ["exact", MATRIX, "relu", "softmax", "reformer", "window", "opt"],
}
LENGTHS = [2**n for n in range(8, 16)]
MARGIN = 1.25  # a step may use this multiple of the largest --memory
COLUMNS = ["direction", "length", "attention", "outcome", *(f"{part}_seconds" for part in PASSES), "turns", "peak_mib"]
Row = dict[str, Any]


def measure_length(length: int, steps: Mapping[str, Steps], sizes: Sizes, repeats: int, budget: float) -> list[Row]:
    """A row for each kind of attention of one direction, peaks first, then times."""
    rows, models = {}, {}
    for name, kind in steps.items():
        rows[name] = row = {"direction": kind.direction, "length": length, "attention": name}
        if any(peak is None for shorter, peak in kind.peaks.items() if shorter < length):
            row["outcome"] = "out of memory"
        elif not kind.affordable(length):
            row["outcome"] = "too long"
        else:
            peak = kind.run(length)
            row |= {"outcome": "measured" if peak else "out of memory", "peak_mib": f"{peak / MIB:.1f}" if peak else ""}
            if peak:
                models[name] = sizes.build(kind_of(name), DIRECTIONS[kind.direction], length)
    batch = random_batch(1, length)
    times = take_turns({name: partial(time_passes, model, batch) for name, model in models.items()}, repeats, budget)
    for name, found in times.items():
        rows[name] |= {part: f"{value:.6g}" for part, value in found.items()}
    return list(rows.values())


def measure(options: argparse.Namespace, path: Path) -> None:
    """Measures what the two tables lack, then draws the figure and prints the Markdown tables.

    Raises:
        UserError: if the options contradict each other, the machine or an existing table.
    """
    sizes = Sizes(options.layers, options.width, options.heads, options.feed_forward, options.features)
    allowed = int(MARGIN * max(options.memory) * GIB)
    setting = {**asdict(sizes), "threads": torch.get_num_threads()}
    setting |= {"allowed_gib": f"{allowed / GIB:g}", "limit_seconds": f"{options.limit:g}"}
    kinds = {name: found for name in options.directions if (found := kinds_of(name, options.attention))}
    if not kinds:
        raise UserError(f"--attention: {', '.join(options.attention)} is only defined for bidirectional models")
    check(sizes, kinds, allowed)
    check_outputs(path, options.largest, picture=options.figure)
    rows, largest = (earlier_rows(table, setting) for table in (path, options.largest))
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, float32, {sizes.layers} layers, {sizes.heads} "
        f"heads, d={sizes.width}, feed-forward {sizes.feed_forward:,}, M={sizes.features}, batch 1",
        flush=True,
    )
    for direction, names in kinds.items():
        steps = {name: Steps(kind_of(name), direction, sizes, allowed, options.limit) for name in names}
        for length in sorted(set(options.lengths)):
            here = [row for row in rows if (row["direction"], int(row["length"])) == (direction, length)]
            if not {row["attention"] for row in here} >= set(names):
                rows = [row for row in rows if row not in here or row["attention"] not in steps]
                new = measure_length(length, steps, sizes, options.repeats, options.budget)
                here = [{name: str(row.get(name, "")) for name in COLUMNS} | text(setting) for row in new]
                rows = sorted([*rows, *here], key=lambda row: (row["direction"], int(row["length"])))
                replace_csv(rows, path)
            for row in here:
                if row["attention"] in steps:
                    steps[row["attention"]].learn(row)
                    print(line(row), flush=True)
        for name, gib in [(name, gib) for name in names for gib in sorted(set(options.memory))]:
            key = {"direction": direction, "attention": name, "memory_gib": f"{gib:g}"}
            if not any(key.items() <= row.items() for row in largest):
                length, how = largest_length(steps[name].peaks, int(gib * GIB), steps[name].run, steps[name].affordable)
                peak = (steps[name].peaks.get(length) if how in ("measured", "at least") else None) or 0
                found = {"length": length, "how": how, "peak_mib": f"{peak / MIB:.1f}" if peak else ""}
                largest.append(text({**key, **found, **setting}))
                replace_csv(largest, options.largest)
                print(f"{direction}, {name}: {gib:g} GiB fit a step of {length:,} tokens ({how})", flush=True)
    print(f"\n{tables(rows, largest)}")
    draw(rows, largest, options.figure)
    print(f"\nfigure: {options.figure}\ntables: {path}, {options.largest}")


def text(row: Row) -> dict[str, str]:
    """A row as text, as read from its table."""
    return {name: str(value) for name, value in row.items()}


def line(row: Row) -> str:
    """The measurements of one kind and length, for the terminal."""
    name = f"{row['direction']}, {row['attention']}, {int(row['length']):,}: "
    if not row["forward_seconds"]:
        return name + row["outcome"]
    times = " + ".join(f"{1000 * float(row[f'{part}_seconds']):,.0f}" for part in PASSES[1:])
    forward = f"{1000 * float(row['forward_seconds']):,.0f}"
    return f"{name}inference {forward} ms, training step {times} ms, {float(row['peak_mib']):,.0f} MiB"


def kinds_of(direction: str, requested: Sequence[str] | None) -> list[str]:
    """The kinds of attention of a direction: all of KINDS, or those requested that are defined for it."""
    if requested is None:
        return KINDS[direction]
    defined = [name for name in requested if getattr(ATTENTION.get(name), "unidirectional", True)]
    return list(dict.fromkeys(defined if DIRECTIONS[direction] else requested))


def check(sizes: Sizes, kinds: Mapping[str, Iterable[str]], allowed: int) -> None:
    """Checks that the models exist and the memory suffices.

    Raises:
        UserError: if not.
    """
    for direction, names in kinds.items():
        for name in names:
            sizes.build(kind_of(name), DIRECTIONS[direction], 1)
    free = kibibytes("/proc/meminfo", "MemAvailable") * 1024 - RESERVE
    if allowed > free:
        raise UserError(
            f"--memory: a step may use {allowed / GIB:.2f} GiB, {MARGIN:g} times the largest value, but only "
            f"{max(0, free) / GIB:.2f} GiB are free besides the {RESERVE / GIB:g} GiB left to other programs; reduce it"
        )


def earlier_rows(path: Path, setting: Row) -> list[Row]:
    """Rows of an earlier run, as text; none without the file.

    Raises:
        UserError: if they are of another model, number of threads or limit.
    """
    rows = read_rows(path)
    for row in rows:
        if odd := [name for name, value in setting.items() if row.get(name) != str(value)]:
            theirs, ours = (", ".join(f"{name} {of.get(name)}" for name in odd) for of in (row, setting))
            raise UserError(f"{path}: measured with {theirs}, this run has {ours}; choose another file or remove it")
    return rows


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds all options except the sizes of the model and --csv."""
    kinds = [*ATTENTION, MATRIX]
    parser.add_argument("--lengths", type=positive, nargs="+", default=LENGTHS)
    parser.add_argument(
        "--attention", nargs="+", choices=kinds, metavar="KIND", help="for each direction in which it is defined"
    )
    parser.add_argument("--repeats", type=positive, default=5, help="timed turns, after one warm-up turn")
    parser.add_argument("--budget", type=amount, default=15.0, help="seconds for all turns of a kind at one length")
    parser.add_argument("--limit", type=amount, default=60.0, help="seconds that one step may take")
    parser.add_argument(
        "--memory",
        type=amount,
        nargs="+",
        default=[1.0, 2.0, 4.0],
        metavar="GIB",
        help="find the largest length for each",
    )
    parser.add_argument(
        "--largest", type=Path, default=Path("docs/results/largest_length.csv"), help="table of the largest lengths"
    )
    parser.add_argument("--figure", type=Path, default=Path("docs/figures/train_length.png"))
