"""Stages of a distillation: which step belongs to which, and how fast each learns."""

import pytest
import torch
from torch import nn

from protlm.distillation.options import LineariseOptions
from protlm.distillation.stages import Stages, stage_schedule, two_rate_adamw
from protlm.errors import UserError
from protlm.performer import Performer
from protlm.performer.hybrid import Hybrid


@pytest.mark.parametrize(
    ("total", "match", "tune", "expected"),
    [
        (4, 2, 1, ["match", "match", "distil", "tune"]),
        (3, 3, 0, ["match"] * 3),
        (2, 0, 2, ["tune"] * 2),
        (2, 0, 0, ["distil"] * 2),
    ],
)
def test_each_step_has_a_stage(total: int, match: int, tune: int, expected: list[str]) -> None:
    stages = Stages.of(total, match, tune)
    assert [stages.place(step)[0] for step in range(total)] == expected
    assert stages.place(total + 5)[0] == expected[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((10, 8, 4), "match 8 and tune 4: more than 10 steps in all"),
        ((10, -1, 0), "match -1: expected a number of steps"),
        ((10, 0, 0.5), "tune 0.5: expected a number of steps"),
        ((-1, 0, 0), "requires trainer.max_steps or max_epochs"),
    ],
)
def test_stages_that_do_not_fit_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Stages.of(*arguments)


def test_only_features_learn_first_and_all_weights_later(tiny_model: Performer) -> None:
    tiny_model.switch_attention(Hybrid(), 8)
    optimizer = two_rate_adamw(tiny_model, lr=1e-3, features_lr=1e-1)
    schedule = stage_schedule(optimizer, total=20, match=10, warmup=2, later=0.1)
    rates = []
    for _ in range(20):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    features, weights = (torch.tensor(column) for column in zip(*rates, strict=True))
    assert not weights[:10].any()
    torch.testing.assert_close(features[:2], torch.tensor([0.05, 0.1]))
    torch.testing.assert_close(weights[10:12], torch.tensor([5e-4, 1e-3]))
    torch.testing.assert_close(features[10:12], torch.tensor([5e-3, 1e-2]))
    assert bool((features[2:10].diff() < 0).all())
    named = dict(tiny_model.named_parameters())
    learned = {id(weight) for name, weight in named.items() if ".features." in name}
    assert {id(weight) for weight in optimizer.param_groups[0]["params"]} == learned
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(named)


@pytest.mark.parametrize(
    ("steps", "match", "tune", "interval"),
    [(2000, 1000, 0, 250), (20, 12, 0, 4), (900, 500, 0, 100), (2001, 1000, 0, 250), (30, 30, 0, 30), (7, 3, 2, 1)],
)
def test_each_stage_ends_with_a_validation_where_that_is_not_too_often(steps, match, tune, interval) -> None:
    assert LineariseOptions(steps=steps, match=match, tune=tune).validation_interval == interval


def test_a_model_without_learned_features_has_one_rate() -> None:
    optimizer = two_rate_adamw(nn.Linear(2, 2))
    assert len(optimizer.param_groups) == 1
    assert stage_schedule(optimizer, 10, 0).get_last_lr() == [pytest.approx(1e-5)]
