"""Progress of training where no bar can move: plain lines."""

import csv
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from protlm.batching.batches import Batch
from protlm.training.progress import ProgressLines
from tests.tiny import FAST, run_training

RUN = [*FAST, "data.token_budget=900", "trainer.log_every_n_steps=1", "hydra.run.dir=run"]
LINE = re.compile(r"step (\d+) of 12: loss (\d\.\d{3}), learning rate (\d\.\d\de-\d\d), [\d,]+ tokens/s, \d+:\d\d left")


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_log_has_a_line_every_n_steps_and_at_each_validation(accumulate: int, capsys, corpus_path) -> None:
    options = ["callbacks.lines.every_n_steps=4", f"trainer.accumulate_grad_batches={accumulate}"]
    options += ["trainer.max_steps=12", f"trainer.val_check_interval={6 * accumulate}"]
    run_training(*RUN, *options, f"data.corpus={corpus_path}")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    steps = [match for line in lines if (match := LINE.fullmatch(line))]
    assert [int(match[1]) for match in steps] == [1, 4, 8, 12]
    with open("run/metrics/metrics.csv") as file:
        rows = list(csv.DictReader(file))
    rates = {int(row["step"]) + 1: row["train/learning_rate"] for row in rows if row["train/learning_rate"]}
    assert all(float(match[3]) == pytest.approx(float(rates[int(match[1])]), rel=5e-3) for match in steps)
    if accumulate == 1:  # metrics.csv has the loss of every batch
        losses = {int(row["step"]) + 1: float(row["train/loss"]) for row in rows if row["train/loss"]}
        assert float(steps[1][2]) == pytest.approx(sum(losses[step] for step in (2, 3, 4)) / 3, abs=1e-3)
    assert all(2 < float(match[2]) < 5 for match in steps)  # not divided by the number of accumulated batches
    validations = [line for line in lines if "validation" in line]
    assert [line.partition(":")[0] for line in validations] == ["step 6 of 12", "step 12 of 12"]
    perplexities = [float(row["valid/perplexity"]) for row in rows if row["valid/perplexity"]]
    assert [float(line.rpartition("perplexity ")[2]) for line in validations] == pytest.approx(perplexities, rel=1e-3)


def test_lines_can_be_turned_off(capsys, corpus_path) -> None:
    run_training(*RUN, "trainer.max_steps=2", "callbacks.lines=null", f"data.corpus={corpus_path}")
    assert "tokens/s" not in capsys.readouterr().out
    with pytest.raises(SystemExit):
        run_training(*RUN, "callbacks.lines.every_n_steps=0", f"data.corpus={corpus_path}")
    assert "callbacks.lines.every_n_steps 0: expected a positive integer" in capsys.readouterr().err


def test_all_ranks_have_lines_or_none_has() -> None:
    """In a terminal only rank 0 has a bar; the others would wait for its part of the sums forever."""
    tokens, key_mask = torch.ones(1, 3, dtype=torch.int64), torch.ones(1, 3, dtype=torch.bool)
    for shows_bar in (False, True):
        lines = ProgressLines()
        trainer: Any = SimpleNamespace(
            global_step=0,
            progress_bar_callback=SimpleNamespace(is_enabled=False),
            strategy=SimpleNamespace(broadcast=lambda on, first=not shows_bar: first),
            accumulate_grad_batches=1,
        )
        task: Any = None
        lines.on_train_start(trainer, task)
        lines.on_train_batch_end(trainer, task, {"loss": torch.ones(())}, Batch(tokens, tokens, key_mask, key_mask), 0)
        assert (lines._sums is None) == shows_bar


def test_a_bar_of_another_class_shows_the_loss(capsys, corpus_path) -> None:
    bar = ["callbacks.progress._target_=pytorch_lightning.callbacks.TQDMProgressBar"]
    hidden = ("callbacks.progress=null", "trainer.enable_progress_bar=false")
    shown = [option for option in RUN if option not in hidden]
    run_training(*shown, *bar, "trainer.max_steps=2", f"data.corpus={corpus_path}")
    assert "train/loss=3." in "".join(capsys.readouterr())


@pytest.mark.parametrize("terminal", [True, False])
def test_lines_replace_the_bar_where_there_is_no_terminal(terminal: bool, capsys, monkeypatch, corpus_path) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    shown = [option for option in RUN if option not in ("callbacks.progress=null", "trainer.enable_progress_bar=false")]
    run_training(*shown, "trainer.max_steps=2", f"data.corpus={corpus_path}")
    printed = capsys.readouterr().out
    assert ("tokens/s" in printed) != terminal
    assert ("training   " in printed) == terminal  # the bar's label
