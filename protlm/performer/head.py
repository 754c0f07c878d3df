"""The language-model head of ESM-2.

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
