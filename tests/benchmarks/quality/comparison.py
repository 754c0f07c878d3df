"""A small comparison of kinds of attention: its command, and training in this process."""

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.quality import __main__ as quality
from benchmarks.quality import corpora
from benchmarks.quality.recipe import Comparison, Run
from benchmarks.quality.table import Finished
from protlm import train
from tests.conftest import DATA
from tests.tiny import TINY

ALL = corpora.Sources(DATA / "families.fasta.gz", DATA / "families.clusters.tsv", ood_share=0.1)
FEW = ["trainer.limit_val_batches=1", "trainer.limit_test_batches=1", "trainer.log_every_n_steps=1"]
SMALL = [
    *(option for option in TINY if "progress" not in option),
    *FEW,
    "trainer.val_check_interval=3",
    "callbacks.checkpoint.every_n_train_steps=2",
]
EXACT, RELU = ("families/bidirectional/exact/1", "families/bidirectional/relu/1")


def command(work: Path, *, kinds: str = "exact,relu", steps: int = 6, more: Sequence[str] = ()) -> list[str]:
    """Arguments of `python -m benchmarks.quality` for runs of a moment."""
    which = ["--corpora", "families", "--directions", "bidirectional", "--seeds", "1", "--kinds", kinds]
    return ["train", "--work", str(work), *which, "--steps", str(steps), *more, "--overrides", *SMALL]


def call(arguments: Sequence[object]) -> int:
    """`python -m benchmarks.quality`, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["quality", *map(str, arguments)])
        return quality.main()


def train_here(runs: Sequence[Run], comparison: Comparison, jobs: int = 1) -> int:
    """`run_all` in this process."""
    for run in runs:
        if not comparison.is_done(run.name):
            resume = [] if comparison.changes(run.name) else ["ckpt_path=auto"]
            with pytest.MonkeyPatch.context() as patch:
                folder = (comparison.work / run.name).resolve()
                patch.setattr(sys, "argv", ["train", *run.arguments(folder), *resume])
                train.main()
    return 0


def lines(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def finished(kind: str, seed: int, accuracy: float, curve: Sequence[float]) -> Finished:
    """A causal run on the families corpus."""
    row = {"accuracy": accuracy, "perplexity": 10.0, "unigram_accuracy": 0.09, "unigram_perplexity": 18.0}
    points = [{**row, "step": 10.0 * i, "accuracy": value} for i, value in enumerate(curve, start=1)]
    about = {"steps": 30, "residues": 1e6, "seconds": 60.0, "parameters": 1000, "features": 8}
    about |= {"shared": "s", "step": "r"}
    return Finished("families", "causal", kind, seed, **about, results={"test": row}, curve=points)
