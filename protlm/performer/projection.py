"""Random directions for FAVOR+: rows w_1 ... w_M, and their norms.

Legend: d head width, M directions. With norms "chi" each row is marginally standard Gaussian for every kind of
directions, so estimates of the softmax kernel are unbiased.
"""

import math

import numpy as np
import torch
from torch import Tensor


def haar(dim: int, generator: torch.Generator) -> Tensor:
    """(d, d) float64: a uniformly distributed orthogonal matrix.

    The Q of a Gaussian matrix is uniform only after its columns are multiplied by the signs of R's diagonal (Mezzadri
    2007, "How to generate random matrices from the classical compact groups"); without that, estimates are biased.
    """
    q, r = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=torch.float64, device="cpu"))
    return q * torch.sign(torch.diagonal(r))


def iid(count: int, dim: int, generator: torch.Generator) -> Tensor:
    """(M, d) float64: independent unit vectors."""
    rows = torch.randn(count, dim, generator=generator, dtype=torch.float64, device="cpu")
    return rows / rows.norm(dim=1, keepdim=True)


def orthogonal(count: int, dim: int, generator: torch.Generator) -> Tensor:
    """(M, d) float64: blocks of d orthonormal rows, each block Haar-distributed; Choromanski et al. 2021, 2.4."""
    return torch.cat([haar(dim, generator) for _ in range(math.ceil(count / dim))])[:count]


def simplex(count: int, dim: int, generator: torch.Generator) -> Tensor:
    """(M, d) float64: randomly rotated blocks of d unit rows with inner products -1 / (d - 1); Reid et al. 2023."""
    if dim == 1:
        return orthogonal(count, dim, generator)
    corners = (torch.eye(dim, dtype=torch.float64, device="cpu") - 1 / dim) * math.sqrt(dim / (dim - 1))
    return torch.cat([corners @ haar(dim, generator) for _ in range(math.ceil(count / dim))])[:count]


def chi(count: int, dim: int, generator: torch.Generator) -> Tensor:
    """(M, 1) float64: the norms of independent standard Gaussian vectors."""
    return torch.randn(count, dim, generator=generator, dtype=torch.float64, device="cpu").norm(dim=1, keepdim=True)


def constant(count: int, dim: int, generator: torch.Generator) -> Tensor:
    """(M, 1) float64: sqrt(d) exactly; Choromanski et al. 2021, Theorem 1."""
    return torch.full((count, 1), math.sqrt(dim), dtype=torch.float64, device="cpu")


DIRECTIONS = {"iid": iid, "orthogonal": orthogonal, "simplex": simplex}
NORMS = {"chi": chi, "constant": constant}


def draw_directions(kind: str, norms: str, num_features: int, head_dim: int, key: tuple[int, ...]) -> Tensor:
    """Directions (M, d) float64 that depend on `key` only: the same on every rank and device.

    Args:
        kind: "orthogonal", "simplex" or "iid".
        norms: "chi" or "constant".
        num_features, head_dim: M and d.
        key: non-negative integers, here (seed, layer, draw number).
    """
    if kind not in DIRECTIONS:
        raise ValueError(f"directions {kind!r}: expected one of {', '.join(DIRECTIONS)}")
    if norms not in NORMS:
        raise ValueError(f"norms {norms!r}: expected one of {', '.join(NORMS)}")
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))
    directions = DIRECTIONS[kind](num_features, head_dim, generator)
    return directions * NORMS[norms](num_features, head_dim, generator)


def whole_number(name: str, value: object, least: int) -> None:
    """Raises ValueError unless the value is an integer of at least `least`."""
    if type(value) is not int or value < least:
        raise ValueError(f"{name} {value!r}: expected an integer of at least {least}")
