"""Weights between those before and after training."""

import torch
from torch import nn

from protlm.supervised.tuning.interpolation import Interpolation


def test_a_fraction_of_the_change_is_kept() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    module[0].requires_grad_(False)
    frozen, before = module[0].weight.clone(), module[1].weight.clone()
    between = Interpolation(module)
    with torch.no_grad():
        module[1].weight += torch.randn(2, 2)
    after = module[1].weight.clone()
    for fraction in (0.25, 1.0, 0.5):
        between.keep(fraction)
        torch.testing.assert_close(module[1].weight, before + fraction * (after - before))
    between.keep(1.0)
    assert torch.equal(module[1].weight, after)
    assert torch.equal(module[0].weight, frozen)
