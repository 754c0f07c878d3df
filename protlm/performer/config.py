"""All that is needed to build a model again."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from protlm.performer.features import FeatureMap
from protlm.performer.kind import Kind
from protlm.performer.kinds import ATTENTION, describe, from_description
from protlm.performer.projection import DIRECTIONS, NORMS

POSITIONS = ("learned", "rotary", "both")
HEADS = ("linear", "esm")
ROUNDED = ("float32", "float16", "bfloat16")
ADDED = {"norms", "norm_eps", "head", "start_id", "zeroed_id", "rotary_dtype", "local_heads", "local_window"}
"""Fields that configurations written by an earlier version do not have."""

WHOLE = (
    *("vocab_size", "pad_id", "layers", "heads", "width", "feed_forward", "max_length", "num_features"),
    *("local_heads", "local_window", "feature_seed", "start_id"),
)
"""Fields that are whole numbers."""


@dataclass(frozen=True)
class PerformerConfig:
    """All that is needed to build the model again.

    Args:
        vocab_size: V.
        pad_id: the token whose positions are no keys.
        layers, heads, width, feed_forward: blocks; attention heads; D; hidden width of the feed-forward.
        attention: a `FeatureMap` of FAVOR+ or its name, such as "relu" or "softmax"; "exact"; or another `Kind` or its
            name, to compare with: "linformer", "reformer", "window", or "opt", which returns the values as they are.
        causal: unidirectional, for next-token prediction; else bidirectional, for masked residues.
        positions: "learned" (one vector per position, begun as sinusoids), "rotary", or "both".
        max_length: positions with a vector of their own; longer sequences get plain sinusoids behind them. Rotary has
            no limit. Linformer takes no longer ones.
        num_features: random features M of FAVOR+.
        local_heads: of the heads, those with sliding-window attention instead, which sharpens what is near.
        local_window: its size; see `WindowAttention`.
        directions: "orthogonal", "simplex" or "iid".
        norms: of the directions, "chi" or "constant"; "regularised" always has "constant".
        dropout: of embeddings and of both branches of a block.
        feature_seed: of the random directions.
        norm_eps: added to the variance in each LayerNorm.
        head: "linear", or "esm": dense, GELU, LayerNorm, and the embedding's weights as the last product.
        start_id: the token that training puts before a protein.
        zeroed_id: the token whose embedding is zero, while the others of its sequence are scaled by 0.88 / (1 - its
            share), as ESM-2 does with masks (Lin et al. 2023); None for none.
        rotary_dtype: what the frequencies of rotary positions are rounded to; ESM-2 was trained with "float16".
    """

    vocab_size: int
    pad_id: int
    layers: int = 6
    heads: int = 8
    width: int = 512
    feed_forward: int = 2048
    attention: str | FeatureMap | Kind = "relu"
    causal: bool = False
    positions: str = "learned"
    max_length: int = 1024
    num_features: int = 256
    local_heads: int = 0
    local_window: int = 128
    directions: str = "orthogonal"
    norms: str = "chi"
    dropout: float = 0.1
    feature_seed: int = 0
    norm_eps: float = 1e-5
    head: str = "linear"
    start_id: int = 0
    zeroed_id: int | None = None
    rotary_dtype: str = "float32"

    def __post_init__(self) -> None:
        for name in WHOLE:
            if type(getattr(self, name)) is not int:
                raise ValueError(f"model.{name} {getattr(self, name)!r}: expected a whole number")
        named = isinstance(self.attention, str) and self.attention in ATTENTION
        if not named and not isinstance(self.attention, FeatureMap | Kind):
            raise ValueError(f"model.attention {self.attention!r}: expected one of {', '.join(ATTENTION)}")
        if self.causal and self.kind is not None and not self.kind.unidirectional:
            raise ValueError(
                f"model.attention {self.attention_name!r} is not defined for a unidirectional model; take relu, "
                "softmax, exact or window, or set model.causal to false"
            )
        if self.positions not in POSITIONS:
            raise ValueError(f"model.positions {self.positions!r}: expected one of {', '.join(POSITIONS)}")
        sizes = (self.layers, self.heads, self.width, self.feed_forward, self.max_length, self.num_features)
        if min(sizes) < 1 or self.feature_seed < 0:
            raise ValueError(
                "model.layers, heads, width, feed_forward, max_length, num_features: expected numbers from 1, and "
                "model.feature_seed from 0"
            )
        if not 0 <= self.local_heads < self.heads:
            raise ValueError(
                f"model.local_heads {self.local_heads} of {self.heads} heads: expected a number from 0 and fewer than "
                "all; for all, take model/attention=window"
            )
        if self.local_window < 1:
            raise ValueError(f"model.local_window {self.local_window}: expected a number from 1")
        if self.directions not in DIRECTIONS:
            raise ValueError(f"model.directions {self.directions!r}: expected one of {', '.join(DIRECTIONS)}")
        if self.norms not in NORMS:
            raise ValueError(f"model.norms {self.norms!r}: expected one of {', '.join(NORMS)}")
        if self.width % (2 * self.heads):
            raise ValueError(
                f"model.width {self.width} with {self.heads} heads: expected heads of equal and even width"
            )
        if self.head not in HEADS:
            raise ValueError(f"model.head {self.head!r}: expected one of {', '.join(HEADS)}")
        if self.rotary_dtype not in ROUNDED:
            raise ValueError(f"model.rotary_dtype {self.rotary_dtype!r}: expected one of {', '.join(ROUNDED)}")
        if not 0 <= self.norm_eps < 1:
            raise ValueError(f"model.norm_eps {self.norm_eps}: expected a number from 0 to below 1")
        for name, token in (("start_id", self.start_id), ("zeroed_id", self.zeroed_id)):
            if token is not None and not 0 <= token < self.vocab_size:
                raise ValueError(f"model.{name} {token}: expected a token, 0 to {self.vocab_size - 1}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"model.dropout {self.dropout}: expected a number from 0 to below 1")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {**asdict(self), "attention": self.attention_name}

    @property
    def learned_positions(self) -> bool:
        """Positions up to `max_length` have vectors of their own."""
        return self.positions != "rotary"

    @property
    def rotary_positions(self) -> bool:
        """Queries and keys are turned by their positions."""
        return self.positions != "learned"

    @property
    def attention_name(self) -> str | dict[str, Any]:
        """The kind of attention, ready for JSON; see `describe`."""
        return describe(self.attention)

    @property
    def feature_map(self) -> FeatureMap | None:
        """Of FAVOR+; None for another kind of attention."""
        return self._chosen if isinstance(self._chosen, FeatureMap) else None

    @property
    def kind(self) -> Kind | None:
        """Of attention; None for FAVOR+."""
        return self._chosen if isinstance(self._chosen, Kind) else None

    @property
    def stepwise(self) -> bool:
        """Whether `Performer.step` is there for the model."""
        return self.causal and self.zeroed_id is None and (self.kind is None or self.kind.stepwise)

    @property
    def longest(self) -> int | None:
        """Tokens of the longest sequence that the model takes; None for any."""
        return self.max_length if self.kind is not None and self.kind.bounded else None

    @property
    def redraw_every(self) -> int:
        """Steps of training between two random draws that suit the kind of attention; 0 for none.

        A kernel that estimates softmax is redrawn; a new draw would change the meaning of others.
        """
        if self.feature_map is not None:
            return 1000 if self.feature_map.redrawn else 0
        return self.kind.redraw_every if self.kind is not None else 0

    @property
    def _chosen(self) -> FeatureMap | Kind:
        return ATTENTION[self.attention] if isinstance(self.attention, str) else self.attention

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "PerformerConfig":
        """The reverse of `to_dict`; fields that an earlier version did not know have their defaults.

        Raises:
            ValueError: for a field that is missing or unknown.
        """
        known = {field.name for field in fields(cls)}
        if odd := (set(values) - known) | (known - ADDED - set(values)):
            raise ValueError(f"model configuration: fields {', '.join(sorted(odd))} are missing or unknown")
        return cls(**{**values, "attention": from_description(values["attention"])})
