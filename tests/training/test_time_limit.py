"""A run stopped by trainer.max_time says so, and resumes without any difference to an uninterrupted run."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning.callbacks import Timer

from protlm.training.multirun import format_jobs, read_jobs
from protlm.training.run import time_limit_message
from tests.tiny import FAST, run_training

OPTIONS = [*FAST, "data.token_budget=600", "model.dropout=0.1", "trainer.max_steps=8", "hydra.run.dir=run"]


@pytest.fixture
def time_is_up_at(monkeypatch: pytest.MonkeyPatch):
    """Makes Lightning's timer see its limit reached after a given step."""

    def at(step: int) -> None:
        def on_train_batch_end(self: Timer, trainer, *_: object) -> None:
            self._offset = 3600 * (trainer.global_step >= step)
            self._check_time_remaining(trainer)

        monkeypatch.setattr(Timer, "on_train_batch_end", on_train_batch_end)

    return at


def last() -> dict:
    return torch.load("run/checkpoints/last.ckpt", weights_only=True)


@pytest.mark.slow
def test_a_stopped_run_says_so_and_a_resumed_one_ends_like_an_uninterrupted_one(
    time_is_up_at, monkeypatch, capsys, tmp_path, corpus_path
) -> None:
    """The learning-rate schedule depends on max_steps only."""
    monkeypatch.chdir(tmp_path)
    options = [*OPTIONS, f"data.corpus={corpus_path}"]
    run_training(*options)
    whole = last()["state_dict"]
    assert "stopped by" not in capsys.readouterr().out
    record = json.loads(Path("run/run.json").read_text())
    assert (record["steps"], record["stopped"]) == (8, None)
    time_is_up_at(3)
    run_training(*options, "trainer.max_time=00:00:00:50")
    message = "stopped by trainer.max_time at step 3 of 8: results will be lower than those of the full run"
    assert [line for line in capsys.readouterr().out.splitlines() if "max_time" in line] == [message]
    record = json.loads(Path("run/run.json").read_text())
    assert (record["steps"], record["stopped"]) == (3, message)
    run_training(*options, "trainer.max_time=00:00:00:50", "ckpt_path=auto")  # its time was up before
    assert message in capsys.readouterr().out
    run_training(*options, "trainer.max_time=01:00:00:00", "ckpt_path=auto")
    assert "stopped by" not in capsys.readouterr().out
    record = json.loads(Path("run/run.json").read_text())
    assert (record["steps"], record["stopped"]) == (8, None)
    assert [start["steps"] for start in record["earlier"]] == [3, 3]
    assert all(torch.equal(weight, whole[name]) for name, weight in last()["state_dict"].items())


def test_the_demo_names_readme_and_a_multirun_its_job(
    time_is_up_at, monkeypatch, capsys, tmp_path, corpus_path, sample
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(sample.parent)
    time_is_up_at(2)
    options = [*FAST, "+experiment=demo", f"data.corpus={corpus_path}", "data.token_budget=600", "data.max_length=64"]
    run_training(*dict.fromkeys(options), "hydra.run.dir=sweep/0")
    message = "stopped by trainer.max_time at step 2 of 2,000: results will be lower than README's"
    assert message in capsys.readouterr().out.splitlines()
    assert f"job 0: {message}" in format_jobs(read_jobs(Path("sweep")))


@pytest.mark.parametrize(
    ("step", "steps", "stop", "seconds", "expected"),
    [
        (778, 2000, True, 0.0, "stopped by trainer.max_time at step 778 of 2,000: results will be lower than X"),
        (2000, 2000, True, -1.0, None),  # the last step was finished
        (778, 2000, True, 5.0, None),  # another callback has stopped it
        (778, 2000, False, -1.0, None),
        (1234, -1, True, 0.0, "stopped by trainer.max_time at step 1,234"),  # the limit is the plan
    ],
)
def test_the_message_is_for_runs_that_the_limit_has_stopped(step, steps, stop, seconds, expected) -> None:
    timer = Timer("00:00:07:00")
    timer.time_remaining = lambda: seconds
    trainer = SimpleNamespace(global_step=step, max_steps=steps, should_stop=stop, callbacks=[timer])
    assert time_limit_message(trainer, "X") == expected
