"""Blocks of positions, and the state that attention keeps of the keys it has seen.

Legend: B batch, H heads, n = B x H, L length, T positions of a block, d head width, e value width, M features.
"""

import torch
from torch import Tensor

from protlm.performer.estimator import Estimator, Scratch

State = tuple[Tensor, Tensor]
"""(shift (n, 1, M), sums (n, e + 1, M)): per feature the logarithm (base 2, float64) of its scale, and the sums over
the keys of features times values and of features, both divided by that scale. Features that may be negative have one
shift for all i: (n, 1, 1)."""


def rows(x: Tensor, start: int, stop: int, dtype: torch.dtype) -> Tensor:
    """Positions of (B, H, L, w) as (n, T, w), without a copy where strides and dtype permit."""
    return x[:, :, start:stop].reshape(-1, stop - start, x.shape[-1]).to(dtype)


def write(target: Tensor, start: int, stop: int, values: Tensor) -> None:
    """Puts (n, T, w) into positions of (B, H, L, w)."""
    target[:, :, start:stop] = values.unflatten(0, target.shape[:2])


def finite(shift: Tensor) -> Tensor:
    """The shift where there is no key at all is 0."""
    return shift.masked_fill(shift == -torch.inf, 0.0)


def nonzero(denominator: Tensor) -> Tensor:
    """A position that sees no key gets 0 / 1."""
    return denominator.masked_fill(denominator == 0, 1.0)


def extended(x: Tensor, column: Tensor | float, scratch: Scratch, name: str = "extended") -> Tensor:
    """x (n, T, w) and one column (n, T, 1): (n, T, w + 1)."""
    result = scratch(name, *x.shape[:2], x.shape[2] + 1)
    result[..., :-1] = x
    result[..., -1:] = column
    return result


class Keys:
    """Blocks of keys and values of one call.

    Args:
        estimator: of the features.
        k, v: (B, H, L, d), (B, H, L, e).
        mask: (B, L) bool or None.
    """

    def __init__(self, estimator: Estimator, k: Tensor, v: Tensor, mask: Tensor | None) -> None:
        self.estimator, self.k, self.v = estimator, k, v
        self.mask = None if mask is None else mask[:, None, :, None].expand(-1, k.shape[1], -1, -1)
        weights = estimator.weights(k, self.mask)
        self.weights = None if weights is None else weights.flatten(0, 1)
        """(n, L, 1)"""

    def block(
        self, start: int, stop: int, origin: Tensor, estimator: Estimator, step: int = 1
    ) -> tuple[Tensor, Tensor | None]:
        """Keys (n, T, d) and the logarithms (n, T, 1) of their weights, relative to `origin` (n, 1, 1)."""
        dtype = estimator.scratch.dtype
        k = self._real(self.k, start, stop, dtype, step)
        weights = None if self.weights is None else (self.weights[:, start:stop:step] - origin).to(dtype)
        return k, weights

    def values_and_ones(self, start: int, stop: int, estimator: Estimator) -> Tensor:
        """(n, T, e + 1): the values and a column of 1, whose sums are denominators."""
        values = self._real(self.v, start, stop, estimator.scratch.dtype)
        return extended(values, 1.0, estimator.scratch, "values")

    def highest(self) -> Tensor:
        """The largest weight (n, 1, 1)."""
        if self.weights is None:
            return self.k.new_zeros(1, 1, 1)
        return finite(self.weights.amax(1, keepdim=True))

    def _real(self, x: Tensor, start: int, stop: int, dtype: torch.dtype, step: int = 1) -> Tensor:
        """Positions as (n, T, w), with 0 for padding, where any finite number may stand."""
        x = x[:, :, start:stop:step]
        if self.mask is not None:
            x = x * self.mask[:, :, start:stop:step]
        return rows(x, 0, x.shape[2], dtype)


def upstream_gradient(
    out: Tensor, norm: Tensor, grad: Tensor, start: int, stop: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient (n, T, e) of a block of `out`, its inner product with `out` (n, T, 1), and `norm` (n, T, 1)."""
    upstream = rows(grad, start, stop, dtype)
    drift = (upstream * rows(out, start, stop, dtype)).sum(-1, keepdim=True)
    return upstream, drift, rows(norm, start, stop, dtype)
