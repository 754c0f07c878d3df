"""Attention to compare with, behind the interface of `FavorAttention`."""

import torch.nn.functional as F
from torch import Tensor, nn


class ExactAttention(nn.Module):
    """Softmax attention, quadratic in length, by PyTorch's `scaled_dot_product_attention`.

    Args:
        causal: position t sees positions up to t only.
    """

    def __init__(self, causal: bool = False) -> None:
        super().__init__()
        self.causal = causal

    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """As `FavorAttention.forward`, with exact softmax(q.k / sqrt(d))."""
        if key_mask is None or bool(key_mask.all()):
            return F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        mask = key_mask[:, None, None, :]
        if self.causal:
            length = q.shape[-2]
            mask = mask & mask.new_ones(length, length).tril()
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


class IdentityAttention(nn.Module):
    """Returns the values: what a model costs without attention, "OPT" in Choromanski et al. 2021, 4.1."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """v; arguments as in `FavorAttention.forward`."""
        return v
