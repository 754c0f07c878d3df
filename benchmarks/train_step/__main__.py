"""Training steps: the training program against a bare loop, whole models against length, memory of the paper's model.

    python -m benchmarks.train_step throughput data/swissprot.h5
    python -m benchmarks.train_step length
    python -m benchmarks.train_step memory
    python -m benchmarks.train_step figure

throughput: `python -m protlm.train` with the callbacks, loggers, progress bar and workers of an experiment, but without
validation, pauses regularly for a bare loop (forward, loss, backward, clipping, step, zero_grad) of a copy of the model
on the batches it has just trained on, kept in memory. Both share process, threads and batches, so that a noisy moment
affects both. Tokens are counted without padding.

length: one step (forward, backward, AdamW) of a model with the sizes of conf/model/trembl.yaml but few layers, with the
same number of tokens at each length, the kinds of attention taking turns. Draws of directions count only where they are
needed before each step, as for Reformer; those of the softmax kernel, every 1,000 steps, are left out, here and in
memory.

memory: the peak of one step of the paper's model at batch size 1, in addition to the imported program; it includes
weights, gradients and the state of AdamW as well as activations. A case beyond --limit is "out of memory".

figure: inference, training and memory of all kinds of attention against length, and the largest length that fits into
a given memory; see figure.py.
"""

import argparse
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.measure import kibibytes, medians, positive, program
from benchmarks.models import DIRECTIONS, Sizes, bare_step, random_batch
from benchmarks.quality.recipe import composed
from benchmarks.tables import check_outputs, write_csv
from benchmarks.train_step import figure
from benchmarks.train_step.memory import GIB, RESERVE, measure_memory
from benchmarks.train_step.throughput import EXPERIMENTS, measure_throughput
from protlm.corpus.reader import Corpus
from protlm.training.optimizer import adamw

LENGTHS = [512, 1024, 2048, 4096, 8192]
MEMORY_LENGTHS = [1024, 4096, 8192, 16384]
ATTENTION = ["relu", "softmax", "exact", "opt"]


def measure_length(
    lengths: Iterable[int], sizes: Sizes, tokens: int, repeats: int, directions: Iterable[str], kinds: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """A row for each direction, length and kind of attention, printed as it is measured."""
    shape = f"{sizes.layers} layers of width {sizes.width}, feed-forward {sizes.feed_forward}"
    for direction in directions:
        print(f"\n{direction}, {shape}, {tokens:,} tokens per step: milliseconds (tokens/s, ratio to OPT, to exact)")
        print(" " * 7 + "".join(f"{kind:>30}" for kind in kinds), flush=True)
        for length in lengths:
            batch = random_batch(max(1, tokens // length), length)
            runs = {}
            for kind in kinds:
                model = sizes.build(kind, DIRECTIONS[direction], length)
                runs[kind] = partial(bare_step(model, adamw(model)), batch)
            times = medians(runs, repeats)
            rows = []
            for kind in kinds:
                row = {"direction": direction, "length": length, "attention": kind, "batch": len(batch.inputs)}
                row |= {"seconds": times[kind], "tokens_per_second": batch.inputs.numel() / times[kind]}
                row |= {f"to_{other}": times[kind] / times.get(other, math.nan) for other in ("opt", "exact")}
                rows.append(row)
            cells = (
                f"{r['seconds'] * 1e3:.0f} ({r['tokens_per_second']:,.0f}, {r['to_opt']:.2f}, {r['to_exact']:.2f})"
                for r in rows
            )
            print(f"{length:>7}" + "".join(f"{cell:>30}" for cell in cells), flush=True)
            yield from rows


def add_sizes(parser: argparse.ArgumentParser, layers: int) -> None:
    parser.add_argument("--layers", type=positive, default=layers)
    for name in ("width", "heads", "feed_forward", "features"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=positive, default=getattr(Sizes, name))
    parser.add_argument("--directions", nargs="+", choices=DIRECTIONS)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_step", description=__doc__.splitlines()[0])
    parts = parser.add_subparsers(dest="part", required=True)

    part = parts.add_parser("throughput", help="`python -m protlm.train` against a bare loop")
    part.add_argument("corpus", type=Path, help="made by `protlm prepare`")
    part.add_argument("--experiments", nargs="+", default=EXPERIMENTS, metavar="NAME", help="of conf/experiment")
    part.add_argument("--steps", type=positive, default=50, help="steps per turn, of the program and of the bare loop")
    part.add_argument("--repeats", type=positive, default=9, help="number of turns")
    part.add_argument("--warmup", type=positive, default=20, help="steps before the first turn")
    part.add_argument("--overrides", nargs="+", default=[], help="additional options of protlm.train")

    part = parts.add_parser("length", help="one step of a whole model against length")
    part.add_argument("--lengths", type=positive, nargs="+", default=LENGTHS)
    part.add_argument("--tokens", type=positive, default=8192, help="tokens per step, at any length")
    part.add_argument("--repeats", type=positive, default=3, help="timed steps, after one warm-up step")
    part.add_argument("--attention", nargs="+", default=ATTENTION, metavar="KIND")
    add_sizes(part, layers=2)
    part.set_defaults(directions=list(DIRECTIONS))

    part = parts.add_parser("memory", help="one step of the paper's model, with and without activation checkpointing")
    part.add_argument("--lengths", type=positive, nargs="+", default=MEMORY_LENGTHS)
    part.add_argument("--attention", nargs="+", default=["relu"], metavar="KIND", help="relu, softmax, exact, ...")
    part.add_argument("--limit", type=float, metavar="GIB", help="memory of a case; default: free memory minus 2")
    add_sizes(part, layers=Sizes.layers)
    part.set_defaults(directions=["bidirectional"])

    part = parts.add_parser("figure", help="speed, memory and largest length of all kinds of attention")
    figure.add_options(part)
    add_sizes(part, layers=3)
    part.set_defaults(directions=list(DIRECTIONS), feed_forward=2048)

    for part in parts.choices.values():
        part.add_argument("--csv", type=Path, help="default: docs/results/train_PART.csv")
    options = parser.parse_args()
    path = options.csv or Path("docs/results") / f"train_{options.part}.csv"
    if options.part == "figure":
        figure.measure(options, path)
        return
    check_outputs(path)
    if options.part == "throughput":
        Corpus(options.corpus)  # raises for any other file
        for experiment in options.experiments:
            composed([f"+experiment={experiment}", *options.overrides])
        write_csv(
            measure_throughput(
                options.experiments, options.corpus, options.steps, options.repeats, options.warmup, options.overrides
            ),
            path,
        )
        return
    sizes = Sizes(options.layers, options.width, options.heads, options.feed_forward, options.features)
    for kind, direction in product(options.attention, options.directions):
        replace(sizes, layers=1).build(kind, DIRECTIONS[direction], 1)  # raises for an invalid model
    if options.part == "length":
        write_csv(
            measure_length(
                options.lengths, sizes, options.tokens, options.repeats, options.directions, options.attention
            ),
            path,
        )
    else:
        free = kibibytes("/proc/meminfo", "MemAvailable") * 1024 - RESERVE
        limit = int(options.limit * GIB) if options.limit else free
        write_csv(measure_memory(options.lengths, sizes, options.attention, options.directions, limit), path)


if __name__ == "__main__":
    program(main)
