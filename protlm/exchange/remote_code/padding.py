"""Padding at either end of a row, moved to the other end.

Legend: B batch, L length.
"""

import torch
from torch import Tensor


def rotated(x: Tensor, by: Tensor, dim: int = 1) -> Tensor:
    """A tensor (B, ...) with each row moved by (B, 1) int64 places to the left along `dim`, its start to its end."""
    length = x.shape[dim]
    index = (torch.arange(length, device=x.device) + by) % length
    shape = [len(index), *[1] * (x.dim() - 1)]
    shape[dim] = length
    return x.gather(dim, index.view(shape).expand_as(x))


class LeftPadding:
    """Moves the padding at the left end of each row to its right end, since positions count from the first real token.

    Args:
        key_mask: (B, L) bool, true where a token is real.
    """

    def __init__(self, key_mask: Tensor) -> None:
        self._first = key_mask.long().argmax(1, keepdim=True)

    def removed(self, x: Tensor, dim: int = 1) -> Tensor:
        """A tensor (B, ...), whose axis `dim` has length L, with padding on the right."""
        return rotated(x, self._first, dim)

    def restored(self, x: Tensor, dim: int = 1) -> Tensor:
        """The reverse."""
        return rotated(x, -self._first, dim)
