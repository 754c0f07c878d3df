"""Training steps: throughput of the program, times and memory of whole models, and stability."""

import csv
import json
import os
import signal
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from types import ModuleType

import pytest
import pytorch_lightning as pl
import torch

from benchmarks import models, stability
from benchmarks.train_step import __main__ as train_step
from benchmarks.train_step import memory, throughput
from protlm import train
from protlm.errors import UserError
from protlm.performer import Performer, PerformerConfig
from protlm.training.datamodule import TremblDataModule
from protlm.training.optimizer import adamw
from protlm.training.task import LanguageModelTask

TINY = ["--layers", "1", "--width", "16", "--heads", "2", "--feed-forward", "16", "--features", "8"]


def run(monkeypatch: pytest.MonkeyPatch, module: ModuleType, *arguments: str | Path) -> None:
    """A benchmark, in this process."""
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
    module.main()


def lines(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_training_is_timed_against_a_bare_loop(corpus_path: Path, tmp_path: Path, monkeypatch, capsys) -> None:
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
    callback._bare()  # for the last turn, which no batch follows
    assert [row["steps"] for row in json.loads((tmp_path / "seconds.json").read_text())] == [3]
    for name, weight in callback._model.state_dict().items():
        torch.testing.assert_close(weight, model.state_dict()[name], msg=name)


@pytest.mark.slow
def test_a_failing_training_program_is_reported(tmp_path: Path) -> None:
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
def test_invalid_arguments_leave_the_table_unchanged(options: list[str], message: str, tmp_path, monkeypatch) -> None:
    (tmp_path / "t.csv").write_text("earlier\n")
    with pytest.raises(UserError, match=message):
        run(monkeypatch, train_step, *options, "--csv", tmp_path / "t.csv")
    assert (tmp_path / "t.csv").read_text() == "earlier\n"


def test_experiments_are_checked_before_training(corpus_path: Path, tmp_path: Path, monkeypatch) -> None:
    options = ["throughput", corpus_path, "--experiments", "nonsense", "--csv", tmp_path / "t.csv"]
    with pytest.raises(UserError, match="nonsense"):
        run(monkeypatch, train_step, *options)


@pytest.mark.slow
def test_memory_is_measured_or_out_of_memory(tmp_path: Path, monkeypatch, capsys) -> None:
    options = ["--lengths", "65536", "--limit", "0.05", "--csv", tmp_path / "m.csv"]
    run(monkeypatch, train_step, "memory", *options, *TINY)
    assert [row["peak_bytes"] for row in lines(tmp_path / "m.csv")] == ["", ""]
    assert capsys.readouterr().out.count("out of memory") == 2
    sizes = models.Sizes(layers=1, width=512, feed_forward=8192)
    (row,) = islice(memory.measure_memory([64], sizes, ["relu"], ["causal"], 2**30), 1)
    weights = 4 * (4 * 512**2 + 2 * 512 * 8192)
    assert 4 * weights < row["peak_bytes"] < 5 * weights  # with gradients, and two moments for each weight


@pytest.mark.slow
def test_a_killed_case_counts_as_out_of_memory(monkeypatch) -> None:
    monkeypatch.setattr(memory, "step_memory", kill)
    (row,) = islice(memory.measure_memory([32], models.Sizes(), ["relu"], ["causal"], 2**30), 1)
    assert row["peak_bytes"] == ""


def kill(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_stability_continues_after_a_divergence_and_after_an_interruption(
    corpus_path: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    def run_protlm(overrides: Sequence[str], corpus: Path, folder: Path) -> None:
        """In this process."""
        command = ["train", *overrides, f"data.corpus='{corpus}'", f"hydra.run.dir='{folder}'"]
        monkeypatch.setattr(sys, "argv", command)
        try:
            train.main()
        except SystemExit as stop:
            raise RuntimeError(f"code {stop.code}") from stop

    monkeypatch.setattr(stability, "run_protlm", run_protlm)
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
