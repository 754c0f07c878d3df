"""Weights between those before and after fine-tuning.

A mixture of both is often better than either where the proteins to predict differ from those of training (WiSE-FT:
Wortsman et al. 2022); how much of the change is kept is decided on the validation part.
"""

import torch
from torch import Tensor, nn

FRACTIONS = (0.25, 0.5, 0.75, 1.0)
"""Of the change by fine-tuning."""


class Interpolation:
    """The trained weights of a module, from those that it has now.

    Args:
        module: about to be trained.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._before = {name: weight.detach().clone() for name, weight in self._trained().items()}
        self._after: dict[str, Tensor] = {}

    def _trained(self) -> dict[str, Tensor]:
        return {name: weight for name, weight in self._module.named_parameters() if weight.requires_grad}

    @torch.no_grad()
    def keep(self, fraction: float) -> None:
        """Sets the weights to those before plus a fraction of the change to those of the first call."""
        self._after = self._after or {name: weight.detach().clone() for name, weight in self._trained().items()}
        for name, weight in self._trained().items():
            after = self._after[name]
            weight.copy_(after if fraction == 1 else torch.lerp(self._before[name].to(after), after, fraction))
