"""A non-finite loss: the run stops and reports where, or skips the step; the weights do not change."""

import copy
import csv
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from protlm.errors import UserError
from protlm.performer import Performer
from protlm.training.callbacks import SeededSteps
from protlm.training.gradient_check import GradientCheck
from tests.tiny import FAST, run_training

OPTIONS = [
    *FAST,
    "data.token_budget=600",
    "trainer.max_steps=8",
    "trainer.log_every_n_steps=1",
    "callbacks.checkpoint.every_n_train_steps=2",
    "hydra.run.dir=run",
]


class Seen:
    """Names, weights and optimizer states at the start of each step."""

    def __init__(self) -> None:
        self.names: dict[int, list[str]] = {}
        self.before: dict[int, tuple[dict[str, Tensor], Any]] = {}


@pytest.fixture
def spoiled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, corpus_path: Path) -> Callable[..., Seen]:
    """A run whose loss is not finite at some steps."""
    monkeypatch.chdir(tmp_path)
    loss, begin = Performer.loss, SeededSteps.on_train_batch_start
    now = {"bad": False}

    def run(bad: Collection[int], *options: str, value: float = float("nan")) -> Seen:
        seen = Seen()

        def on_train_batch_start(self: Callback, trainer: pl.Trainer, task: Any, batch: Any, batch_idx: int) -> None:
            step = trainer.global_step + 1
            seen.names[step] = trainer.datamodule.names(batch)
            seen.before[step] = copy.deepcopy((task.model.state_dict(), trainer.optimizers[0].state_dict()["state"]))
            now["bad"] = step in bad
            begin(self, trainer, task, batch, batch_idx)

        monkeypatch.setattr(SeededSteps, "on_train_batch_start", on_train_batch_start)
        monkeypatch.setattr(Performer, "loss", lambda *x: loss(*x) * (value if now["bad"] else 1))
        run_training(*OPTIONS, f"data.corpus={corpus_path}", *options)
        return seen

    return run


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    return torch.equal(one, other)


@pytest.mark.parametrize(
    ("options", "value"),
    [
        pytest.param(["optimizer=adamw"], float("nan"), marks=pytest.mark.slow),
        (["optimizer=muon"], float("inf")),
        pytest.param(["trainer.gradient_clip_val=null"], float("nan"), marks=pytest.mark.slow),
        pytest.param(["+trainer.gradient_clip_algorithm=value"], float("nan"), marks=pytest.mark.slow),
        (["trainer.accumulate_grad_batches=2"], float("inf")),
    ],
)
def test_a_non_finite_gradient_ends_the_run_with_one_line_that_says_where(
    options: list[str], value: float, spoiled: Callable[..., Seen], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        spoiled({5}, *options, value=value)
    assert stopped.value.code == 2
    message = capsys.readouterr().err.strip()
    assert "\n" not in message
    assert message.startswith("error: step 5: the gradient is not finite")
    assert "run/checkpoints/last.ckpt (step 4)" in message
    content = torch.load("run/checkpoints/last.ckpt", weights_only=True)
    assert content["global_step"] == 4
    assert all(weight.isfinite().all() for weight in content["state_dict"].values())


def test_the_message_names_the_proteins_of_the_batch(
    spoiled: Callable[..., Seen], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the bad batch, if a step has several."""
    names: list[list[str]] = []
    monkeypatch.setattr("protlm.training.gradient_check._NAMED", 10_000)
    check = GradientCheck.finite

    def watched(self: GradientCheck, norm: Tensor, trainer: pl.Trainer) -> bool:
        names[:] = [trainer.datamodule.names(batch) for _, batch in self._losses]
        self._losses[0] = (torch.tensor(1.0), self._losses[0][1])  # the first was good
        return check(self, norm, trainer)

    monkeypatch.setattr(GradientCheck, "finite", watched)
    with pytest.raises(SystemExit):
        spoiled({1}, "trainer.accumulate_grad_batches=2")
    message = capsys.readouterr().err
    assert "Last good checkpoint: none yet" in message
    good, bad = names
    assert f"loss nan on {', '.join(bad)}. " in message
    assert not set(good) & set(message.replace(",", " ").replace(".", " ").split())


@pytest.mark.parametrize("optimizer", [pytest.param("adamw", marks=pytest.mark.slow), "muon"])
def test_a_skipped_step_changes_neither_weights_nor_moments(
    optimizer: str, spoiled: Callable[..., Seen], capsys: pytest.CaptureFixture[str]
) -> None:
    seen = spoiled({4}, "task.skip_nonfinite=2", f"optimizer={optimizer}", "model.attention=exact")
    assert "skipped step 4: the gradient is not finite" in capsys.readouterr().err
    for step in range(1, 8):
        for before, after in zip(seen.before[step], seen.before[step + 1], strict=True):
            assert same(before, after) == (step == 4), step
    with open("run/metrics/metrics.csv") as file:
        counted = [float(row["train/skipped_steps"]) for row in csv.DictReader(file) if row["train/skipped_steps"]]
    assert counted == [0, 0, 0, 1, 1, 1, 1, 1]
    last = torch.load("run/checkpoints/last.ckpt", weights_only=True)
    assert (last["global_step"], last["skipped_steps"]) == (8, [1, 0])


def test_a_run_stops_after_more_consecutive_bad_steps_than_may_be_skipped(
    spoiled: Callable[..., Seen], capsys: pytest.CaptureFixture[str]
) -> None:
    spoiled({1, 2, 4, 5, 7, 8}, "task.skip_nonfinite=2")
    assert torch.load("run/checkpoints/last.ckpt", weights_only=True)["skipped_steps"][0] == 6
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        spoiled({1, 4, 5, 6, 8}, "task.skip_nonfinite=2", "ckpt_path=null")
    assert stopped.value.code == 2
    assert "error: step 6: " in capsys.readouterr().err


def test_a_resumed_run_remembers_the_steps_skipped_last(
    spoiled: Callable[..., Seen], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise stopping and resuming would circumvent the limit."""
    spoiled({3, 4}, "task.skip_nonfinite=2", "trainer.max_steps=4", "schedule=constant")
    capsys.readouterr()
    with pytest.raises(SystemExit):
        spoiled({5}, "task.skip_nonfinite=2", "ckpt_path=auto", "schedule=constant")
    assert "error: step 5: " in capsys.readouterr().err


@pytest.mark.parametrize("limit", [-1, 1.5, "many", None])
def test_invalid_limits_are_refused(limit: Any) -> None:
    with pytest.raises(UserError, match="task.skip_nonfinite"):
        GradientCheck(limit)
