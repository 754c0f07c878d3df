"""PyTorch's flash attention for sequences of several lengths, which computes packed batches.

Legend: L length, H heads, d head width.
"""

import importlib
import inspect
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from protlm.performer.segments import Packed

Kernel = Callable[..., Tensor]
_WIDEST = 192  # for wider heads, not all cards compute gradients


def fits(q: Tensor, v: Tensor) -> bool:
    """Whether the kernel computes queries and values of such dtypes and widths."""
    short = q.dtype in (torch.bfloat16, torch.float16) and v.dtype == q.dtype
    return short and q.shape[-1] == v.shape[-1] <= _WIDEST and q.shape[-1] % 8 == 0


def capable(device: torch.device) -> bool:
    """Whether PyTorch has flash attention for a device."""
    if device.type != "cuda" or torch.version.hip or not torch.backends.cuda.is_flash_attention_available():
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


@cache
def kernel() -> Kernel | None:
    """`varlen_attn`, in PyTorch from 2.10 on; None without it, or if it has no windows, by which causality is said.

    Imported when it is needed, since it imports TorchDynamo, which takes seconds.
    """
    try:
        attention: Kernel = importlib.import_module("torch.nn.attention.varlen").varlen_attn
    except ImportError:
        return None
    return attention if "window_size" in inspect.signature(attention).parameters else None


def kernel_for(device: torch.device) -> Kernel | None:
    """`varlen_attn`, if it computes something on a device."""
    return kernel() if capable(device) else None


def varlen_attention(kernel: Kernel, q: Tensor, k: Tensor, v: Tensor, packed: Packed, causal: bool) -> Tensor:
    """Softmax attention (1, H, L, d) within each sequence of a packed batch; q, k and v are (1, H, L, d)."""
    rows = (x.squeeze(0).transpose(0, 1) for x in (q, k, v))
    edges, longest = packed
    window = (-1, 0) if causal else (-1, -1)
    return kernel(*rows, edges, edges, longest, longest, window_size=window).transpose(0, 1).unsqueeze(0)
