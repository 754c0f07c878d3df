"""Accumulated gradients of several ranks are exchanged once per step."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from pytorch_lightning.callbacks import Callback

from protlm.training.callbacks import SeededSteps
from tests.tiny import FAST, run_training

STEPS, BATCHES = 2, 3
OPTIONS = [
    *(option for option in FAST if not option.startswith("trainer.devices")),
    "data.token_budget=900",
    "optimizer=adamw",
    "optimizer.eps=1e-3",  # otherwise rounding decides the update of weights with a tiny gradient
    f"trainer.max_steps={STEPS}",
    f"trainer.accumulate_grad_batches={BATCHES}",
    "trainer.limit_test_batches=0",
]


@pytest.mark.parametrize(("strategy", "parts"), [("ddp", 1), ("fsdp", 2)])  # FSDP: the block, and all other weights
def test_gradients_are_reduced_after_the_last_batch_of_a_step(
    strategy: str, parts: int, first_of_two: list[str], monkeypatch, tmp_path: Path, corpus_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    begin = SeededSteps.on_train_batch_start

    def on_train_batch_start(self: Callback, *arguments: Any) -> None:
        first_of_two.append("batch")
        begin(self, *arguments)

    monkeypatch.setattr(SeededSteps, "on_train_batch_start", on_train_batch_start)
    run_training(*OPTIONS, f"data.corpus={corpus_path}", f"trainer={strategy}_cpu", "trainer.devices=2")
    assert first_of_two == STEPS * (BATCHES * ["batch"] + parts * ["reduced"])


@pytest.fixture
def only_rank() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


def test_sharded_gradients_add_up(only_rank: None, monkeypatch, tmp_path: Path, corpus_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("fsdp_cpu", "default"):
        run_training(
            *OPTIONS, f"data.corpus={corpus_path}", f"trainer={name}", "trainer.devices=1", f"hydra.run.dir={name}"
        )
    one, other = (
        torch.load(f"{name}/checkpoints/last.ckpt", weights_only=True)["state_dict"] for name in ("fsdp_cpu", "default")
    )
    for name, weight in one.items():
        torch.testing.assert_close(weight, other[name], rtol=1e-5, atol=1e-6, msg=name)
