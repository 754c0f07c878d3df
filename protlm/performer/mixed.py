"""The attention of a layer: one kind for all heads, or a sliding window for some of them.

Legend: B batch, H heads, L length, d head width, e value width.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from protlm.performer.config import PerformerConfig
from protlm.performer.segments import Packed, accepts_packed
from protlm.performer.window import WindowAttention


def attention_of(config: PerformerConfig, layer: int) -> nn.Module:
    """The attention of one layer; any parameters of its own are drawn from torch's global generator."""
    own = config.kind.module(config.attention_settings(layer))
    if not config.local_heads:
        return own
    return MixedAttention(WindowAttention(config.local_window, config.causal), own, config.local_heads)


class MixedState(NamedTuple):
    """The states of both kinds of attention."""

    local: Any
    rest: Any


class MixedAttention(nn.Module):
    """Sliding-window attention in the first `heads`, and another module like `FavorAttention` in the others.

    A window is as sharp as softmax and linear in L; docs/decisions.md reports the gain. Arora et al. 2024, "Simple
    linear attention language models balance the recall-throughput tradeoff", alternate the two by layers.
    """

    def __init__(self, local: WindowAttention, rest: nn.Module, heads: int) -> None:
        super().__init__()
        self.local, self.rest = local, rest
        self.parts = slice(heads), slice(heads, None)

    def accepts_packed(self, q: Tensor, v: Tensor) -> bool:
        """Like `FavorAttention.accepts_packed`."""
        return accepts_packed(self.rest, q, v)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, packed: Packed | None = None
    ) -> Tensor:
        """Like `FavorAttention.forward`."""
        near, far = ([part[:, heads] for part in (q, k, v)] for heads in self.parts)
        last = (key_mask,) if packed is None else (key_mask, packed)
        return torch.cat((self.local(*near, *last), self.rest(*far, *last)), 1)

    def step(self, q: Tensor, k: Tensor, v: Tensor, state: MixedState | None = None) -> tuple[Tensor, MixedState]:
        """Like `FavorAttention.step`."""
        near, far = ([part[:, heads] for part in (q, k, v)] for heads in self.parts)
        local, rest = state or (None, None)
        step: Any = self.rest.step
        one, local = self.local.step(*near, state=local)
        other, rest = step(*far, rest)
        return torch.cat((one, other), 1), MixedState(local, rest)
