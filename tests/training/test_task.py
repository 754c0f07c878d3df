import functools

import pytest
import torch

from protlm.errors import UserError
from protlm.metrics import ResidueMetrics
from protlm.performer import Performer
from protlm.sequence.batching import Batch
from protlm.training.task import LanguageModelTask, Warmup


def test_warmup_rises_then_stays_or_falls() -> None:
    assert [Warmup(4)(step, 10) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    for decay in ("linear", "cosine"):
        factors = [Warmup(2, decay, floor=0.1)(step, 12) for step in range(13)]
        assert factors[1] == factors[2] == max(factors) == 1
        assert factors[2:] == sorted(factors[2:], reverse=True)
        assert factors[12] == pytest.approx(0.1)
        assert Warmup(2, decay, floor=0.1)(1000, 12) == pytest.approx(0.1)
    assert Warmup()(0, 10) == 1


def test_a_mistyped_optimizer_option_is_said_before_training(tiny_model: Performer) -> None:
    with pytest.raises(UserError, match="lrr"):
        LanguageModelTask(tiny_model, functools.partial(torch.optim.AdamW, lrr=1))


def test_training_and_evaluation_keep_within_the_proteins_of_a_block(tiny_model: Performer) -> None:
    """What follows a protein in its block changes its loss only where attention may cross."""
    task = LanguageModelTask(tiny_model, torch.optim.SGD)
    task.log = lambda *_, **__: None
    task.tests = torch.nn.ModuleList([ResidueMetrics()])
    tiny_model.head.weight.data *= 20
    for block in tiny_model.blocks:  # attention that looks at something, and is heard
        block.attention.qkv.weight.data *= 20
        block.attention.out.weight.data *= 20

    def results(other: int, segments: torch.Tensor | None) -> list[float]:
        inputs = torch.tensor([[5, 6, 7, 2, other, 9, other, 2]])
        scored = torch.arange(8)[None] < 3
        batch = Batch(inputs, torch.where(scored, inputs, -100), scored, scored | True, segments)
        task.valid.reset()
        task.tests[0].reset()
        loss = task.training_step(batch, 0)
        task.validation_step(batch, 0)
        task.test_step(batch, 0)
        perplexities = [metrics.compute()["perplexity"] for metrics in (task.valid, task.tests[0])]
        return [loss.item(), *map(float, perplexities)]

    apart = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1]])
    assert results(10, apart) == pytest.approx(results(20, apart), rel=1e-6)
    for one, other in zip(results(10, None), results(20, None), strict=True):
        assert abs(one - other) > 1e-4 * one
