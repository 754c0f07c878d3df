"""Linformer: keys and values of a sequence projected to a fixed number, by learned matrices.

Legend: B batch, H heads, L length, d head width, e value width, N longest length, R rank.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protlm.performer.kind import Kind, Place


@dataclass(frozen=True)
class Linformer(Kind):
    """Linformer attention (Wang et al. 2020).

    Args:
        rank: R, keys and values that those of a sequence are projected to.
    """

    unidirectional: ClassVar[bool] = False
    bounded: ClassVar[bool] = True
    rank: int = 128

    def module(self, place: Place) -> nn.Module:
        if place.causal:
            raise ValueError("Linformer mixes all positions of a sequence, so it cannot be causal")
        return LinformerAttention(place.max_length, self.rank)

    def operations(self, head_dim: int, length: int, causal: bool) -> int:
        return 8 * head_dim * self.rank  # keys, values, logits and read-out, 2 d R each


class LinformerAttention(nn.Module):
    """softmax(Q (E K)' / sqrt(d)) (F V), in time and memory linear in L; bidirectional.

    E and F are parameters of each layer, shared by its heads (the paper's headwise sharing). A shorter sequence takes
    their first L columns, so padding behind it changes nothing. They start normal with deviation 1 / sqrt(N): a
    projected key or value of the longest sequence then varies as much as a single one, whatever R and N are, and the
    logits start as large as those of exact attention.

    Args:
        max_length: N, columns of E and F.
        rank: R, rows of E and F.

    Source: Wang et al. 2020, "Linformer: Self-Attention with Linear Complexity", equation 7.
    """

    def __init__(self, max_length: int, rank: int = 128) -> None:
        super().__init__()
        self.keys = nn.Parameter(torch.empty(rank, max_length))
        self.values = nn.Parameter(torch.empty(rank, max_length))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws E and F from torch's global generator."""
        for weight in (self.keys, self.values):
            nn.init.normal_(weight, std=weight.shape[1] ** -0.5)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """As `FavorAttention.forward`; 0 where no key is real.

        Raises:
            ValueError: for a sequence longer than N.
        """
        length, longest = k.shape[2], self.keys.shape[1]
        if length > longest:
            raise ValueError(f"Linformer attention takes sequences up to {longest:,} positions, got {length:,}")
        if key_mask is not None:
            hidden = ~key_mask[:, None, :, None]
            k, v = k.masked_fill(hidden, 0), v.masked_fill(hidden, 0)
        k = self.keys[:, :length].to(k.dtype) @ k
        v = self.values[:, :length].to(v.dtype) @ v
        return F.scaled_dot_product_attention(q, k, v)

    def extra_repr(self) -> str:
        rank, longest = self.keys.shape
        return f"max_length={longest}, rank={rank}"
