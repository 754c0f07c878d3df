"""A Performer language model, to be read from top to bottom.

Legend: B batch, L length, H heads, d head width, D model width, V vocabulary.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from protlm.performer.attention import FavorAttention
from protlm.performer.baselines import ExactAttention, IdentityAttention
from protlm.performer.features import FEATURE_MAPS, FeatureMap, describe, from_description
from protlm.performer.projection import DIRECTIONS, NORMS
from protlm.performer.segments import restarted, within_segments

ATTENTION = ("exact", "opt", *FEATURE_MAPS)
POSITIONS = ("learned", "rotary")
ADDED = {"norms"}
"""Fields that configurations written by an earlier version do not have."""


@dataclass(frozen=True)
class PerformerConfig:
    """All that is needed to build the model again.

    Args:
        vocab_size: V.
        pad_id: the token whose positions are no keys.
        layers, heads, width, feed_forward: blocks; attention heads; D; hidden width of the feed-forward.
        attention: a `FeatureMap` of FAVOR+ or its name, such as "relu" or "softmax"; "exact"; or "opt", which
            returns the values as they are, to compare with.
        causal: unidirectional, for next-token prediction; else bidirectional, for masked residues.
        positions: "learned" (one vector per position, begun as sinusoids) or "rotary".
        max_length: positions with a vector of their own; longer sequences get plain sinusoids behind them. Rotary has
            no limit.
        num_features: random features M of FAVOR+.
        directions: "orthogonal", "simplex" or "iid".
        norms: of the directions, "chi" or "constant"; "regularised" always has "constant".
        dropout: of embeddings and of both branches of a block.
        feature_seed: of the random directions.
    """

    vocab_size: int
    pad_id: int
    layers: int = 6
    heads: int = 8
    width: int = 512
    feed_forward: int = 2048
    attention: str | FeatureMap = "relu"
    causal: bool = False
    positions: str = "learned"
    max_length: int = 1024
    num_features: int = 256
    directions: str = "orthogonal"
    norms: str = "chi"
    dropout: float = 0.1
    feature_seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.attention, FeatureMap) and self.attention not in ATTENTION:
            raise ValueError(f"model.attention {self.attention!r}: expected one of {', '.join(ATTENTION)}")
        if self.positions not in POSITIONS:
            raise ValueError(f"model.positions {self.positions!r}: expected one of {', '.join(POSITIONS)}")
        sizes = (self.layers, self.heads, self.width, self.feed_forward, self.max_length, self.num_features)
        if min(sizes) < 1 or self.feature_seed < 0:
            raise ValueError(
                "model.layers, heads, width, feed_forward, max_length, num_features: expected numbers from 1, and "
                "model.feature_seed from 0"
            )
        if self.directions not in DIRECTIONS:
            raise ValueError(f"model.directions {self.directions!r}: expected one of {', '.join(DIRECTIONS)}")
        if self.norms not in NORMS:
            raise ValueError(f"model.norms {self.norms!r}: expected one of {', '.join(NORMS)}")
        if self.width % (2 * self.heads):
            raise ValueError(
                f"model.width {self.width} with {self.heads} heads: expected heads of equal and even width"
            )
        if not 0 <= self.dropout < 1:
            raise ValueError(f"model.dropout {self.dropout}: expected a number from 0 to below 1")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**asdict(self), "attention": self.attention_name}

    @property
    def attention_name(self) -> str | dict[str, Any]:
        """The kind of attention, ready for JSON; see `describe`."""
        return describe(self.attention) if isinstance(self.attention, FeatureMap) else self.attention

    @property
    def feature_map(self) -> FeatureMap | None:
        """Of FAVOR+; None for another kind of attention."""
        if isinstance(self.attention, FeatureMap):
            return self.attention
        return FEATURE_MAPS.get(self.attention)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "PerformerConfig":
        """The reverse of `to_dict`; fields that an earlier version did not know have their defaults.

        Raises:
            ValueError: for a field that is missing or unknown.
        """
        known = {field.name for field in fields(cls)}
        if odd := (set(values) - known) | (known - ADDED - set(values)):
            raise ValueError(f"model configuration: fields {', '.join(sorted(odd))} are missing or unknown")
        if isinstance(kind := values.get("attention"), dict):
            values = {**values, "attention": from_description(kind)}
        return cls(**values)


def sinusoids(length: int, width: int) -> Tensor:
    """(length, width) float32: sines in the even columns, cosines in the odd ones; Vaswani et al. 2017, 3.5."""
    position = torch.arange(length)[:, None]
    angle = position * torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    table = torch.empty(length, width)
    table[:, 0::2], table[:, 1::2] = angle.sin(), angle.cos()
    return table


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotary positions (Su et al. 2021): turns pairs (x_i, x_{i + d/2}) of (B, H, L, d) by angles (..., L, d/2)."""
    first, second = x.chunk(2, -1)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), -1)


class SelfAttention(nn.Module):
    """Queries, keys and values from one product, any kind of attention, and the product that joins the heads."""

    def __init__(self, config: PerformerConfig, layer: int) -> None:
        super().__init__()
        self.heads = config.heads
        self.head_dim = config.width // config.heads
        self.rotary = config.positions == "rotary"
        self.qkv = nn.Linear(config.width, 3 * config.width)
        if config.feature_map is not None:
            self.attention: nn.Module = FavorAttention(
                self.head_dim,
                config.num_features,
                kernel=config.feature_map,
                directions=config.directions,
                causal=config.causal,
                seed=config.feature_seed,
                layer=layer,
                norms=config.norms,
            )
        else:
            self.attention = IdentityAttention() if config.attention == "opt" else ExactAttention(config.causal)
        self.out = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor, key_mask: Tensor | None, segments: Tensor | None = None) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        heads = self.qkv(x).unflatten(-1, (3, self.heads, self.head_dim))
        q, k, v = (part.transpose(1, 2) for part in heads.unbind(2))  # the gradients come back in one piece
        if self.rotary:
            frequency = 10_000.0 ** -(torch.arange(0, self.head_dim, 2, device=x.device) / self.head_dim)
            place = torch.arange(x.shape[1], device=x.device) if segments is None else restarted(segments)[:, None]
            angles = place[..., None] * frequency
            q, k = rotate(q, angles), rotate(k, angles)
        if segments is None:
            attended = self.attention(q, k, v, key_mask)
        else:
            attended = within_segments(self.attention, q, k, v, key_mask, segments)
        return self.out(attended.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Pre-norm: x + attention(norm(x)), then x + feed-forward(norm(x))."""

    def __init__(self, config: PerformerConfig, layer: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width)
        self.attention = SelfAttention(config, layer)
        self.feed_forward_norm = nn.LayerNorm(config.width)
        self.feed_forward = nn.Sequential(
            nn.Linear(config.width, config.feed_forward), nn.GELU(), nn.Linear(config.feed_forward, config.width)
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, key_mask: Tensor | None, segments: Tensor | None = None) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        x = x + self.dropout(self.attention(self.attention_norm(x), key_mask, segments))
        return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))


class Performer(nn.Module):
    """Tokens to logits.

    Weights start normal with deviation 0.02, those that write into the residual stream smaller by sqrt(2 layers), so
    that its variance does not grow with depth (Radford et al. 2019).
    """

    activation_checkpointing = False
    """Keep only the input of each block for the backward pass, and compute the block again there."""

    def __init__(self, config: PerformerConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.width, padding_idx=config.pad_id)
        if config.positions == "learned":
            self.position = nn.Parameter(sinusoids(config.max_length, config.width))
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, config.vocab_size)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draws all weights anew from torch's global generator."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)
        for name, parameter in self.named_parameters():
            if name.endswith(("attention.out.weight", "feed_forward.2.weight")):
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * self.config.layers))

    def redraw(self, draw_number: int) -> None:
        """Replaces the random directions of every layer; see `FavorAttention.redraw`."""
        for attention in self._favor():
            attention.redraw(draw_number)

    def share_observations(self) -> None:
        """Gives all ranks what rank 0 has observed for adaptive kernels: that alone is in a checkpoint."""
        for attention in self._favor():
            if attention.feature_map.adaptive:
                dist.broadcast(attention.moment, 0)
                dist.broadcast(attention.observed, 0)

    @property
    def draw_number(self) -> int:
        """Of the directions as they are; 0 without any."""
        return max((int(attention.draw_number) for attention in self._favor()), default=0)

    def _favor(self) -> Iterator[FavorAttention]:
        return (module for module in self.modules() if isinstance(module, FavorAttention))

    def hidden(self, tokens: Tensor, key_mask: Tensor | None = None, segments: Tensor | None = None) -> Tensor:
        """Representations (B, L, D) behind the last norm, from tokens (B, L) int64.

        Args:
            tokens: (B, L).
            key_mask: (B, L) bool, true where a token is real; by default all that is not padding.
            segments: (B, L) integers, equal within each of several sequences that share a row: attention stays within
                each, and positions begin anew, as if it stood alone. None for one sequence a row.
        """
        if key_mask is None:
            key_mask = tokens != self.config.pad_id
        x = self.embedding(tokens)
        if self.config.positions == "learned":
            positions = self._positions(tokens.shape[1])
            x = x + (positions if segments is None else positions[restarted(segments)])
        x = self.dropout(x)
        for block in self.blocks:
            if self.activation_checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, key_mask, segments, use_reentrant=False)
            else:
                x = block(x, key_mask, segments)
        return self.norm(x)

    def forward(self, tokens: Tensor, key_mask: Tensor | None = None, segments: Tensor | None = None) -> Tensor:
        """Logits (B, L, V); arguments as in `hidden`."""
        return self.head(self.hidden(tokens, key_mask, segments))

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy in nats over the targets (B, L) that are not -100; 0 if there are none."""
        flat = logits.float().flatten(0, 1), targets.flatten()
        return F.cross_entropy(*flat, reduction="sum") / (targets >= 0).sum().clamp(min=1)

    def _positions(self, length: int) -> Tensor:
        learned = self.config.max_length
        if length <= learned:
            return self.position[:length]
        beyond = sinusoids(length, self.config.width)[learned:]
        return torch.cat((self.position, beyond.to(self.position)))
