"""Low-rank adapters: what they change, and checkpoints with them merged."""

import copy

import pytest
import torch

from protlm.distillation.low_rank import Adapters
from protlm.distillation.stages import stage_schedule, two_rate_adamw
from protlm.performer import Performer

TOKENS = torch.randint(4, 24, (2, 30), generator=torch.Generator().manual_seed(0))


class Task(torch.nn.Module):
    """A model with adapters, by the names that they have in a checkpoint."""

    def __init__(self, model: Performer) -> None:
        super().__init__()
        self.model, self.adapters = model, Adapters(model, 3, 6.0)


@pytest.fixture
def task(tiny_model: Performer) -> Task:
    """With adapters as after some training."""
    task = Task(tiny_model)
    with torch.no_grad():
        for adapter in task.adapters:
            torch.nn.init.normal_(adapter.b, generator=torch.Generator().manual_seed(1))
    return task


def test_new_and_inactive_adapters_change_nothing(tiny_model: Performer, task: Task) -> None:
    plain = copy.deepcopy(tiny_model)(TOKENS)
    torch.testing.assert_close(task.model(TOKENS), plain, rtol=0, atol=0)
    new = Task(copy.deepcopy(tiny_model))
    new.adapters.activate()
    torch.testing.assert_close(new.model(TOKENS), plain, rtol=0, atol=0)


def test_a_checkpoint_has_them_merged_and_is_restored_to_the_bit(task: Task) -> None:
    assert len(task.adapters) == 4 * len(task.model.blocks)
    task.adapters.activate()
    expected, before = task.model(TOKENS), {name: x.clone() for name, x in task.state_dict().items()}
    checkpoint = {"state_dict": dict(before)}
    task.adapters.store(checkpoint, "adapters.")
    merged = {name.removeprefix("model."): weight for name, weight in checkpoint["state_dict"].items()}
    task.adapters.activate(False)
    other = task.model(TOKENS)
    assert not torch.allclose(other, expected, atol=1e-3)
    plain = Performer(task.model.config).eval()
    plain.load_state_dict(merged)
    torch.testing.assert_close(plain(TOKENS), expected, rtol=1e-4, atol=1e-5)
    task.adapters.restore(checkpoint)
    assert all(adapter.active for adapter in task.adapters)
    assert checkpoint["state_dict"].keys() == before.keys()
    assert all(torch.equal(weight, before[name]) for name, weight in checkpoint["state_dict"].items())


def test_a_copy_has_adapters_of_its_own(task: Task) -> None:
    task.adapters.activate()
    other = copy.deepcopy(task)
    expected = task.model(TOKENS)
    with torch.no_grad():
        for adapter in task.adapters:
            adapter.b.zero_()
    torch.testing.assert_close(other.model(TOKENS), expected, rtol=0, atol=0)


def test_they_learn_in_the_last_stage_only(task: Task) -> None:
    optimizer = two_rate_adamw(task, lr=1e-3, adapters_lr=1e-2)
    groups = {group["part"]: number for number, group in enumerate(optimizer.param_groups)}
    assert list(groups) == ["weights", "adapters"]  # FAVOR+ has no learned features
    schedule = stage_schedule(optimizer, total=8, match=2, tune=4, warmup=1)
    rates = []
    for _ in range(8):
        rates.append(optimizer.param_groups[groups["adapters"]]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:4] == [0] * 4
    assert rates[4] == 1e-2
