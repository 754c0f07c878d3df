"""The tensors that attention gets: checks, and their dtype."""

import torch
from torch import Tensor


def check_operands(head_dim: int, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None) -> None:
    """Raises ValueError for shapes and dtypes of `FavorAttention.forward` that do not match."""
    if q.dim() != 4 or q.shape[-1] != head_dim or k.shape != q.shape or v.shape[:-1] != q.shape[:-1]:
        raise ValueError(
            f"expected q and k of one shape (B, H, L, {head_dim}) and v (B, H, L, e), got {tuple(q.shape)}, "
            f"{tuple(k.shape)}, {tuple(v.shape)}"
        )
    if not (q.is_floating_point() and k.is_floating_point() and v.is_floating_point()):
        raise ValueError(f"expected floating-point q, k and v, got {q.dtype}, {k.dtype}, {v.dtype}")
    if key_mask is not None and not isinstance(key_mask, Tensor):
        raise ValueError(f"expected key_mask to be a tensor, got {type(key_mask).__name__}")
    expected = (q.shape[0], q.shape[2])
    if key_mask is not None and (key_mask.shape != expected or key_mask.dtype != torch.bool):
        raise ValueError(
            f"expected a bool key_mask of shape {expected}, got {key_mask.dtype} of shape {tuple(key_mask.shape)}"
        )


def dtype_of_products(x: Tensor) -> torch.dtype:
    """Of what a linear layer makes of x: that of autocast, if it is enabled."""
    device = x.device.type
    autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if autocast else x.dtype
