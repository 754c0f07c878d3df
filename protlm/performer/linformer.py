"""Linformer: learned matrices project the keys and values of a sequence to a fixed number.

Legend: B batch, H heads, L length, d head width, e value width, N longest length, R rank.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protlm.performer.kind import AttentionSettings, Kind
from protlm.performer.projection import whole_number


@dataclass(frozen=True)
class Linformer(Kind):
    """Linformer attention (Wang et al. 2020).

    Args:
        rank: R, number of projected keys and values.
    """

    unidirectional: ClassVar[bool] = False
    bounded: ClassVar[bool] = True
    rank: int = 128

    def __post_init__(self) -> None:
        whole_number("rank", self.rank, 1)

    def module(self, settings: AttentionSettings) -> nn.Module:
        if settings.causal:
            raise ValueError("Linformer mixes all positions of a sequence, so it cannot be causal")
        return LinformerAttention(settings.max_length, self.rank)

    def operations(self, settings: AttentionSettings, length: int) -> int:
        return 8 * settings.head_dim * self.rank  # keys, values, logits and read-out, 2 d R each


class LinformerAttention(nn.Module):
    """softmax(Q (E K)' / sqrt(d)) (F V), in time and memory linear in L; bidirectional.

    E and F are parameters of each layer, shared by its heads (the paper's headwise sharing). A shorter sequence uses
    their first L columns, so padding after it changes nothing. They are initialised from a normal distribution with
    standard deviation 1 / sqrt(N): projected keys and values of the longest sequence then have the variance of single
    ones, for any R and N, and the logits the scale of those of exact attention.

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
        """Like `FavorAttention.forward`; 0 if no key is real."""
        length, longest = k.shape[2], self.keys.shape[1]
        if length > longest:
            raise ValueError(f"Linformer attention accepts sequences of up to {longest:,} positions, got {length:,}")
        if key_mask is not None:
            hidden = ~key_mask[:, None, :, None]
            k, v = k.masked_fill(hidden, 0), v.masked_fill(hidden, 0)
        k = self.keys[:, :length].to(k.dtype) @ k
        v = self.values[:, :length].to(v.dtype) @ v
        return F.scaled_dot_product_attention(q, k, v)

    def extra_repr(self) -> str:
        rank, longest = self.keys.shape
        return f"max_length={longest}, rank={rank}"
