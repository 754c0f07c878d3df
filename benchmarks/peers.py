"""Attention of other packages, if they are installed, for the comparison on a GPU.

Each takes q, k, v of 8 x 64: (B, H, L, 64), and returns (B, H, L, 64).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from protlm.performer.attention import FavorAttention
from protlm.performer.features import Generalised

FEATURES, WIDTH = 128, 64


def performer_pytorch(causal: bool, device: torch.device) -> Callable[..., Tensor] | None:
    """performer-pytorch's softmax attention, in float32."""
    try:
        from performer_pytorch import FastAttention
    except ImportError:
        return None
    module = FastAttention(dim_heads=WIDTH, nb_features=FEATURES, causal=causal, no_projection=False).to(device)
    return lambda q, k, v: module(q.float(), k.float(), v.float())


def flash_linear_attention(causal: bool, device: torch.device) -> Callable[..., Tensor] | None:
    """ReLU features in memory, by PyTorch, and flash-linear-attention's causal linear attention of them."""
    if not causal:
        return None
    try:
        from fla.ops.linear_attn import chunk_linear_attn
    except ImportError:
        return None
    attention = FavorAttention(WIDTH, FEATURES, "relu", causal=True).to(device)
    directions, epsilon = attention.directions * WIDTH**-0.25, Generalised("relu").epsilon

    def features(x: Tensor) -> Tensor:
        """(B, L, H, M), the order of fla."""
        return (x.transpose(1, 2) @ directions.to(x.dtype).T).relu() + epsilon

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out, _ = chunk_linear_attn(features(q), features(k), v.transpose(1, 2), scale=1.0, normalize=True)
        return out.transpose(1, 2)

    return attend
