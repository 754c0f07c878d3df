"""Losses by hand, and that rows without a label have no part in them."""

import math

import pytest
import torch

from protlm.supervised.tuning.losses import class_weights, loss_of


@pytest.mark.parametrize(
    ("kind", "logits", "labels", "missing", "expected"),
    [
        ("classification", [[0.0, math.log(3)], [0.0, 0.0]], [1, 0], -100, (math.log(4 / 3) + math.log(2)) / 2),
        ("multilabel", [[0.0, 0.0]], [[1.0, 0.0]], math.nan, math.log(2)),
        ("regression", [[1.0], [4.0]], [2.0, 2.0], math.nan, (1 + 4) / 2 / 4),
        ("ranking", [[1.0], [1.0]], [2.0, 3.0], math.nan, math.log(2)),
    ],
)
def test_losses_by_hand(kind, logits, labels, missing, expected):
    logits, labels = torch.tensor(logits, requires_grad=True), torch.tensor(labels)
    assert loss_of(kind, logits, labels, spread=2.0).item() == pytest.approx(expected)
    unknown = torch.full_like(labels[:1], missing)
    more = torch.cat((logits, torch.full_like(logits[:1], 7.0)))
    assert loss_of(kind, more, torch.cat((labels, unknown)), spread=2.0).item() == pytest.approx(expected)
    nothing = loss_of(kind, logits, torch.full_like(labels, missing))
    assert nothing.item() == 0
    nothing.backward()
    assert not logits.grad.any()


def test_a_right_order_has_a_lower_loss_than_a_wrong_one():
    labels = torch.tensor([1.0, 2.0, 3.0])
    right, wrong = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[2.0], [1.0], [0.0]])
    assert loss_of("ranking", right, labels) < loss_of("ranking", wrong, labels)


def test_weights_make_classes_count_equally():
    y = torch.tensor([0] * 9 + [2])
    assert (
        class_weights("classification", torch.cat((y, y.new_tensor([-100]))), 3).tolist()
        == class_weights("classification", y, 3).tolist()
    )
    weight = class_weights("classification", y, 3)
    counts = torch.bincount(y, minlength=3)
    assert weight[0] * counts[0] == pytest.approx(weight[2] * counts[2])
    assert class_weights("regression", y.float(), 1) is None
    labels = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    assert class_weights("multilabel", labels, 2).tolist() == [3.0, 3.0]
