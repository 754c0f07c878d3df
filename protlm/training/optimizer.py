"""Optimizers: AdamW, and Muon for the weight matrices of the blocks with AdamW for all other parameters."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Replicate
from torch.optim import AdamW, Optimizer

from protlm.errors import UserError
from protlm.training.orthogonal import arithmetic, orthogonalised, orthogonalised_batch

DECAY = ("matrices", "all")
FUSED = {"cpu", "cuda", "mps", "xpu"}
"""Devices for which PyTorch has a fused AdamW, several times faster than its loop over tensors."""
_LISTS: Any = torch  # whose operations on lists of tensors are not exported
_BATCH = 2**27
"""Most elements of the matrices that are orthogonalised together."""


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
        model: module to train.
        lr, betas, eps, weight_decay: as in `torch.optim.AdamW`.
        decay: "matrices" applies weight decay to embeddings and weight matrices, not to norms and biases; "all"
            applies it to every parameter, as in the code of Choromanski et al. 2021.
    """
    _check(decay, betas, lr=lr, eps=eps, weight_decay=weight_decay)
    return AdamW(_groups(model, weight_decay, decay), lr=lr, betas=betas, eps=eps, fused=fused_where_possible(model))


def muon(
    model: nn.Module,
    lr: float = 2e-3,
    momentum: float = 0.95,
    betas: tuple[float, float] = (0.9, 0.98),
    eps: float = 1e-9,
    weight_decay: float = 0.01,
    query_key: float = 0.5,
) -> "MuonWithAdamW":
    """Muon (Jordan et al. 2024) for the weight matrices of the blocks, AdamW for all other parameters.

    Muon's updates are scaled to the root mean square of AdamW's (Liu et al. 2025), so both share a learning rate.

    Args:
        model: a `Performer`.
        lr, weight_decay: for both optimizers; norms and biases do not decay.
        momentum: for Muon.
        betas, eps: for AdamW.
        query_key: factor of the learning rate for the query and key projections. The size of Muon's updates does not
            depend on that of the gradient; at the full rate the norms of queries and keys grow until random features
            no longer approximate softmax (docs/decisions.md).
    """
    _check("matrices", betas, lr=lr, momentum=momentum, eps=eps, weight_decay=weight_decay, query_key=query_key)
    matrices = {n: weight for n, weight in model.get_submodule("blocks").named_parameters() if weight.ndim == 2}
    qkv = [weight for name, weight in matrices.items() if name.endswith("attention.qkv.weight")]
    rest = [weight for name, weight in matrices.items() if not name.endswith("attention.qkv.weight")]
    groups = [{"params": rest}, {"params": qkv, "parts": (query_key, query_key, 1.0)}]
    by_muon = {id(weight) for weight in matrices.values()}
    others = _groups(model, weight_decay, "matrices", lambda weight: id(weight) not in by_muon)
    return MuonWithAdamW(
        Muon(groups, lr, momentum, weight_decay),
        AdamW(others, lr=lr, betas=betas, eps=eps, fused=fused_where_possible(model)),
    )


class Muon(Optimizer):
    """Nesterov momentum with orthogonalised updates (Jordan et al. 2024).

    The same as `torch.optim.Muon`, which always uses bfloat16: on a CPU without such instructions its step took 0.74 s
    instead of 0.04 s for the demo's model (docs/decisions.md). On accelerators, matrices of the same shape are computed
    together, since one alone has some fifty small operations, the launches of which take longer than what they compute.

    Args:
        params: weight matrices, or parameter groups of them. A group may have "parts": factors of the update for
            equal parts of a matrix's rows, (1.0,) by default.
        lr: learning rate; the root mean square of an update is 0.2 lr, as with Adam (Liu et al. 2025, "Muon is scalable
            for LLM training").
        momentum: decay of the running mean of gradients.
        weight_decay: fraction of lr by which a weight shrinks in each step.
    """

    def __init__(self, params: Any, lr: float, momentum: float, weight_decay: float) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "parts": (1.0,)}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        loss = _loss(closure)
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if weights and _in_batches(weights[0]):
                self._update_together(weights, group)
            else:
                for weight in weights:
                    self._update(weight, weight.grad, group)
        return loss

    def _update(self, weight: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        mean = self._mean(weight, grad).lerp_(grad, 1 - group["momentum"])
        update = grad.lerp(mean, group["momentum"])
        update = self._of_shard(update, group) if isinstance(update, DTensor) else self._scaled(update, group)
        weight.mul_(1 - group["lr"] * group["weight_decay"])
        weight.add_(update, alpha=-0.2 * group["lr"] * max(weight.shape) ** 0.5)

    def _update_together(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        gradients: list[Any] = [weight.grad for weight in weights]
        means, grads = _local(list(map(self._mean, weights, gradients))), _local(gradients)
        _LISTS._foreach_lerp_(means, grads, 1 - group["momentum"])
        updates = _LISTS._foreach_lerp(grads, means, group["momentum"])
        _LISTS._foreach_mul_(_local(weights), 1 - group["lr"] * group["weight_decay"])
        by_shape: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
        for weight, update in zip(weights, updates, strict=True):
            by_shape.setdefault(weight.shape, []).append((weight, update))
        for shape, pairs in by_shape.items():
            size = max(1, _BATCH // shape.numel())
            for first in range(0, len(pairs), size):
                some, theirs = zip(*pairs[first : first + size], strict=True)
                found = self._scaled(torch.stack([_whole(*pair) for pair in zip(some, theirs, strict=True)]), group)
                found = [_own(weight, update) for weight, update in zip(some, found.to(some[0].dtype), strict=True)]
                _LISTS._foreach_add_(_local(some), found, alpha=-0.2 * group["lr"] * max(shape) ** 0.5)

    def _mean(self, weight: Tensor, grad: Tensor) -> Tensor:
        """The running mean of the gradients of a weight."""
        state = self.state[weight]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(grad)
        return state["momentum_buffer"]

    def _of_shard(self, shard: DTensor, group: dict[str, Any]) -> Tensor:
        """Gathers the matrix once, on the device, and keeps this rank's part of the result."""
        narrow: Any = shard.to(arithmetic(shard))
        update = self._scaled(narrow.full_tensor().to(shard.dtype), group)
        whole = DTensor.from_local(update, shard.device_mesh, [Replicate()] * shard.device_mesh.ndim)
        return whole.redistribute(placements=shard.placements)

    def _scaled(self, matrix: Tensor, group: dict[str, Any]) -> Tensor:
        """The orthogonalised matrix (m, n), or (N, m, n), equal parts of its rows multiplied by the group's factors."""
        update, factors = (orthogonalised if matrix.ndim == 2 else orthogonalised_batch)(matrix), group["parts"]
        for rows, factor in zip(update.chunk(len(factors), dim=-2), factors, strict=True):
            if factor != 1:
                rows.mul_(factor)
        return update


def _in_batches(weight: Tensor) -> bool:
    return weight.device.type != "cpu"


def _local(tensors: Sequence[Any]) -> list[Tensor]:
    """What this rank holds of each."""
    return [one.to_local() if isinstance(one, DTensor) else one for one in tensors]


def _whole(weight: Tensor, update: Tensor) -> Tensor:
    """The update of a weight from that of each rank's shard, gathered once, on the device."""
    if not isinstance(weight, DTensor):
        return update
    shape = {"shape": weight.shape, "stride": weight.stride()}
    narrow: Any = update.to(arithmetic(update))
    return DTensor.from_local(narrow, weight.device_mesh, weight.placements, run_check=False, **shape).full_tensor()


def _own(weight: Tensor, update: Tensor) -> Tensor:
    """This rank's part of an update of a whole weight."""
    if not isinstance(weight, DTensor):
        return update
    whole = DTensor.from_local(update, weight.device_mesh, [Replicate()] * weight.device_mesh.ndim, run_check=False)
    return whole.redistribute(placements=weight.placements).to_local()


class MuonWithAdamW(Optimizer):
    """Two optimizers of different parameters as one, with which they share groups and states, for checkpoints."""

    def __init__(self, muon: Muon, adamw: AdamW) -> None:
        self._muon, self._adamw = muon, adamw
        super().__init__(muon.param_groups + adamw.param_groups, {})
        self._share()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        loss = _loss(closure)
        self._muon.step()
        self._adamw.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self._share()  # loading replaces groups and states

    def _share(self) -> None:
        count = len(self._muon.param_groups)
        self._muon.param_groups, self._adamw.param_groups = self.param_groups[:count], self.param_groups[count:]
        self._muon.state = self._adamw.state = self.state


def _loss(closure: Callable[[], Any] | None) -> Any:
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()


def _groups(
    model: nn.Module, weight_decay: float, decay: str, chosen: Callable[[nn.Parameter], bool] = lambda weight: True
) -> list[dict[str, Any]]:
    """Parameter groups with and without weight decay."""
    weights = [weight for weight in model.parameters() if chosen(weight)]
    decaying = [weight for weight in weights if decay == "all" or weight.ndim >= 2]
    rest = [weight for weight in weights if decay != "all" and weight.ndim < 2]
    groups = [{"params": decaying, "weight_decay": weight_decay}, {"params": rest, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def fused_where_possible(model: nn.Module) -> bool:
    """Whether PyTorch has a fused AdamW for the devices of all weights."""
    return {weight.device.type for weight in model.parameters()} <= FUSED


def _check(decay: str, betas: Sequence[float], **numbers: float) -> None:
    checked_numbers(betas, **numbers)
    if decay not in DECAY:
        raise UserError(f"optimizer.decay {decay!r}: expected 'matrices' or 'all'")


def checked_numbers(betas: Sequence[float], **numbers: float) -> None:
    """Raises a UserError for an option of an optimizer that is out of range."""
    for name, value in numbers.items():
        if not isinstance(value, float | int) or not 0 <= value < math.inf:
            raise UserError(f"optimizer.{name} {value!r}: expected a non-negative number")
    if "momentum" in numbers and numbers["momentum"] >= 1:
        raise UserError(f"optimizer.momentum {numbers['momentum']}: expected a number of at least 0 and below 1")
    pair = isinstance(betas, Sequence) and len(betas) == 2 and all(isinstance(beta, float | int) for beta in betas)
    if not pair or not all(0 <= beta < 1 for beta in betas):
        raise UserError(f"optimizer.betas {betas}: expected two numbers of at least 0 and below 1")
