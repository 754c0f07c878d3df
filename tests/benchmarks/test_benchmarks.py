"""The benchmarks run, on sizes that take a moment; what they measure is not tested."""

import csv
import json
import os
import signal
import sys
from itertools import islice
from pathlib import Path
from types import ModuleType

import pytest
import pytorch_lightning as pl
import torch

from benchmarks import attention, error, ingest, memory, models, stability, throughput, train_step
from benchmarks.measure import PASSES, medians, peak_bytes
from benchmarks.tables import write_csv
from protlm.errors import UserError
from protlm.performer import Performer, PerformerConfig
from protlm.training.datamodule import TremblDataModule
from protlm.training.optimizer import adamw
from protlm.training.task import LanguageModelTask


def test_attention_is_timed_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    times = list(attention.measure_times([32, 64], repeats=1, limit=60))
    assert len(times) == 2 * len(PASSES) * len(attention.DTYPES) * 2
    assert all(set(row["seconds"]) == set(attention.METHODS) for row in times)
    blocks = list(attention.measure_block([32], repeats=1))
    assert {"opt", "softmax", "relu"} <= set(blocks[0]["seconds"])
    memories = [{"causal": False, "pass": "forward", "length": 32, "bytes": {"SDPA": 2**20}}]
    attention.summary(times)
    attention.write_csv(times, memories, tmp_path / "results" / "times.csv")
    attention.draw(times, memories, tmp_path / "figures" / "times.png")
    with open(tmp_path / "results" / "times.csv") as file:
        assert len(list(csv.DictReader(file))) == len(times) * len(attention.METHODS)
    assert (tmp_path / "figures" / "times.png").read_bytes().startswith(b"\x89PNG")
    assert "bidirectional, forward+backward, bfloat16" in capsys.readouterr().out


@pytest.mark.parametrize("options", [[], ["--block"]])
def test_the_command_writes_what_it_says(options: list[str], tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(attention, "METHODS", attention.METHODS[:1])
    monkeypatch.setattr(attention, "MEMORY_LENGTHS", [32])
    files = ["--figure", tmp_path / "a.png", "--csv", tmp_path / "a.csv"]
    monkeypatch.setattr("sys.argv", ["attention", "--lengths", "32", "--repeats", "1", *map(str, files), *options])
    attention.main()
    assert (tmp_path / "a.png").exists() == (tmp_path / "a.csv").exists() == (not options)
    assert ("peak MiB" in capsys.readouterr().out) == (not options)


def test_what_would_take_too_long_is_left_out(capsys: pytest.CaptureFixture) -> None:
    first, second = islice(attention.measure_times([32, 64], repeats=1, limit=0.0), 2)
    assert set(first["seconds"]) == set(attention.METHODS)  # the shortest length is always run
    assert not second["seconds"]
    assert capsys.readouterr().out.splitlines()[-1].split() == ["64", *"-----"]


def test_peak_memory_is_what_was_held_at_once() -> None:
    size = 2**26

    def run() -> None:
        a = torch.ones(size // 4)
        del a
        b = torch.ones(size // 4)
        del b

    assert 0.9 * size < peak_bytes(run) < 1.3 * size


def test_medians_take_every_function() -> None:
    calls: list[str] = []
    found = medians({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, repeats=2)
    assert calls == ["a", "b"] * 3
    assert set(found) == {"a", "b"}


def test_errors_are_tabulated_and_drawn(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
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


def test_short_proteins_are_as_many_and_as_long_as_asked_for(tmp_path: Path) -> None:
    ingest.synthesise(tmp_path / "short.fasta", 20_000, mean=30)
    lengths = [len(line) for line in (tmp_path / "short.fasta").read_text().splitlines()[1::2]]
    assert len(lengths) == 20_000
    assert min(lengths) >= 1
    assert 29 < sum(lengths) / len(lengths) < 31


TINY = ["--layers", "1", "--width", "16", "--heads", "2", "--feed-forward", "16", "--features", "8"]


def run(monkeypatch: pytest.MonkeyPatch, module: ModuleType, *arguments: str | Path) -> None:
    """The program of a benchmark, in this process."""
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
    module.main()


def lines(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_training_is_timed_beside_a_bare_loop(corpus_path: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    small = ["model.layers=1", "model.width=16", "data.max_length=32", "data.token_budget=64"]
    arguments = ["throughput", corpus_path, "--experiments", "trembl_small", "--steps", "2", "--repeats", "3"]
    run(monkeypatch, train_step, *arguments, "--warmup", "1", "--csv", tmp_path / "t.csv", "--overrides", *small)
    (row,) = lines(tmp_path / "t.csv")
    assert float(row["lowest_share"]) <= float(row["share"]) <= float(row["highest_share"])
    assert 0 < float(row["trained_tokens_per_second"]) < 64.01 * float(row["trained_steps_per_second"])
    assert "trembl_small" in capsys.readouterr().out


@pytest.mark.filterwarnings(
    "ignore:::pytorch_lightning", "ignore:.*LeafSpec:FutureWarning", "ignore:::torch.utils.data"
)
def test_the_bare_loop_does_the_same_steps(corpus_path: Path, tmp_path: Path) -> None:
    """Without dropout it ends with the same weights."""
    data = TremblDataModule(str(corpus_path), max_length=32, token_budget=128)
    callback = throughput.BareLoop(str(tmp_path / "seconds.json"), 3, 2, 2, adamw)
    model = Performer(PerformerConfig(33, 1, 1, 2, 16, 16, num_features=8, dropout=0.0))
    options = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    trainer = pl.Trainer(
        max_steps=8,
        gradient_clip_val=0.5,
        callbacks=[callback],
        default_root_dir=tmp_path,
        limit_val_batches=0,
        **options,
    )
    trainer.fit(LanguageModelTask(model, adamw), data)
    callback._bare()  # the last turn, which no batch follows
    assert [row["steps"] for row in json.loads((tmp_path / "seconds.json").read_text())] == [3]
    for name, weight in callback._model.state_dict().items():
        torch.testing.assert_close(weight, model.state_dict()[name], msg=name)


def test_a_training_program_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="error: .*none.h5: no such corpus"):
        throughput.run_protlm([], tmp_path / "none.h5", tmp_path)


def test_whole_models_are_timed_against_length(tmp_path: Path, monkeypatch, capsys) -> None:
    options = ["--lengths", "16", "32", "--tokens", "64", "--repeats", "1", "--csv", tmp_path / "l.csv"]
    run(monkeypatch, train_step, "length", *options, *TINY)
    rows = lines(tmp_path / "l.csv")
    assert len(rows) == 2 * 2 * len(train_step.ATTENTION)
    assert {(row["length"], row["batch"]) for row in rows} == {("16", "4"), ("32", "2")}
    assert all(float(row["to_opt"]) == 1 for row in rows if row["attention"] == "opt")
    assert "causal, 1 layers of width 16" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["length", "--attention", "relu", "nonsense"], "model.attention 'nonsense': expected one of"),
        (["memory", "--heads", "3"], "model.width 512 with 3 heads"),
        (["length", "--attention", "linformer"], "linformer"),
        (["throughput", "none.h5"], "none.h5: no such corpus"),
    ],
)
def test_what_cannot_be_timed_leaves_the_table_alone(options: list[str], message: str, tmp_path, monkeypatch) -> None:
    (tmp_path / "t.csv").write_text("earlier\n")
    with pytest.raises(UserError, match=message):
        run(monkeypatch, train_step, *options, "--csv", tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text() == "earlier\n"


def test_experiments_are_checked_before_training(corpus_path: Path, tmp_path: Path, monkeypatch) -> None:
    options = ["throughput", corpus_path, "--experiments", "nonsense", "--csv", tmp_path / "t.csv"]
    with pytest.raises(UserError, match="nonsense"):
        run(monkeypatch, train_step, *options)


def test_memory_is_measured_or_refused(tmp_path: Path, monkeypatch, capsys) -> None:
    options = ["--lengths", "65536", "--limit", "0.05", "--csv", tmp_path / "m.csv"]
    run(monkeypatch, train_step, "memory", *options, *TINY)
    assert [row["peak_bytes"] for row in lines(tmp_path / "m.csv")] == ["", ""]
    assert capsys.readouterr().out.count("out of memory") == 2
    sizes = models.Sizes(layers=1, width=512, feed_forward=8192)
    (row,) = islice(memory.measure_memory([64], sizes, ["relu"], ["causal"], 2**30), 1)
    weights = 4 * (4 * 512**2 + 2 * 512 * 8192)
    assert 4 * weights < row["peak_bytes"] < 5 * weights  # with gradients, and two moments for each weight


def test_a_case_that_is_killed_counts_as_out_of_memory(monkeypatch) -> None:
    monkeypatch.setattr(memory, "step_memory", kill)
    (row,) = islice(memory.measure_memory([32], models.Sizes(), ["relu"], ["causal"], 2**30), 1)
    assert row["peak_bytes"] == ""


def kill(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_stability_goes_on_after_a_divergence_and_after_a_stop(
    corpus_path: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    options = [*TINY, "--steps", "4", "--length", "16", "--tokens", "64", "--csv", tmp_path / "s.csv"]
    options += ["--directions", "causal", "--precisions", "float32", "--lr"]
    for rate in ("1e30", "1e-3"):
        run(monkeypatch, stability, corpus_path, "--attention", "relu", *options, rate)
    first, second = rows = lines(tmp_path / "s.csv")
    assert int(first["nonfinite_step"]) <= int(first["done"]) + 1
    assert "loss" in first["nonfinite"] or "weights" in first["nonfinite"]
    assert (second["done"], second["nonfinite"]) == ("4", "")
    assert 0 < float(second["largest_gradient"]) < 100
    capsys.readouterr()
    monkeypatch.setattr(stability, "run_protlm", None)  # nothing is run again
    run(monkeypatch, stability, corpus_path, "--attention", "relu", *options, "1e30")
    assert lines(tmp_path / "s.csv") == rows
    assert "in step" in capsys.readouterr().out
