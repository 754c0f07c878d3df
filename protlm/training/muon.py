"""Muon, in a precision that the hardware has."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of x -> a x + b x^3 + c x^5, which takes small singular values towards 1 in few steps (Jordan et al. 2024)."""
STEPS = 5


def orthogonalised(matrix: Tensor) -> Tensor:
    """The nearest matrix (m, n) with orthonormal rows or columns, roughly: singular values come to lie from 0.7 to 1.2.

    Computed in bfloat16, but in float32 on processors, many of which have no instructions for 16 bits.

    Source: Newton-Schulz iteration of Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks".
    """
    a, b, c = COEFFICIENTS
    x = matrix.to(torch.float32 if matrix.device.type == "cpu" else torch.bfloat16)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(STEPS):
        gram = x @ x.T
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return (x.T if tall else x).to(matrix.dtype)


class Muon(Optimizer):
    """Nesterov's momentum, each step made orthogonal (Jordan et al. 2024) and as large as one of Adam's.

    `torch.optim.Muon` does the same, always in bfloat16; its step took 0.74 s instead of 0.04 s for the matrices of
    the demo's model on a processor that has no instructions for that (docs/decisions.md).

    Args:
        weights: matrices, or groups of them.
        lr: learning rate; the root mean square of a step is 0.2 of it (Liu et al. 2025, "Muon is scalable for LLM
            training"), so that one learning rate serves this optimizer and Adam.
        momentum: of the running mean of gradients.
        weight_decay: the share of lr by which a weight shrinks.
        parts: factors of the steps of equal parts of a matrix's rows; one for all unless a group says otherwise.
    """

    def __init__(self, weights: Any, lr: float, momentum: float, weight_decay: float) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "parts": (1.0,)}
        super().__init__(weights, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    options = {name: group[name] for name in ("lr", "momentum", "weight_decay", "parts")}
                    self._move(weight, weight.grad, **options)
        return loss

    def _move(
        self, weight: Tensor, grad: Tensor, lr: float, momentum: float, weight_decay: float, parts: Sequence[float]
    ) -> None:
        state = self.state[weight]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(grad)
        mean = state["momentum_buffer"].lerp_(grad, 1 - momentum)
        update = orthogonalised(grad.lerp(mean, momentum))
        weight.mul_(1 - lr * weight_decay)
        if any(factor != 1 for factor in parts):  # not in place: chunks of a matrix that is shared out are copies
            update = torch.cat([rows * factor for rows, factor in zip(update.chunk(len(parts)), parts, strict=True)])
        weight.add_(update, alpha=-0.2 * lr * max(weight.shape) ** 0.5)
