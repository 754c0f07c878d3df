"""Weight decay by parameter, Muon with AdamW, and the learning-rate schedule."""

import copy
import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from protlm.errors import UserError
from protlm.performer import Performer
from protlm.training.optimizer import adamw, muon
from protlm.training.schedule import Warmup


def decay_of(optimizer: Optimizer, model: nn.Module) -> dict[str, float]:
    names = {weight: name for name, weight in model.named_parameters()}
    groups = [(names[weight], group["weight_decay"]) for group in optimizer.param_groups for weight in group["params"]]
    assert len(groups) == len(dict(groups)) == len(names)  # each parameter once
    return dict(groups)


def train_steps(model: Performer, optimizer: Optimizer, first: int, last: int) -> None:
    for step in range(first, last):
        tokens = torch.randint(4, 24, (2, 10), generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        model.loss(model(tokens), tokens).backward()
        optimizer.step()


def copied(model: Performer) -> Performer:
    return copy.deepcopy(model).train()


def test_by_default_norms_and_biases_do_not_decay(tiny_model: Performer) -> None:
    for make in (adamw, muon):
        decay = decay_of(make(tiny_model, weight_decay=0.3), tiny_model)
        for name, weight in tiny_model.named_parameters():
            assert decay[name] == (0.3 if weight.ndim >= 2 else 0.0), name
        assert {0.0, 0.3} == set(decay.values())


def test_with_decay_all_every_parameter_decays_as_in_plain_adamw(tiny_model: Performer) -> None:
    one, other = copied(tiny_model), copied(tiny_model)
    optimizer = adamw(one, lr=1e-2, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.3, decay="all")
    assert set(decay_of(optimizer, one).values()) == {0.3}
    plain = AdamW(other.parameters(), lr=1e-2, betas=(0.8, 0.9), eps=1e-6, weight_decay=0.3, fused=True)
    train_steps(one, optimizer, 0, 3)
    train_steps(other, plain, 0, 3)
    for name, weight in one.named_parameters():
        assert torch.equal(weight, other.get_parameter(name)), name


def test_only_weights_with_decay_shrink_without_a_gradient(tiny_model: Performer) -> None:
    before = copy.deepcopy(tiny_model.state_dict())
    optimizer = adamw(tiny_model, lr=0.1, weight_decay=0.5)
    for weight in tiny_model.parameters():
        weight.grad = torch.zeros_like(weight)
    optimizer.step()
    for name, weight in tiny_model.named_parameters():
        torch.testing.assert_close(weight.data, before[name] * (0.95 if weight.ndim >= 2 else 1.0), msg=name)


@pytest.mark.parametrize("attention", ["relu", "linformer"])  # linformer has matrices of its own
def test_muon_updates_the_matrices_of_the_blocks_and_adamw_the_rest(tiny_model: Performer, attention: str) -> None:
    model = Performer(dataclasses.replace(tiny_model.config, positions="learned", attention=attention))
    optimizer = muon(model, lr=0.1)
    train_steps(model, optimizer, 0, 1)
    for name, weight in model.named_parameters():
        inside = name.startswith("blocks.") and weight.ndim == 2
        kind = {"momentum_buffer"} if inside else {"step", "exp_avg", "exp_avg_sq"}
        assert set(optimizer.state[weight]) == kind, name


def test_muons_update_is_orthogonal_and_as_large_as_adams(tiny_model: Performer) -> None:
    weight = tiny_model.blocks[0].attention.qkv.weight
    before = weight.detach().clone()
    train_steps(tiny_model, muon(tiny_model, lr=1.0, weight_decay=0.0, query_key=1.0), 0, 1)
    step: Tensor = (weight.detach() - before).double()
    singular = torch.linalg.svdvals(step)
    assert singular.max() < 2 * singular.median()  # that of a gradient spans orders of magnitude
    assert 0.1 < step.square().mean().sqrt() < 0.4


def test_muon_scales_the_update_of_queries_and_keys(tiny_model: Performer) -> None:
    """Values and all other matrices are updated as without it."""
    steps = []
    for share in (1.0, 0.25):
        model = copied(tiny_model)
        train_steps(model, muon(model, lr=0.1, weight_decay=0.0, query_key=share), 0, 1)
        before, after = dict(tiny_model.named_parameters()), dict(model.named_parameters())
        steps.append({name: (after[name] - before[name]).detach() for name in after})
    for name, whole in steps[0].items():
        rows = torch.ones(len(whole))
        if name.endswith("attention.qkv.weight"):
            rows[: 2 * len(whole) // 3] = 0.25
        rows = rows.view(-1, *(1,) * (whole.dim() - 1))
        torch.testing.assert_close(steps[1][name], whole * rows, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("make", [adamw, muon])
def test_an_optimizer_continues_bit_for_bit_from_its_state(
    make: Callable[..., Optimizer], tiny_model: Performer
) -> None:
    """Including the learning rate set by the schedule."""

    def begin(model: Performer) -> tuple[Optimizer, LambdaLR]:
        optimizer = make(model, lr=1e-2)
        return optimizer, LambdaLR(optimizer, lambda step: Warmup(5)(step, 8))

    def go(model: Performer, optimizer: Optimizer, schedule: LambdaLR, first: int, last: int) -> None:
        for step in range(first, last):
            train_steps(model, optimizer, step, step + 1)
            schedule.step()

    whole, parts = copied(tiny_model), copied(tiny_model)
    go(whole, *begin(whole), 0, 8)
    optimizer, schedule = begin(parts)
    go(parts, optimizer, schedule, 0, 4)
    stored = copy.deepcopy((parts.state_dict(), optimizer.state_dict(), schedule.state_dict()))
    other = copied(tiny_model)
    again, schedule = begin(other)
    train_steps(other, again, 20, 21)  # a state to be replaced
    other.load_state_dict(stored[0])
    again.load_state_dict(stored[1])
    schedule.load_state_dict(stored[2])
    go(other, again, schedule, 4, 8)
    for name, weight in whole.named_parameters():
        assert torch.equal(weight, other.get_parameter(name)), name


@pytest.mark.parametrize("make", [adamw, muon])
def test_the_schedule_reaches_every_weight(make: Callable[..., Optimizer], tiny_model: Performer) -> None:
    model = copied(tiny_model)
    optimizer = make(model, lr=1e-2)
    schedule = LambdaLR(optimizer, lambda step: float(step > 1))
    before = copy.deepcopy(model.state_dict())
    for step in range(2):
        train_steps(model, optimizer, step, step + 1)
        schedule.step()
    for name, weight in model.named_parameters():
        assert torch.equal(weight, before[name]), name
    train_steps(model, optimizer, 2, 3)
    for name, weight in model.named_parameters():
        assert not torch.equal(weight, before[name]), name


@pytest.mark.parametrize(
    ("make", "options", "expected"),
    [
        (adamw, {"lr": -1e-3}, "optimizer.lr -0.001: expected a non-negative number"),
        (muon, {"lr": -1e-3}, "optimizer.lr"),
        (adamw, {"lr": "fast"}, "optimizer.lr 'fast'"),
        (adamw, {"lr": float("nan")}, "optimizer.lr nan"),
        (adamw, {"weight_decay": -1}, "optimizer.weight_decay"),
        (muon, {"weight_decay": -1}, "optimizer.weight_decay"),
        (adamw, {"decay": "none"}, "optimizer.decay 'none'"),
        (adamw, {"betas": (1.5, 0.9)}, "optimizer.betas"),
        (muon, {"betas": (0.9, -1)}, "optimizer.betas"),
        (adamw, {"eps": -1}, "optimizer.eps"),
        (muon, {"momentum": -1}, "optimizer.momentum"),
    ],
)
def test_invalid_options_are_refused(
    make: Callable[..., Optimizer], options: dict, expected: str, tiny_model: Performer
) -> None:
    with pytest.raises(UserError, match=expected):
        make(tiny_model, **options)


def test_warmup_rises_then_stays_or_falls() -> None:
    assert [Warmup(4)(step, 10) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    for decay in ("linear", "cosine"):
        factors = [Warmup(2, decay, floor=0.1)(step, 12) for step in range(13)]
        assert factors[1] == factors[2] == max(factors) == 1
        assert factors[2:] == sorted(factors[2:], reverse=True)
        assert factors[12] == pytest.approx(0.1)
        assert Warmup(2, decay, floor=0.1)(1000, 12) == pytest.approx(0.1)
    assert Warmup()(0, 10) == 1


def test_a_trapezoid_decays_at_the_end_and_agrees_with_a_longer_one_until_then() -> None:
    short, long = ([Warmup(4, "cosine", decay_steps=5)(step, total) for step in range(total)] for total in (20, 40))
    assert short[:15] == long[:15] == [*(0.25, 0.5, 0.75), *12 * [1.0]]
    assert short[15:] == sorted(short[15:], reverse=True) == long[35:]
    assert 0 < short[-1] < short[16] < 1
    whole = [Warmup(4, "linear")(step, 20) for step in range(20)]
    assert [Warmup(4, "linear", decay_steps=100)(step, 20) for step in range(20)] == whole  # no longer than the run


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"decay_steps": 0}, "schedule.decay_steps 0"),
        ({"decay_steps": 0.2}, "schedule.decay_steps 0.2"),
        ({"steps": -1}, "schedule.steps -1"),
        ({"steps": 1.5}, "schedule.steps 1.5"),
        ({"decay": "slow"}, "schedule.decay 'slow'"),
        ({"floor": -0.1}, "schedule.floor -0.1"),
        ({"floor": 2}, "schedule.floor 2"),
        ({"floor": float("nan")}, "schedule.floor nan"),
    ],
)
def test_invalid_schedules_are_refused(options: dict, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        Warmup(**options)
