"""Kinds of attention compared with the same model, data, steps and seeds (a small version of the paper's Table 2).

    python -m benchmarks.quality train FASTA --clusters TABLE     # resumes if interrupted
    python -m benchmarks.quality train --corpora families         # without a FASTA file
    python -m benchmarks.quality report                           # also while training is under way
    python -m benchmarks.quality time
    python -m benchmarks.quality longer WORK WORK
    python -m benchmarks.quality concat

train: one run of `python -m protlm.train +experiment=quality` for each seed, corpus, direction and kind of attention,
on the corpora of benchmarks/quality/corpora.py. Kinds differ only in attention, its features and their redraws. The
runs of a seed precede those of the next, and exact Transformer, Performer-ReLU, Performer-softmax and no attention
(OPT) precede the other kinds, so that a table is available early.

report: table and learning curves of the finished runs. time: seconds of a training step by kind, at the recipe's length
and at a greater one. longer: runs of different lengths, and how long a gain takes. concat: blocks of 8,192 tokens, a
small Performer against the largest Transformer of equal speed.
"""

import argparse
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from benchmarks.measure import numbers, positive, program
from benchmarks.quality.concat import Grid, compare_concatenated
from benchmarks.quality.corpora import CORPORA, SAMPLE, Sources, make_corpus
from benchmarks.quality.longer import compare_lengths
from benchmarks.quality.recipe import Run, check_models, compared
from benchmarks.quality.report import report
from benchmarks.quality.runs import run_all
from benchmarks.quality.time import measure_steps
from benchmarks.tables import check_folder
from protlm.errors import UserError
from protlm.sequence.stream import check_readable

FIRST = ("exact", "relu", "softmax", "opt")
SOFTMAX = ("model.attention=hyperbolic", "model.norms=constant", "model.num_features=48")
"""The softmax kernel with features of w and -w, as many directions as a head is wide, see docs/algorithm.md."""
KINDS = {
    "exact": ("model.attention=exact",),
    "relu": ("model.attention=relu",),
    "softmax": (*SOFTMAX, "callbacks.redraw.every_n_steps=25", "callbacks.redraw.until=0.5"),
    "opt": ("model.attention=opt",),
    "softmax_fixed": (*SOFTMAX, "callbacks.redraw.every_n_steps=0"),
    "relu_local": ("model.attention=relu", "model.local_heads=3"),
    "softmax_local": (*SOFTMAX, "callbacks.redraw.every_n_steps=0", "model.local_heads=3"),
    "linformer": ("model.attention=linformer",),
    "reformer": ("model.attention=reformer",),
    "window": ("model.attention=window",),
}
"""Name -> options of `protlm.train`."""
DIRECTIONS = {"bidirectional": "model.causal=false", "causal": "model.causal=true"}
BIDIRECTIONAL = ("linformer",)
"""Kinds without a causal form."""
CORPUS_OPTIONS = {
    "families": ("data.sample_by=protein",),
    # kinds differ only after millions of tokens (docs/decisions.md), which 1,000 steps would not reach
    # testing on the whole split, 15 million residues, would take longer than training
    "swissprot": ("data.sample_by=cluster", "trainer.max_steps=400", "trainer.limit_test_batches=200"),
}


def combinations(
    seeds: Sequence[int], corpora: Sequence[str], directions: Sequence[str], kinds: Sequence[str]
) -> list[tuple[str, str, str, int]]:
    """(corpus, direction, kind, seed) of all runs; those of a first table come first.

    >>> [kind for _, _, kind, _ in combinations([1], ["families"], ["causal"], ["linformer", "window", "exact"])]
    ['exact', 'window']
    """
    ordered = []
    for seed, first in product(dict.fromkeys(seeds), (True, False)):
        group = [kind for kind in KINDS if kind in kinds and (kind in FIRST) == first]
        for corpus, direction, kind in product(dict.fromkeys(corpora), dict.fromkeys(directions), group):
            if direction == "bidirectional" or kind not in BIDIRECTIONAL:
                ordered.append((corpus, direction, kind, seed))
    return ordered


def planned(combination: tuple[str, str, str, int], path: Path, overrides: Sequence[str]) -> Run:
    """The run of a combination on its corpus, with additional options of `protlm.train`."""
    corpus, direction, kind, seed = combination
    options = ["+experiment=quality", *CORPUS_OPTIONS[corpus], DIRECTIONS[direction], *KINDS[kind], f"seed={seed}"]
    return Run(f"{corpus}/{direction}/{kind}/{seed}", path, (*options, *overrides))


def train(options: argparse.Namespace) -> int:
    """Prepares the corpora and trains; returns the exit code."""
    chosen = combinations(options.seeds, options.corpora, options.directions, options.kinds)
    if not chosen:
        raise UserError(f"--kinds {','.join(options.kinds)}: only defined for bidirectional models; nothing to train")
    check_folder(options.work)
    sources = {"families": SAMPLE}
    if "swissprot" in options.corpora:
        if not (options.fasta and options.clusters):
            raise UserError("corpus swissprot: give FASTA and --clusters TABLE, or --corpora families")
        sources["swissprot"] = Sources(options.fasta, options.clusters, options.ood, options.ood_share)
        for path in filter(None, (options.fasta, options.clusters, options.ood)):
            check_readable(path)
    overrides = [f"trainer.max_steps={options.steps}"] if options.steps else []
    overrides += options.overrides
    corpora = options.work / "corpora"
    runs = [planned(combination, corpora / f"{combination[0]}.h5", overrides) for combination in chosen]
    check_models(runs)
    for name in options.corpora:
        make_corpus(name, sources[name], corpora)
    comparison = compared(runs, options.work, options.redo, options.ignore)
    return run_all(runs, comparison, options.jobs)


def names_of(known: Sequence[str]) -> "type[list[str]]":
    """For argparse: known names, separated by commas."""

    def parse(text: str) -> list[str]:
        names = text.split(",")
        if odd := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"{', '.join(odd)}: expected some of {','.join(known)}")
        return names

    return parse  # type: ignore[return-value]


def share(text: str) -> float:
    """For argparse: a number from 0 to 1."""
    if not 0 <= float(text) <= 1:
        raise ValueError
    return float(text)


def seeds(text: str) -> list[int]:
    """For argparse: seeds that torch accepts, separated by commas."""
    found = numbers(text)
    if max(found) >= 2**32:
        raise argparse.ArgumentTypeError(f"{text}: expected numbers below 2^32")
    return found


def add_runs(part: argparse.ArgumentParser, usual: str, directions: str) -> None:
    """Options of the sub-commands that train."""
    part.add_argument("--jobs", type=positive, default=1, help="number of runs at a time, which share the threads")
    part.add_argument("--seeds", type=seeds, default=numbers(usual), help="separated by commas")
    part.add_argument("--directions", type=names_of([*DIRECTIONS]), default=directions.split(","))
    part.add_argument("--steps", type=positive, help="steps of each run; default: those of the recipe")
    part.add_argument("--overrides", nargs="+", default=[], help="additional options of protlm.train, for all runs")
    part.add_argument("--redo", action="store_true", help="set aside and repeat runs made with other options")
    part.add_argument(
        "--ignore", nargs="+", default=[], metavar="OPTION", help="options that may differ from earlier runs"
    )


def parsed() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__.splitlines()[0])
    parts = parser.add_subparsers(dest="part", required=True)

    part = parts.add_parser("train", help="all runs of the comparison")
    part.add_argument("fasta", type=Path, nargs="?", help="Swiss-Prot or other proteins, for the corpus swissprot")
    part.add_argument("--clusters", type=Path, help="table of its clusters")
    part.add_argument("--corpora", type=names_of(CORPORA), default=list(CORPORA))
    part.add_argument("--kinds", type=names_of([*KINDS]), default=list(KINDS))
    part.add_argument("--ood", type=Path, help="file with ids of proteins or clusters of Swiss-Prot to hold out")
    part.add_argument(
        "--ood-share", type=share, default=Sources.ood_share, help="fraction of the clusters to hold out without --ood"
    )
    add_runs(part, "1,2", "bidirectional,causal")

    part = parts.add_parser("report", help="table, CSV files and figure of the finished runs")
    part.add_argument("--results", type=Path, default=Path("docs/results"), help="folder for the CSV files")
    part.add_argument("--figure", type=Path, default=Path("docs/figures/quality.png"))

    part = parts.add_parser(
        "longer", help="runs of different lengths, and how long a gain over the unigram baseline takes"
    )
    part.add_argument("works", type=Path, nargs="+", help="work folders, each with runs of another number of --steps")
    part.add_argument("--split", default="test")
    part.add_argument("--points", type=float, default=4.0, help="accuracy above the unigram baseline to extrapolate to")
    part.add_argument("--results", type=Path, default=Path("docs/results/longer"), help="folder for the CSV files")

    part = parts.add_parser("time", help="seconds of a training step of each kind")
    part.add_argument("--lengths", type=numbers, help="default: the recipe's and 1,024")
    part.add_argument("--repeats", type=positive, default=7, help="timed steps, after one warm-up step")
    part.add_argument("--kinds", type=names_of([*KINDS]), default=list(KINDS))
    part.add_argument("--directions", type=names_of([*DIRECTIONS]), default=list(DIRECTIONS))
    part.add_argument("--overrides", nargs="+", default=[], help="additional options of protlm.train")
    part.add_argument("--csv", type=Path, default=Path("docs/results/quality_time.csv"))

    part = parts.add_parser("concat", help="blocks of 8,192 tokens: a Performer against a Transformer of equal speed")
    part.add_argument("corpus", type=Path, nargs="?", help="default: the corpus swissprot in the work folder")
    for name, values in (("layers", Grid.layers), ("widths", Grid.widths), ("heads", Grid.heads)):
        part.add_argument(f"--{name}", type=numbers, default=list(values), help=f"{name} of the Transformers to try")
    part.add_argument("--repeats", type=positive, default=3, help="timed steps, after one warm-up step")
    part.add_argument("--csv", type=Path, default=Path("docs/results/quality_concat.csv"))
    part.add_argument("--local-heads", type=positive, default=0, help="of another Performer to train")
    add_runs(part, "1", "bidirectional")

    for part in [part for name, part in parts.choices.items() if name != "longer"]:
        part.add_argument("--work", type=Path, default=Path("runs/quality"), help="folder of the runs")
    return parser.parse_args()


def main() -> int:
    """The command; returns the exit code."""
    options = parsed()
    if options.part == "train":
        return train(options)
    if options.part == "report":
        report(options.work, options.results, options.figure)
        return 0
    if options.part == "longer":
        compare_lengths(options.works, options.split, options.points, options.results)
        return 0
    if options.part == "time":
        pairs = [
            (direction, kind)
            for direction, kind in product(dict.fromkeys(options.directions), dict.fromkeys(options.kinds))
            if direction == "bidirectional" or kind not in BIDIRECTIONAL
        ]
        if not pairs:
            raise UserError(f"--kinds {','.join(options.kinds)}: only defined for bidirectional models")
        measure_steps(pairs, KINDS, DIRECTIONS, options.lengths, options.repeats, options.overrides, options.csv)
        return 0
    corpus = options.corpus or options.work / "corpora" / "swissprot.h5"
    overrides = [f"trainer.max_steps={options.steps}"] if options.steps else []
    directions = {name: DIRECTIONS[name] for name in options.directions}
    grid = Grid(tuple(options.layers), tuple(options.widths), tuple(options.heads), options.repeats)
    overrides += options.overrides
    again = (options.jobs, options.redo, options.ignore)
    work, heads = options.work / "concat", options.local_heads
    return compare_concatenated(corpus, work, grid, directions, options.seeds, overrides, *again, options.csv, heads)


if __name__ == "__main__":
    program(main)
