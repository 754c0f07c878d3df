"""The heads of a language model: from representations to logits.

Legend: B batch, L length, D model width, V vocabulary.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from protlm.performer.config import PerformerConfig


class EsmHead(nn.Module):
    """The language-model head of ESM-2 (Lin et al. 2023): dense, GELU, LayerNorm, tied embedding weights."""

    def __init__(self, config: PerformerConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.width, config.width)
        self.norm = nn.LayerNorm(config.width, config.norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """(B, L, D) and the embedding (V, D) -> logits (B, L, V)."""
        return F.linear(self.norm(F.gelu(self.dense(x))), embedding, self.bias)


def head_of(config: PerformerConfig) -> nn.Module | None:
    """The head that a configuration names; "esmc" is that of ESM-2 with weights of its own."""
    if config.head == "none":
        return None
    if config.head == "esm":
        return EsmHead(config)
    if config.head == "linear":
        return nn.Linear(config.width, config.vocab_size)
    dense, norm = nn.Linear(config.width, config.width), nn.LayerNorm(config.width, config.norm_eps)
    return nn.Sequential(dense, nn.GELU(), norm, nn.Linear(config.width, config.vocab_size))
