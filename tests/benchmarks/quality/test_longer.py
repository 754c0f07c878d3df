"""Runs of different lengths: what they show, and what is extrapolated from them."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.quality import longer
from tests.benchmarks.quality.comparison import call, finished, lines


def run(steps: int, accuracy: float):
    row = {"accuracy": accuracy, "perplexity": 17.0, "unigram_accuracy": 0.10, "unigram_perplexity": 18.0}
    made = finished("relu", 1, accuracy, [accuracy])
    return replace(made, steps=steps, residues=1_000.0 * steps, seconds=3.6 * steps, results={"test": row})


def test_the_line_through_the_two_longest():
    """From 1 to 2 points at ten times the residues: 4 points take a hundred times the longest."""
    text = longer.tables([run(10, 0.109), run(100, 0.11), run(1_000, 0.12)], "test", 4.0)
    (line,) = (line for line in text.splitlines() if "100, 1,000" in line)
    assert [cell.strip() for cell in line.split("|")[-4:-1]] == ["100 M", "100", "100.0"]


def test_a_gain_that_does_not_grow_is_not_extrapolated():
    assert math.isinf(longer.residues_for(4.0, (1e6, 2.0), (1e7, 1.0)))
    assert "inf" not in longer.tables([run(10, 0.12), run(100, 0.11)], "test", 4.0)


def test_one_length_only_is_shown(work: Path, tmp_path: Path, capsys):
    assert call(["longer", work, "--results", tmp_path / "r"]) == 0
    out = capsys.readouterr().out
    assert "extrapol" not in out
    rows = lines(tmp_path / "r" / "quality.csv")
    results = json.loads((work / "families" / "bidirectional" / "relu" / "1" / "results.json").read_text())
    (relu,) = (row for row in rows if (row["kind"], row["split"]) == ("relu", "test"))
    assert float(relu["accuracy"]) == pytest.approx(results["test"]["accuracy"], rel=1e-4)
    share = 100 * (results["test"]["accuracy"] - results["test"]["unigram_accuracy"])
    assert f"| {share:+.2f} |" in out


def test_unknown_splits_and_empty_folders_are_refused(work: Path, tmp_path: Path):
    with pytest.raises(longer.UserError, match="has no results of the split 'valid'"):
        longer.compare_lengths([work], "valid", 4.0, tmp_path)
    with pytest.raises(longer.UserError, match="no run has finished; start with 'train'"):
        longer.compare_lengths([tmp_path / "none"], "test", 4.0, tmp_path)
