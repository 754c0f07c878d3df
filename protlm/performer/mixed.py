"""Some heads of a layer see a window, the others what the layer's own kind of attention sees.

Legend: B batch, H heads, L length, d head width, e value width.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from protlm.performer.window import WindowAttention


class MixedState(NamedTuple):
    """What each kind keeps of the positions so far."""

    local: Any
    rest: Any


class MixedAttention(nn.Module):
    """The first heads by sliding-window attention, the rest by another module with the interface of `FavorAttention`.

    A window is as sharp as softmax and linear in L; what it brings is in docs/decisions.md. Arora et al. 2024, "Simple
    linear attention language models balance the recall-throughput tradeoff", combine the two by layers.

    Args:
        local: attention of the first heads.
        rest: attention of the others.
        heads: how many are local, from 1.
    """

    def __init__(self, local: WindowAttention, rest: nn.Module, heads: int) -> None:
        super().__init__()
        self.local, self.rest = local, rest
        self.parts = slice(heads), slice(heads, None)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """As `FavorAttention.forward`."""
        near, far = ([part[:, heads] for part in (q, k, v)] for heads in self.parts)
        return torch.cat((self.local(*near, key_mask), self.rest(*far, key_mask)), 1)

    def step(self, q: Tensor, k: Tensor, v: Tensor, state: MixedState | None = None) -> tuple[Tensor, MixedState]:
        """As `FavorAttention.step`."""
        near, far = ([part[:, heads] for part in (q, k, v)] for heads in self.parts)
        local, rest = state or (None, None)
        step: Any = self.rest.step
        one, local = self.local.step(*near, state=local)
        other, rest = step(*far, rest)
        return torch.cat((one, other), 1), MixedState(local, rest)
