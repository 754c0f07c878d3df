"""Positional encodings: sinusoids, which are added, and rotary positions, which rotate queries and keys."""

import math

import torch
from torch import Tensor

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines of the angles of rotary positions, (L, d/2) or (B, 1, L, d/2) each."""


def sinusoids(length: int, width: int, first: int | Tensor = 0) -> Tensor:
    """(length, width) float32 for positions from `first`: sines in the even columns, cosines in the odd ones.

    `first` may be a tensor () int64, on whose device the result then is. Source: Vaswani et al. 2017, 3.5.
    """
    device = first.device if isinstance(first, Tensor) else None
    position = (first + torch.arange(length, device=device))[:, None]
    angle = position * torch.exp(torch.arange(0, width, 2, device=device) * (-math.log(10_000.0) / width))
    table = torch.empty(length, width, device=device)
    table[:, 0::2], table[:, 1::2] = angle.sin(), angle.cos()
    return table


def extrapolated(learned: Tensor, first: int | Tensor, count: int) -> Tensor:
    """(count, D): positions from `first` of those that a model has learned (max_length, D), sinusoids beyond.

    `first` may be a tensor () int64 on the model's device; the host does not ask for its value.
    """
    length, width = learned.shape
    if isinstance(first, Tensor):
        at = first + torch.arange(count, device=first.device)
        beyond = sinusoids(count, width, first).to(learned)
        return torch.where((at < length)[:, None], learned[at.clamp(max=length - 1)], beyond)
    stop = first + count
    if stop <= length:
        return learned[first:stop]
    beyond = sinusoids(stop - max(first, length), width, max(first, length))
    return torch.cat((learned[first:], beyond.to(learned)))


def rotary(position: Tensor, head_dim: int, dtype: torch.dtype) -> Rotation:
    """Of rotary positions (..., L) int64, for heads of width d; the frequencies are rounded to `dtype`."""
    frequency = 10_000.0 ** -(torch.arange(0, head_dim, 2, device=position.device) / head_dim)
    angles = position[..., None] * rounded(frequency, dtype)
    return angles.cos(), angles.sin()


def rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Float32 numbers in the normal range of `dtype`, rounded to its precision, as by `x.to(dtype).float()`.

    Compilers remove a conversion there and back, so this is arithmetic (Dekker 1971, "A floating-point technique for
    extending the available precision").
    """
    dropped = round(math.log2(torch.finfo(dtype).eps / torch.finfo(torch.float32).eps))
    if not dropped:
        return x
    large = x * (2**dropped + 1)
    return large - (large - x)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021): rotates the pairs (x_i, x_{i + d/2}) of (B, H, L, d).

    Args:
        x: (B, H, L, d), queries or keys.
        cos, sin: (..., L, d/2), of the angles.
    """
    first, second = x.chunk(2, -1)
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), -1)
