"""The configuration of a model."""

from collections.abc import Collection
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

from protlm.performer.features import FeatureMap
from protlm.performer.feed_forward import ACTIVATIONS
from protlm.performer.kind import AttentionSettings, Kind
from protlm.performer.kinds import describe, from_description, kind_of
from protlm.performer.projection import DIRECTIONS, NORMS

ROUNDED = ("float32", "float16", "bfloat16")
POSITIONS = ("learned", "rotary", "both")
CHOICES: dict[str, Collection[str]] = {
    "positions": POSITIONS,
    "head": ("linear", "esm", "esmc", "none"),
    "activation": ACTIVATIONS,
    "rotary_dtype": ROUNDED,
    "directions": DIRECTIONS,
    "norms": NORMS,
}
"""Fields with a fixed set of values."""
ADDED = {"norms", "norm_eps", "head", "start_id", "zeroed_id", "rotary_dtype", "local_heads", "local_window"}
ADDED |= {"contact_head", "activation", "qk_norm", "alphabet"}
"""Fields that configurations written by earlier versions may lack."""

WHOLE = (
    *("vocab_size", "pad_id", "layers", "heads", "width", "feed_forward", "max_length", "num_features"),
    *("local_heads", "local_window", "feature_seed", "start_id"),
)
"""Integer fields."""


@dataclass(frozen=True)
class PerformerConfig:
    """The architecture of a model.

    Args:
        vocab_size: V.
        pad_id: the padding token, which is never attended to.
        layers, heads, width, feed_forward: number of blocks and of attention heads; D; hidden width of the feed-forward
            layers.
        attention: a name such as "relu", "softmax" or "exact", a `FeatureMap` for FAVOR+, or any other `Kind`. The
            baselines are "linformer", "reformer", "window", and "opt", which returns the values unchanged.
        causal: next-residue prediction; otherwise the model is bidirectional, for masked language modelling.
        positions: "learned" (one vector per position, initialised with sinusoids), "rotary", or "both".
        max_length: number of learned positions; later ones use fixed sinusoids. Rotary positions have no limit.
            Linformer accepts no longer sequences.
        num_features: M, the number of random features of FAVOR+.
        local_heads: number of heads that use sliding-window attention instead.
        local_window: size of that window; see `WindowAttention`.
        directions: "orthogonal", "simplex" or "iid".
        norms: of the directions, "chi" or "constant"; "regularised" always uses "constant".
        dropout: of embeddings and of both branches of a block.
        feature_seed: seed of the random directions.
        norm_eps: epsilon of each LayerNorm.
        head: "linear"; "esm": dense, GELU, LayerNorm, and a product with the embedding's weights; "esmc": the same with
            weights of its own; or "none", for a model that only represents proteins.
        start_id: the token that precedes each protein in training.
        zeroed_id: the token whose embedding is zero, while the others of its sequence are scaled by 0.88 / (1 - its
            share), as ESM-2 does with masks (Lin et al. 2023); None for none.
        rotary_dtype: to which the frequencies of rotary positions are rounded; ESM-2 was trained with "float16".
        contact_head: whether the model has a `ContactHead`, which an import brings along.
        activation: of the feed-forward layers, "gelu" or "swiglu".
        qk_norm: whether queries and keys, of all heads together, pass a LayerNorm. Then, as in ESMC, the bias of the
            final LayerNorm is not trained.
        alphabet: what the tokens are, as in `protlm.sequence.alphabets`; the model itself does not use it.

    Raises:
        ValueError: for unknown names and numbers out of range.
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
    contact_head: bool = False
    activation: str = "gelu"
    qk_norm: bool = False
    alphabet: str | dict[str, Any] = "protein"

    def __post_init__(self) -> None:
        for name in WHOLE:
            if type(getattr(self, name)) is not int:
                raise ValueError(f"model.{name} {getattr(self, name)!r}: expected an integer")
        if isinstance(self.attention, FeatureMap):
            object.__setattr__(self, "attention", kind_of(self.attention))
        try:
            kind = self.kind
        except ValueError as error:
            raise ValueError(f"model.{error}") from error
        if self.causal and not kind.unidirectional:
            raise ValueError(
                f"model.attention {self.attention_name!r} is not defined for a causal model; use relu, "
                "softmax, exact or window, or set model.causal to false"
            )
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"model.{name} {getattr(self, name)!r}: expected one of {', '.join(choices)}")
        sizes = (self.layers, self.heads, self.width, self.feed_forward, self.max_length, self.num_features)
        if min(sizes) < 1 or self.feature_seed < 0:
            raise ValueError(
                "model.layers, heads, width, feed_forward, max_length and num_features must be at least 1, and "
                "model.feature_seed at least 0"
            )
        if not 0 <= self.local_heads < self.heads:
            raise ValueError(
                f"model.local_heads {self.local_heads} of {self.heads} heads: expected at least 0 and fewer than all; "
                "for a window in all heads, use model/attention=window"
            )
        if self.local_window < 1:
            raise ValueError(f"model.local_window {self.local_window}: expected an integer of at least 1")
        if self.width % (2 * self.heads):
            what = f"model.width {self.width} with {self.heads} heads"
            raise ValueError(f"{what}: expected heads of equal and even width")
        if not 0 <= self.norm_eps < 1:
            raise ValueError(f"model.norm_eps {self.norm_eps}: expected a number of at least 0 and below 1")
        for name, token in (("start_id", self.start_id), ("zeroed_id", self.zeroed_id)):
            if token is not None and not 0 <= token < self.vocab_size:
                raise ValueError(f"model.{name} {token}: expected a token, 0 to {self.vocab_size - 1}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"model.dropout {self.dropout}: expected a number of at least 0 and below 1")

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        return {**asdict(self), "attention": self.attention_name}

    @property
    def learned_positions(self) -> bool:
        """Whether positions up to `max_length` have learned vectors."""
        return self.positions != "rotary"

    @property
    def rotary_positions(self) -> bool:
        """Whether queries and keys are rotated by their positions."""
        return self.positions != "learned"

    @property
    def attention_name(self) -> str | dict[str, Any]:
        """The kind of attention, ready for JSON; see `describe`."""
        assert not isinstance(self.attention, FeatureMap)
        return describe(self.attention)

    @property
    def attention_label(self) -> str:
        """The kind of attention in a word, for messages: its name or that of its class."""
        name = self.attention_name
        return name if isinstance(name, str) else str(name.get("kind") or name.get("map")).rpartition(".")[2].lower()

    @cached_property
    def kind(self) -> Kind:
        """The kind of attention."""
        return kind_of(self.attention)

    def attention_settings(self, layer: int = 0) -> AttentionSettings:
        """What the attention of one layer depends on."""
        head_dim, random = self.width // self.heads, (self.num_features, self.directions, self.norms)
        heads = self.heads - self.local_heads
        return AttentionSettings(head_dim, self.max_length, self.causal, self.feature_seed, layer, *random, heads)

    @property
    def predicts_contacts(self) -> bool:
        """Whether the contact head can be used: it was fitted to exact attention."""
        return self.contact_head and self.kind.exact_matrix and not (self.local_heads or self.causal)

    @property
    def stepwise(self) -> bool:
        """Whether the model has `Performer.step`."""
        return self.causal and self.zeroed_id is None and self.kind.stepwise

    @property
    def longest(self) -> int | None:
        """Tokens of the longest sequence that the model accepts; None for no limit."""
        return self.max_length if self.kind.bounded else None

    @property
    def redraw_every(self) -> int:
        """Default number of training steps between two random draws; 0 for never."""
        return self.kind.redraw_every

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "PerformerConfig":
        """The reverse of `to_dict`; fields of ADDED that are missing get their defaults.

        Raises:
            ValueError: for a field that is missing or unknown.
        """
        known = {field.name for field in fields(cls)}
        if odd := (set(values) - known) | (known - ADDED - set(values)):
            raise ValueError(f"model configuration: fields {', '.join(sorted(odd))} are missing or unknown")
        return cls(**{**values, "attention": from_description(values["attention"])})
