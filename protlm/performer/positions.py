"""Positional encodings: sinusoids, which are added, and rotary positions, which rotate queries and keys."""

import math

import torch
from torch import Tensor

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines of the angles of rotary positions, (L, d/2) or (B, 1, L, d/2) each."""


def sinusoids(length: int, width: int, first: int = 0) -> Tensor:
    """(length, width) float32 for positions from `first`: sines in the even columns, cosines in the odd ones.

    Source: Vaswani et al. 2017, 3.5.
    """
    position = torch.arange(first, first + length)[:, None]
    angle = position * torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    table = torch.empty(length, width)
    table[:, 0::2], table[:, 1::2] = angle.sin(), angle.cos()
    return table


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021): rotates the pairs (x_i, x_{i + d/2}) of (B, H, L, d).

    Args:
        x: (B, H, L, d), queries or keys.
        cos, sin: (..., L, d/2), of the angles.
    """
    first, second = x.chunk(2, -1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), -1)
