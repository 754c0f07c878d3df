"""Attention of several kinds in one layer, each in some of the heads.

Legend: B batch, H heads, L length, d head width.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class GroupStates(NamedTuple):
    """The states of the groups of heads; None for one that there is not."""

    exact: Any = None
    own: Any = None
    window: Any = None


class HeadGroups(nn.Module):
    """Attention of several kinds, each in some heads.

    Args:
        groups: name, one of the fields of `GroupStates` -> attention, such as `HybridAttention`, and its heads.
            Together they have all heads, numbered from 0.
    """

    def __init__(self, groups: Mapping[str, tuple[nn.Module, Sequence[int]]]) -> None:
        super().__init__()
        for name, (attention, _) in groups.items():
            self.add_module(name, attention)
        self._heads = {name: list(heads) for name, (_, heads) in groups.items()}
        joined = [head for heads in self._heads.values() for head in heads]
        self._order = sorted(range(len(joined)), key=joined.__getitem__)

    def reset_parameters(self) -> None:
        """Starts the features anew."""
        for attention in self.children():
            if hasattr(attention, "reset_parameters"):
                attention.reset_parameters()  # type: ignore[operator]

    def forward(self, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None) -> Tensor:
        """Like `FavorAttention.forward`."""
        outs = [
            getattr(self, name)(q[:, heads], k[:, heads], v[:, heads], key_mask) for name, heads in self._heads.items()
        ]
        return torch.cat(outs, 1)[:, self._order]

    def step(self, q: Tensor, k: Tensor, v: Tensor, state: GroupStates | None = None) -> tuple[Tensor, GroupStates]:
        """Like `FavorAttention.step`; the state of exact heads grows."""
        before, after, outs = state or GroupStates(), {}, []
        for name, heads in self._heads.items():
            attention: Any = getattr(self, name)
            out, after[name] = attention.step(q[:, heads], k[:, heads], v[:, heads], getattr(before, name))
            outs.append(out)
        return torch.cat(outs, 1)[:, self._order], GroupStates(**after)

    def matrix(self, q: Tensor, k: Tensor) -> Tensor:
        """See `matrix_of`."""
        return matrix_of(self, q, k)


def matrix_of(attention: nn.Module, q: Tensor, k: Tensor) -> Tensor:
    """The attention matrices (B, H, L, L), as outputs for one-hot values; q and k are (B, H, L, d), without padding."""
    one = torch.eye(q.shape[2], dtype=q.dtype, device=q.device)
    return attention.forward(q, k, one.expand(*q.shape[:2], -1, -1))  # without hooks, which may call this
