"""Logged residues and throughput, and the operations per token they are computed from."""

import csv
import dataclasses
import time
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from protlm.batching.batches import Batch
from protlm.performer import Performer
from protlm.performer.cost import flops_per_token
from protlm.sequence.alphabet import STANDARD, TOKENS
from protlm.training.callbacks import Throughput
from protlm.training.datamodule import TremblDataModule
from protlm.training.task import LanguageModelTask
from tests.tiny import FAST, run_training

OPTIONS = [
    *FAST,
    "data.token_budget=900",
    "schedule=constant",
    "trainer.log_every_n_steps=2",
    "hydra.run.dir=run",
]


@pytest.mark.parametrize("shape", [(2, 2, 16, 32, 20), (1, 4, 48, 30, 7)])
@pytest.mark.parametrize("attention", ["opt", "exact"])
def test_operations_equal_those_counted_by_torch(attention: str, shape: tuple[int, ...], tiny_model: Performer) -> None:
    layers, heads, width, feed_forward, length = shape
    sizes = {"layers": layers, "heads": heads, "width": width, "feed_forward": feed_forward}
    model = Performer(dataclasses.replace(tiny_model.config, attention=attention, **sizes))
    tokens = torch.full((3, length), 5)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(tokens)
    assert counter.get_total_flops() == 3 * length * flops_per_token(model.config, length)


def test_causal_attention_counts_half(tiny_model: Performer) -> None:
    exact, causal, none = (
        flops_per_token(dataclasses.replace(tiny_model.config, **options), 100)
        for options in ({"attention": "exact"}, {"attention": "exact", "causal": True}, {"attention": "opt"})
    )
    assert causal - none == (exact - none) / 2 > 0


@pytest.mark.parametrize(
    ("attention", "projected", "features"),
    [("relu", 10, 10), ("softmax", 10, 10), ("optimal", 10, 10), ("relu_unprojected", 0, 8), ("trig", 10, 20)],
)
def test_operations_of_favor_follow_the_formula(
    attention: str, projected: int, features: int, tiny_model: Performer
) -> None:
    """Per head and token: 2 d for each projection of q and of k; 2 d M for K'V, and 2 d M for Q'(K'V)."""
    dim, heads, layers = 8, 2, 2
    sizes = {"width": heads * dim, "heads": heads, "layers": layers, "num_features": 10}
    config, without = (dataclasses.replace(tiny_model.config, attention=kind, **sizes) for kind in (attention, "opt"))
    head = 2 * (2 * dim * projected) + 2 * (2 * dim * features)
    for length in (5, 5000):
        assert flops_per_token(config, length) - flops_per_token(without, length) == layers * heads * head


def logged(model: Performer, batches: list[Batch], every: int, pause: float) -> list[dict[str, float]]:
    """Rows logged by the callback when each step takes `pause` seconds."""
    task, rows = LanguageModelTask(model, torch.optim.SGD), []
    task.log_dict = lambda values, **_: rows.append({name: float(value) for name, value in values.items()})
    trainer: Any = SimpleNamespace(
        global_step=0,
        log_every_n_steps=every,
        accumulate_grad_batches=1,
    )
    callback = Throughput()
    callback.on_train_start(trainer, task)
    for batch in batches:
        time.sleep(pause)
        trainer.global_step += 1
        callback.on_train_batch_end(trainer, task, None, batch, 0)
    return rows


def test_throughput_counts_tokens_and_operations_without_padding(tiny_model: Performer) -> None:
    """Between two bounds, since a busy machine makes steps longer than their pause."""
    inputs = torch.full((2, 50), 5)
    mask = torch.ones_like(inputs, dtype=torch.bool)
    mask[1, 20:] = False
    inputs = torch.where(mask, inputs, 1)
    batch = Batch(inputs, inputs, mask, mask)
    started = time.perf_counter()
    rows = logged(tiny_model, [batch] * 6, every=3, pause=0.02)
    whole = time.perf_counter() - started
    assert [row["train/residues"] for row in rows] == [210, 420]
    for row in rows:
        assert 3 * 70 / whole <= row["throughput/tokens_per_second"] <= 3 * 70 / 0.06
        each = row["throughput/flops_per_second"] / row["throughput/tokens_per_second"]
        assert each == pytest.approx(3 * flops_per_token(tiny_model.config, 50), rel=1e-3)


def residues(*options: str) -> dict[int, float]:
    """Steps and residues of a run's metrics.csv."""
    run_training(*OPTIONS, *options)
    with open("run/metrics/metrics.csv") as file:
        return {int(row["step"]): float(row["train/residues"]) for row in csv.DictReader(file) if row["train/residues"]}


@pytest.mark.parametrize("accumulate", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_residues_count_all_batches_even_after_a_resume(
    accumulate: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, corpus_path: Path
) -> None:
    """Masked residues count; padding and the tokens at the ends of a protein do not."""
    monkeypatch.chdir(tmp_path)
    options = [f"data.corpus={corpus_path}", f"trainer.accumulate_grad_batches={accumulate}"]
    residues(*options, "trainer.max_steps=5")
    found = residues(*options, "trainer.max_steps=10", "ckpt_path=auto")
    data = TremblDataModule(str(corpus_path), max_length=64, token_budget=900, seed=1)
    special = torch.tensor([TOKENS.index(token) for token in ("<cls>", "<pad>", "<eos>")])
    counts = [
        int((~torch.isin(batch.inputs, special)).sum()) for batch in islice(data.train_dataloader(), 10 * accumulate)
    ]
    assert len(STANDARD) == 20 < len(TOKENS)
    expected = {step - 1: float(sum(counts[: step * accumulate])) for step in range(2, 11, 2)}
    assert found == expected
