"""What a student is compared by: errors of attention and of representations, and divergence."""

import copy

import pytest
import torch

from protlm.distillation.matching import attention_errors, divergence, hidden_errors, recorded, relative
from protlm.performer import Performer
from protlm.performer.hybrid import Hybrid


@pytest.fixture
def teacher(tiny_model: Performer) -> Performer:
    tiny_model.switch_attention("exact")
    with torch.no_grad():
        for block in tiny_model.blocks:
            block.attention.qkv.weight.mul_(20)  # sharp attention
    return tiny_model


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randint(4, 24, (2, 40), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 40, dtype=torch.bool)
    mask[1, 30:] = False
    return tokens.masked_fill(~mask, 1), mask


def student_of(teacher: Performer, block: int = 4) -> Performer:
    student = copy.deepcopy(teacher)
    student.switch_attention(Hybrid(block=block), 16)
    return student


def test_a_student_that_attends_like_its_teacher_has_no_error(teacher, batch) -> None:
    """All keys are near in blocks of 20."""
    student = student_of(teacher, 20)
    assert float(attention_errors(teacher, student, *batch).detach().max()) < 1e-10
    layers = range(3)
    taught, learned = (model.representations(batch[0], layers, batch[1]) for model in (teacher, student))
    errors = hidden_errors(taught, learned, batch[1]).detach()
    assert errors.shape == (2, 2)
    assert float(errors.max()) < 1e-10
    logits = [model(*batch).detach() for model in (teacher, student)]
    assert abs(float(divergence(*logits, batch[1]))) < 1e-6


def test_only_features_get_gradients_from_attention(teacher, batch) -> None:
    student = student_of(teacher)
    errors = attention_errors(teacher, student, *batch)
    assert bool((errors > 0.01).all())
    errors.sum().backward()
    found = {name for name, weight in student.named_parameters() if weight.grad is not None and weight.grad.any()}
    assert found
    assert all(".features." in name for name in found)


def test_errors_fall_when_features_are_trained(teacher, batch) -> None:
    student = student_of(teacher)
    optimizer = torch.optim.Adam([w for name, w in student.named_parameters() if ".features." in name], 0.03)
    errors = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = attention_errors(teacher, student, *batch).mean()
        loss.backward()
        optimizer.step()
        errors.append(float(loss.detach()))
    assert errors[-1] < errors[0] / 4


def test_padding_does_not_count(teacher, batch) -> None:
    tokens, mask = batch
    student = student_of(teacher)
    both = attention_errors(teacher, student, tokens, mask).detach()
    alone = [
        attention_errors(teacher, student, tokens[:1], mask[:1]).detach(),
        attention_errors(teacher, student, tokens[1:, :30], mask[1:, :30]).detach(),
    ]
    torch.testing.assert_close(both, torch.stack(alone).mean(0), rtol=1e-4, atol=1e-6)


def test_one_is_the_distance_of_the_mean() -> None:
    target = torch.randn(2, 9, 5, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 9, dtype=torch.bool)
    mean = target.mean(1, keepdim=True).expand_as(target)
    torch.testing.assert_close(relative(mean - target, target, mask), torch.ones(2))


def test_hooks_are_removed(teacher, batch) -> None:
    with recorded(teacher) as calls:
        teacher(*batch)
    teacher(*batch)
    assert len(calls) == 2
    assert calls[0].out.shape == calls[0].v.shape == (2, 2, 40, 8)
