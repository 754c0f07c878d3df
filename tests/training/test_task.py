import functools

import pytest
import torch

from protlm.errors import UserError
from protlm.performer import Performer
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
