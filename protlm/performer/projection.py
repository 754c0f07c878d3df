"""Random directions for FAVOR+: rows w_1 ... w_M whose marginals are standard Gaussian in d dimensions.

Legend: d head width, M features.
"""

import math

import numpy as np
import torch
from torch import Tensor


def iid_directions(num_features: int, head_dim: int, generator: torch.Generator) -> Tensor:
    """(M, d) float64, independent standard Gaussian rows."""
    return torch.randn(num_features, head_dim, generator=generator, dtype=torch.float64)


def orthogonal_directions(num_features: int, head_dim: int, generator: torch.Generator) -> Tensor:
    """(M, d) float64: blocks of d exactly orthogonal rows, each block Haar-distributed and independent of the others.

    The norms are those of independent Gaussian vectors (chi with d degrees of freedom), so each row alone is standard
    Gaussian and estimates stay unbiased. The QR decomposition of a Gaussian matrix is Haar only after its columns are
    multiplied by the signs of R's diagonal (Mezzadri 2007, "How to generate random matrices from the classical compact
    groups"); without that the estimates are biased. Source: Choromanski et al. 2021, section 2.4.
    """
    blocks = []
    for _ in range(math.ceil(num_features / head_dim)):
        gaussian = torch.randn(head_dim, head_dim, generator=generator, dtype=torch.float64)
        q, r = torch.linalg.qr(gaussian)
        blocks.append((q * torch.sign(torch.diagonal(r))).T)
    norms = torch.randn(num_features, head_dim, generator=generator, dtype=torch.float64).norm(dim=1, keepdim=True)
    return torch.cat(blocks)[:num_features] * norms


DIRECTIONS = {"iid": iid_directions, "orthogonal": orthogonal_directions}


def draw_directions(kind: str, num_features: int, head_dim: int, key: tuple[int, ...]) -> Tensor:
    """Directions (M, d) float32 that depend on `key` only: the same on every rank, device and day.

    Args:
        kind: "orthogonal" or "iid".
        num_features, head_dim: M and d.
        key: integers from 0, here (seed, layer, draw number).
    """
    if kind not in DIRECTIONS:
        raise ValueError(f"directions {kind!r}: expected one of {', '.join(DIRECTIONS)}")
    generator = torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))
    return DIRECTIONS[kind](num_features, head_dim, generator).float()
