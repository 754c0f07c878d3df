"""What the model needs to know about a kind of attention: its options, limits and modules."""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from torch import nn


class AttentionSettings(NamedTuple):
    """The part of a model's configuration that the attention of one layer depends on.

    Args:
        head_dim: d, the width of a head.
        max_length: `PerformerConfig.max_length`.
        causal: position t sees positions up to t only.
        seed, layer: together with the draw number, the key of all random draws.
        num_features, directions, norms: of random features; see `PerformerConfig`.
        heads: number of heads that are not local.
    """

    head_dim: int
    max_length: int = 1024
    causal: bool = False
    seed: int = 0
    layer: int = 0
    num_features: int = 256
    directions: str = "orthogonal"
    norms: str = "chi"
    heads: int = 1


@dataclass(frozen=True)
class Kind:
    """A kind of attention; a subclass is a frozen dataclass whose fields (numbers, strings, booleans) are its options.

    A subclass of your own works without any change here; see docs/extending/attention.md.
    """

    unidirectional: ClassVar[bool] = True
    """Whether causal models can use it."""
    stepwise: ClassVar[bool] = True
    """Whether the causal module has a method `step(q, k, v, state)`, which computes attention token by token."""
    bounded: ClassVar[bool] = False
    """Whether sequences longer than `max_length` are refused."""
    prefers_no_mask: ClassVar[bool] = False
    """Whether attention is faster without a `key_mask`, so that the model should look whether it needs one."""
    exact_matrix: ClassVar[bool] = False
    """Whether the attention matrix is that of exact attention, or imitates it, and the module has a method `matrix`."""
    uses_random_features: ClassVar[bool] = False
    """Whether `num_features` has any effect."""

    @property
    def redraw_every(self) -> int:
        """Default number of training steps between two calls of the module's `redraw`; 0 for never."""
        return 0

    def module(self, settings: AttentionSettings) -> nn.Module:
        """The attention of one layer: a module (q, k, v, key_mask) -> values, like `FavorAttention`.

        It may also have these methods: `step`; `reset_parameters()`, called when the model initialises its weights;
        `redraw(draw_number)`, together with a buffer `draw_number`; `share_observations()`.
        """
        raise NotImplementedError

    def operations(self, settings: AttentionSettings, length: int) -> int:
        """Floating-point operations of one head per token; a multiplication and an addition count as two."""
        raise NotImplementedError
