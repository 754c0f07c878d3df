"""AdamW with a learning rate for the heads, and one that falls from layer to layer of the model."""

from typing import Any

from torch import nn
from torch.optim import AdamW

from protlm.errors import UserError
from protlm.training.optimizer import checked_numbers, fused_where_possible


def layerwise_adamw(
    module: nn.Module,
    lr: float = 2e-4,
    head_lr: float = 1e-3,
    layer_decay: float = 1.0,
    betas: tuple[float, float] = (0.9, 0.98),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
) -> AdamW:
    """AdamW of what is trained (Loshchilov & Hutter 2019), with discriminative learning rates (Howard & Ruder 2018).

    Args:
        module: with `model` and `heads`.
        lr: of the last block of the model.
        head_lr: of the heads.
        layer_decay: factor of the learning rate from each block to the one before, and to the embedding.
        betas, eps, weight_decay: as in `torch.optim.AdamW`; norms and biases do not decay.
    """
    checked_numbers(betas, lr=lr, head_lr=head_lr, eps=eps, weight_decay=weight_decay, layer_decay=layer_decay)
    if layer_decay > 1:
        raise UserError(f"optimizer.layer_decay {layer_decay}: expected at most 1")
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    depth = len(getattr(module, "blocks", ()))
    for name, weight in module.named_parameters():
        if not weight.requires_grad:
            continue
        rate = head_lr
        if name.startswith("model."):
            parts = name.split(".")
            layer = int(parts[2]) + 1 if parts[1] == "blocks" else depth if parts[1] == "norm" else 0
            rate = lr * layer_decay ** (depth - layer)
        decay = weight_decay if weight.ndim >= 2 else 0.0
        groups.setdefault((rate, decay), []).append(weight)
    made: list[dict[str, Any]] = [
        {"params": weights, "lr": rate, "weight_decay": decay} for (rate, decay), weights in groups.items()
    ]
    return AdamW(made, lr=lr, betas=betas, eps=eps, fused=fused_where_possible(module))
