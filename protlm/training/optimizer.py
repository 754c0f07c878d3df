"""Optimizers for a model: which weights decay, and Muon beside AdamW."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from protlm.errors import UserError
from protlm.training.muon import Muon

DECAY = ("matrices", "all")
FUSED = {"cpu", "cuda", "mps", "xpu"}
"""Devices on which PyTorch has AdamW as one kernel, several times faster than its loop over tensors."""


def adamw(
    model: nn.Module,
    lr: float = 2e-3,
    betas: tuple[float, float] = (0.9, 0.98),
    eps: float = 1e-9,
    weight_decay: float = 0.01,
    decay: str = "matrices",
) -> AdamW:
    """AdamW (Loshchilov & Hutter 2019).

    Args:
        model: whose parameters are trained.
        lr, betas, eps, weight_decay: as in `torch.optim.AdamW`.
        decay: "matrices" lets embeddings and the weights of products decay, and leaves out norms and biases; "all"
            lets every parameter decay, as in the code of Choromanski et al. 2021.
    """
    _check(decay, betas, lr=lr, eps=eps, weight_decay=weight_decay)
    return AdamW(_groups(model, weight_decay, decay), lr=lr, betas=betas, eps=eps, fused=_fused(model))


def muon(
    model: nn.Module,
    lr: float = 2e-3,
    momentum: float = 0.95,
    betas: tuple[float, float] = (0.9, 0.98),
    eps: float = 1e-9,
    weight_decay: float = 0.01,
    query_key: float = 0.5,
) -> "MuonWithAdamW":
    """Muon (Jordan et al. 2024) for the matrices inside the blocks, AdamW for all else.

    Muon's steps are scaled to the root mean square of AdamW's (Liu et al. 2025), so one learning rate serves both.

    Args:
        model: a `Performer`.
        lr, weight_decay: of both; norms and biases do not decay.
        momentum: of Muon.
        betas, eps: of AdamW.
        query_key: share of lr for the weights of queries and keys. Muon's steps are as large for a small gradient as
            for a large one; at the full rate norms grow to where random features no longer estimate softmax
            (docs/decisions.md).
    """
    _check("matrices", betas, lr=lr, momentum=momentum, eps=eps, weight_decay=weight_decay, query_key=query_key)
    matrices = {n: weight for n, weight in model.get_submodule("blocks").named_parameters() if weight.ndim == 2}
    joint = [weight for name, weight in matrices.items() if name.endswith("attention.qkv.weight")]
    rest = [weight for name, weight in matrices.items() if not name.endswith("attention.qkv.weight")]
    groups = [{"params": rest}, {"params": joint, "parts": (query_key, query_key, 1.0)}]
    inside = {id(weight) for weight in matrices.values()}
    others = _groups(model, weight_decay, "matrices", lambda weight: id(weight) not in inside)
    return MuonWithAdamW(
        Muon(groups, lr, momentum, weight_decay),
        AdamW(others, lr=lr, betas=betas, eps=eps, fused=_fused(model)),
    )


class MuonWithAdamW(Optimizer):
    """Two optimizers of different parameters as one, for schedules and checkpoints.

    Args:
        muon, adamw: the two; their groups and states are shared with this one.
    """

    def __init__(self, muon: Muon, adamw: AdamW) -> None:
        self._muon, self._adamw = muon, adamw
        super().__init__(muon.param_groups + adamw.param_groups, {})
        self._share()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._muon.step()
        self._adamw.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()  # it has made new groups and states

    def _share(self) -> None:
        count = len(self._muon.param_groups)
        self._muon.param_groups, self._adamw.param_groups = self.param_groups[:count], self.param_groups[count:]
        self._muon.state = self._adamw.state = self.state


def _groups(
    model: nn.Module, weight_decay: float, decay: str, chosen: Callable[[nn.Parameter], bool] = lambda weight: True
) -> list[dict[str, Any]]:
    """Parameter groups with and without decay."""
    weights = [weight for weight in model.parameters() if chosen(weight)]
    decaying = [weight for weight in weights if decay == "all" or weight.ndim >= 2]
    rest = [weight for weight in weights if decay != "all" and weight.ndim < 2]
    groups = [{"params": decaying, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _fused(model: nn.Module) -> bool:
    return {weight.device.type for weight in model.parameters()} <= FUSED


def _check(decay: str, betas: Sequence[float], **numbers: float) -> None:
    for name, value in numbers.items():
        if not isinstance(value, float | int) or not 0 <= value < math.inf:
            raise UserError(f"optimizer.{name} {value!r}: expected a number from 0")
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise UserError(f"optimizer.betas {betas}: expected two numbers from 0 to below 1")
    if decay not in DECAY:
        raise UserError(f"optimizer.decay {decay!r}: expected 'matrices' or 'all'")
