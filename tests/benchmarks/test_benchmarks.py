"""Benchmarks of attention, errors and ingestion run on tiny inputs; the figures themselves are not tested."""

import csv
import sys
from itertools import islice
from pathlib import Path

import pytest
import torch

from benchmarks import attention, error, ingest
from benchmarks.measure import PASSES, medians, peak_bytes
from benchmarks.tables import write_csv


def test_attention_is_timed_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    times = list(attention.measure_times([32], repeats=1, limit=60))
    assert len(times) == 2 * len(PASSES) * len(attention.DTYPES)
    assert all(set(row["seconds"]) == set(attention.METHODS) for row in times)
    blocks = list(attention.measure_block([32], repeats=1))
    assert {"opt", "softmax", "relu"} <= set(blocks[0]["seconds"])
    memories = [{"causal": False, "pass": "forward", "length": 32, "bytes": {"SDPA": 2**20}}]
    attention.summary(times)
    attention.write_csv(times, memories, tmp_path / "times.csv")
    attention.draw(times, memories, tmp_path / "times.png")
    with open(tmp_path / "times.csv") as file:
        assert len(list(csv.DictReader(file))) == len(times) * len(attention.METHODS)
    assert (tmp_path / "times.png").read_bytes().startswith(b"\x89PNG")
    assert "bidirectional, forward+backward, bfloat16" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--block"]])
def test_the_command_writes_its_table_and_figure(options: list[str], tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(attention, "METHODS", attention.METHODS[:1])
    monkeypatch.setattr(attention, "MEMORY_LENGTHS", [32])
    monkeypatch.setattr(attention, "PASSES", {"forward": PASSES["forward"]})
    files = ["--figure", tmp_path / "a.png", "--csv", tmp_path / "a.csv"]
    monkeypatch.setattr("sys.argv", ["attention", "--lengths", "32", "--repeats", "1", *map(str, files), *options])
    attention.main()
    assert (tmp_path / "a.png").exists() == (tmp_path / "a.csv").exists() == (not options)
    assert ("peak MiB" in capsys.readouterr().out) == (not options)


def test_calls_beyond_the_limit_are_left_out(capsys: pytest.CaptureFixture) -> None:
    first, second = islice(attention.measure_times([32, 64], repeats=1, limit=0.0), 2)
    assert set(first["seconds"]) == set(attention.METHODS)  # the shortest length is always run
    assert not second["seconds"]
    assert capsys.readouterr().out.splitlines()[-1].split() == ["64", *"-----"]


def test_peak_memory_counts_simultaneous_allocations() -> None:
    size = 2**26

    def run() -> None:
        a = torch.ones(size // 4)
        del a
        b = torch.ones(size // 4)
        del b

    assert 0.9 * size < peak_bytes(run) < 1.3 * size


def test_functions_take_turns() -> None:
    calls: list[str] = []
    found = medians({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=2)
    assert calls == ["a", "b"] * 3
    assert set(found) == {"a", "b"}


def test_errors_are_tabulated_and_drawn(tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setattr(error, "FEATURES", [16, 32])
    monkeypatch.setattr(error, "SCALES", [1, 10])
    rows = [row for size in error.SIZES for row in error.approximation(48, 2, size)]
    error.draw(rows, tmp_path / "error.png")
    assert (tmp_path / "error.png").read_bytes().startswith(b"\x89PNG")
    rounding = error.rounding(length=20, width=8, features=16)
    write_csv(rounding, tmp_path / "rounding.csv")
    ours = [r for r in rounding if r["kernel"] == "softmax" and r["dtype"] == "float32"]
    assert max(r["error"] for r in ours) < 1e-5
    theirs = [r["error"] for r in rounding if r["kernel"] == "performer-pytorch" and r["scale"] > 1]
    assert min(theirs) > 0.1
    assert "softmax, simplex" in capsys.readouterr().out


@pytest.mark.slow
def test_ingestion_is_measured_and_leaves_only_its_table(sample: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    (tmp_path / "temporary").mkdir()
    options = ["--repeats", "1", "--synthetic", "1000", "--folder", tmp_path / "temporary", "--csv", tmp_path / "i.csv"]
    options += ["--clusters", sample.with_name("families.clusters.tsv")]
    monkeypatch.setattr(sys, "argv", ["ingest", *map(str, (sample, *options))])
    monkeypatch.setattr(ingest, "BATCHES", 3)
    ingest.main()
    with open(tmp_path / "i.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(capsys.readouterr().out.splitlines()) - 1
    assert all(row["measured"] for row in rows)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["i.csv", "temporary"]
    assert not list((tmp_path / "temporary").iterdir())


def test_short_proteins_have_the_requested_number_and_length(tmp_path: Path) -> None:
    ingest.synthesise(tmp_path / "short.fasta", 20_000, mean=30)
    lengths = [len(line) for line in (tmp_path / "short.fasta").read_text().splitlines()[1::2]]
    assert len(lengths) == 20_000
    assert min(lengths) >= 1
    assert 29 < sum(lengths) / len(lengths) < 31
