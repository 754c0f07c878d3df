"""Training waits for the device at most twice per step, and calls no barrier, also as one of several ranks."""

import math
import os
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from pytorch_lightning.callbacks import Callback

from protlm.performer import bidirectional, estimator, linear_attention
from protlm.training.callbacks import SeededSteps
from protlm.training.progress import StepProgressBar
from tests.tiny import FAST, run_training

READS = ("__bool__", "__int__", "__float__", "__index__", "item", "tolist", "numpy", "cpu", "nonzero", "unique")
"""What makes the host wait for a tensor of a device."""
FIRST, LAST = 3, 7
OPTIONS = [
    *FAST,
    "callbacks.curve={_target_:protlm.training.callbacks.LearningCurve,path:curve.png,every_n_steps:1}",
    "data.token_budget=900",
    "trainer.max_steps=8",
    "trainer.log_every_n_steps=1000",
    "callbacks.lines.every_n_steps=1000",
    "trainer.val_check_interval=1000",
    "trainer.limit_test_batches=0",
    "hydra.run.dir=run",
]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Counter[tuple[str, str]]:
    """Counts, with their places, what waits during steps FIRST to LAST - 1 on a device."""
    monkeypatch.chdir(tmp_path)
    found: Counter[tuple[str, str]] = Counter()
    step, begin = [0], SeededSteps.on_train_batch_start

    def counted(owner: Any, name: str, waits: Callable[..., bool] = lambda *_, **__: True) -> None:
        original = getattr(owner, name)

        def call(*arguments: Any, **options: Any) -> Any:
            if FIRST <= step[0] < LAST and waits(*arguments, **options):
                frames = [x for x in traceback.extract_stack()[:-1] if f"{os.sep}torch{os.sep}" not in x.filename]
                found[name, " < ".join(f"{Path(x.filename).name}:{x.lineno}" for x in frames[:-4:-1])] += 1
            return original(*arguments, **options)

        monkeypatch.setattr(owner, name, call)

    def on_train_batch_start(self: Callback, trainer: Any, *arguments: Any) -> None:
        step[0] = trainer.global_step
        begin(self, trainer, *arguments)

    for name in READS:
        counted(torch.Tensor, name)
    counted(torch, "tensor", lambda *_, device=None, **__: device is not None)  # copies numbers of the host
    counted(dist, "barrier")
    monkeypatch.setattr(SeededSteps, "on_train_batch_start", on_train_batch_start)
    for module in (estimator, bidirectional, linear_attention):
        monkeypatch.setattr(module, "waits", lambda x: True)  # as on a GPU
    return found


def test_a_step_of_one_process_waits_once(calls: Counter[tuple[str, str]], corpus_path: Path) -> None:
    """For the norm of the gradient."""
    run_training(*OPTIONS, f"data.corpus={corpus_path}")
    assert calls.total() == LAST - FIRST, calls


def test_a_progress_bar_waits_for_the_loss_at_intervals_only(
    calls: Counter[tuple[str, str]], corpus_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    hidden = ("trainer.enable_progress_bar=false", "callbacks.progress=null")
    options = [option for option in OPTIONS if option not in hidden]
    for interval, waits in ((math.inf, 1), (0.0, 2)):
        calls.clear()
        monkeypatch.setattr(StepProgressBar, "interval", interval)
        run_training(*options, f"data.corpus={corpus_path}")
        assert calls.total() == waits * (LAST - FIRST), calls
        assert "train/loss: 3." in capsys.readouterr().out


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_step_of_several_ranks_waits_twice_and_has_no_barrier(
    strategy: str, calls: Counter[tuple[str, str]], first_of_two: list[str], corpus_path: Path
) -> None:
    """For the norm of the gradient, and for the signals of all ranks; not for each batch of an accumulated gradient."""
    options = [f"trainer={strategy}_cpu", "trainer.devices=2", "trainer.accumulate_grad_batches=3"]
    run_training(*(x for x in OPTIONS if x != "trainer.devices=1"), *options, f"data.corpus={corpus_path}")
    assert calls.total() == 2 * (LAST - FIRST), calls
