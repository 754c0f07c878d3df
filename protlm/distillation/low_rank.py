"""Low-rank adapters (LoRA, Hu et al. 2022) beside the projections of a model, which keeps its weights and their names.

W x + (alpha / r) B A x,  B = 0 at first
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from protlm.performer import Performer
from protlm.supervised.tuning.adapters import PROJECTIONS

_MODEL = "model."  # of the names in a checkpoint


class Adapter(nn.Module):
    """The adapter of one projection.

    Args:
        projection: whose outputs it changes, by a hook.
        rank, scale: r, and alpha / r.
    """

    def __init__(self, projection: nn.Linear, rank: int, scale: float) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.empty(rank, projection.in_features))
        self.b = nn.Parameter(torch.zeros(projection.out_features, rank))
        nn.init.kaiming_uniform_(self.a, math.sqrt(5))
        self.scale, self.active = scale, False
        projection.register_forward_hook(self.added)

    def added(self, projection: nn.Module, inputs: tuple[Tensor, ...], out: Tensor) -> Tensor:
        """The output of the projection with that of the adapter, if it is active."""
        if not self.active:
            return out
        return out + self.scale * (inputs[0] @ self.a.T.to(out) @ self.b.T.to(out))


class Adapters(nn.ModuleList):
    """The adapters of all projections of a model; they change nothing until they are activated and trained.

    Args:
        model: gets hooks.
        rank, alpha: r and alpha.
    """

    def __init__(self, model: Performer, rank: int, alpha: float) -> None:
        ends = tuple(f".{name}" for name in PROJECTIONS)
        found = {name: module for name, module in model.named_modules() if name.endswith(ends)}
        super().__init__(Adapter(module, rank, alpha / rank) for module in found.values())  # type: ignore[arg-type]
        self._weights = [f"{_MODEL}{name}.weight" for name in found]

    def activate(self, active: bool = True) -> None:
        """Adds adapters to the projections, or no longer."""
        for adapter in self:
            adapter.active = active  # type: ignore[assignment]

    def store(self, checkpoint: dict[str, Any], prefix: str) -> None:
        """Merges adapters into the weights of a checkpoint, which then are those of a model without; keeps both apart.

        Args:
            checkpoint: of Lightning.
            prefix: of the names of adapters.
        """
        state: dict[str, Tensor] = checkpoint["state_dict"]
        own = {name: state.pop(name) for name in list(state) if name.startswith(prefix)}
        base = {name: state[name] for name in self._weights}
        for number, (name, adapter) in enumerate(zip(self._weights, self, strict=True)):
            a, b = (own[f"{prefix}{number}.{part}"] for part in "ab")
            state[name] = base[name] + adapter.scale * (b @ a)  # type: ignore[operator]
        checkpoint["adapters"] = {"active": any(adapter.active for adapter in self), "weights": {**own, **base}}

    def restore(self, checkpoint: dict[str, Any]) -> None:
        """The reverse of `store`."""
        stored = checkpoint["adapters"]
        checkpoint["state_dict"] |= stored["weights"]
        self.activate(stored["active"])
