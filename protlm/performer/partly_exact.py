"""Exact attention in some of the heads of a layer.

Legend: B batch, H heads, L length, d head width.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from protlm.performer.baselines import ExactAttention, KeysAndValues


class PartlyExactState(NamedTuple):
    """The states of both kinds of heads."""

    exact: KeysAndValues | None
    own: Any


class PartlyExactAttention(nn.Module):
    """Exact attention in some heads, another module in the others.

    Args:
        own: of the others, such as `HybridAttention`.
        exact: of these.
        heads: their numbers, from 0.
        total: number of all heads.
    """

    def __init__(self, own: Any, exact: ExactAttention, heads: tuple[int, ...], total: int) -> None:
        super().__init__()
        self.own, self.exact = own, exact
        rest = [head for head in range(total) if head not in heads]
        self._heads = list(heads), rest
        self._order = sorted(range(total), key=[*heads, *rest].__getitem__)

    def reset_parameters(self) -> None:
        """Starts the features anew."""
        self.own.reset_parameters()

    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """Like `FavorAttention.forward`."""
        exact, rest = ([x[:, heads] for x in (q, k, v)] for heads in self._heads)
        return torch.cat((self.exact(*exact, key_mask), self.own(*rest, key_mask)), 1)[:, self._order]

    def step(
        self, q: Tensor, k: Tensor, v: Tensor, state: PartlyExactState | None = None
    ) -> tuple[Tensor, PartlyExactState]:
        """Like `FavorAttention.step`; the state of exact heads grows."""
        before = state or PartlyExactState(None, None)
        exact, rest = ([x[:, heads] for x in (q, k, v)] for heads in self._heads)
        one, after = self.exact.step(exact[0], exact[1], exact[2], before.exact)
        other, own = self.own.step(rest[0], rest[1], rest[2], before.own)
        return torch.cat((one, other), 1)[:, self._order], PartlyExactState(after, own)

    def matrix(self, q: Tensor, k: Tensor) -> Tensor:
        """See `matrix_of`."""
        return matrix_of(self, q, k)


def matrix_of(attention: nn.Module, q: Tensor, k: Tensor) -> Tensor:
    """The attention matrices (B, H, L, L), as outputs for one-hot values; q and k are (B, H, L, d), without padding."""
    one = torch.eye(q.shape[2], dtype=q.dtype, device=q.device)
    return attention.forward(q, k, one.expand(*q.shape[:2], -1, -1))  # without hooks, which may call this
