"""A layer of a Performer: self-attention and a feed-forward network.

Legend: B batch, L length, D model width.
"""

from typing import Any

import torch
from torch import Tensor, nn

from protlm.performer.config import PerformerConfig
from protlm.performer.feed_forward import feed_forward
from protlm.performer.mixed import attention_of
from protlm.performer.positions import Rotation, rotate
from protlm.performer.segments import Plan, Segments, attend


class SelfAttention(nn.Module):
    """One projection to queries, keys and values, any kind of attention, and the output projection."""

    def __init__(self, config: PerformerConfig, layer: int) -> None:
        super().__init__()
        self.heads = config.heads
        self.head_dim = config.width // config.heads
        self.qkv = nn.Linear(config.width, 3 * config.width)
        if config.qk_norm:
            self.q_norm = nn.LayerNorm(config.width, config.norm_eps, bias=False)
            self.k_norm = nn.LayerNorm(config.width, config.norm_eps, bias=False)
        self.qk_norm = config.qk_norm
        self.attention = attention_of(config, layer)
        self.out = nn.Linear(config.width, config.width)

    def forward(
        self, x: Tensor, key_mask: Tensor | None, segments: Segments | Plan = None, rotation: Rotation | None = None
    ) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        attended = attend(self.attention, *self._heads(x, rotation), key_mask, segments)
        return self.out(attended.transpose(1, 2).flatten(2))

    def step(self, x: Tensor, state: Any, rotation: Rotation | None) -> tuple[Tensor, Any]:
        """The next positions (B, L, D) of a causal model, and the state after them."""
        step: Any = self.attention.step
        attended, state = step(*self._heads(x, rotation), state)
        return self.out(attended.transpose(1, 2).flatten(2)), state

    def _heads(self, x: Tensor, rotation: Rotation | None) -> tuple[Tensor, Tensor, Tensor]:
        projected = self.qkv(x)
        if self.qk_norm:
            q, k, v = projected.chunk(3, -1)
            projected = torch.cat((self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype), v), -1)
        heads = projected.unflatten(-1, (3, self.heads, self.head_dim))
        q, k, v = (part.transpose(1, 2) for part in heads.unbind(2))  # so that their gradients arrive as one tensor
        return (q, k, v) if rotation is None else (rotate(q, *rotation), rotate(k, *rotation), v)


class Block(nn.Module):
    """Pre-norm: x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(self, config: PerformerConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width, config.norm_eps)
        self.attention = SelfAttention(config, layer)
        self.feed_forward_norm = nn.LayerNorm(config.width, config.norm_eps)
        self.feed_forward = feed_forward(config.width, config.feed_forward, config.activation)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, key_mask: Tensor | None, segments: Segments | Plan = None, rotation: Rotation | None = None
    ) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        x = x + self.dropout(self.attention(self.attention_norm(x), key_mask, segments, rotation))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))

    def step(self, x: Tensor, state: Any, rotation: Rotation | None) -> tuple[Tensor, Any]:
        """The next positions (B, L, D) of a causal model, and the state after them."""
        attended, state = self.attention.step(self.attention_norm(x), state, rotation)
        x = x + attended
        return x + self.feed_forward(self.feed_forward_norm(x)), state
