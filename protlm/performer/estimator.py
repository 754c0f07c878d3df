"""Features of blocks of queries and keys, forward and backward: a feature map bound to its directions.

Legend: B batch, H heads, n = B x H, L length, T positions of a block, d head width, e value width, M features.

Positive features are kept as logarithms to base 2, since exp2 is the faster function. They are shifted per feature:
keys by -m_i, queries by +m_i, which cancels (linear_attention.py). Features of either sign have one shift for
all i, and only for the factor exp(c |x|^2 / 2) of the keys; that of a query always cancels.
"""

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from protlm.performer.features import FeatureMap

LOG2E = 1 / math.log(2)
LARGEST = 1024.0  # logarithm in float32; beyond it neighbouring numbers are more than 1e-4 apart
SMALL = 8.0  # norm of a key up to which |x|^2 / 2 is accurate to 4e-6 in float32
GROWTH = 2.0**60  # by which sums may outgrow a shift: float32 reaches 2^127, and what underflows is below 2^-66 of them


def widest(x: Tensor) -> torch.dtype:
    """float64 where the device has it, else float32."""
    return torch.float32 if x.device.type == "mps" else torch.float64


def waits(x: Tensor) -> bool:
    """Whether a decision by values of x makes the host wait for a device, and is best avoided."""
    return x.device.type != "cpu"


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Disables autocast, which would reduce sums to 16 bits."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def precision(*tensors: Tensor) -> torch.dtype:
    """float64 if one of the tensors is, else float32."""
    return torch.float64 if any(x.dtype == torch.float64 for x in tensors) else torch.float32


class Outputs(NamedTuple):
    """What a forward pass returns and a backward pass needs."""

    out: Tensor
    """(B, H, L, e), the weighted means of the values."""
    norm: Tensor
    """(B, H, L, 1), base-2 logarithm of each denominator, or its reciprocal for features of either sign."""
    shift: Tensor
    """(B, H, 1, M), base-2 logarithm of the scale of each feature's sums; (B, H, 1, 1) for features of either sign."""
    sums: Tensor
    """(B, H, e + 1, M), over the keys, of features times values and of features, both divided by that scale."""


class Scratch:
    """Memory that all blocks reuse, of the dtype and device of `like`; allocating it costs more than the sums in it."""

    def __init__(self, like: Tensor) -> None:
        self._like, self.dtype = like, like.dtype
        self._buffers: dict[str, Tensor] = {}

    def wide(self) -> "Scratch":
        """The same for float64."""
        return Scratch(self._like.double())

    def __call__(self, name: str, *shape: int) -> Tensor:
        """An uninitialised tensor, valid until the next call with the same name."""
        size = math.prod(shape)
        if name not in self._buffers or self._buffers[name].numel() < size:
            self._buffers[name] = self._like.new_empty(size)
        return self._buffers[name][:size].view(shape)


@dataclass
class Estimator:
    """Features of blocks."""

    feature_map: FeatureMap
    weight: Tensor | None
    """(M, d), multiplied by `scale`; None for a map without a projection."""
    bias: Tensor | None
    """(M), or None for zeros."""
    scale: float
    """Of queries and keys, usually d^(-1/4)."""
    scratch: Scratch
    together: bool = True
    """Whether features of queries and of keys are needed at the same time."""

    def __post_init__(self) -> None:
        self.log = self.feature_map.log
        self.quadratic = self.feature_map.quadratic * self.scale**2 / 2
        self.shifted = self.log or self.quadratic != 0
        self._folded = self.log and self.feature_map.linear  # logarithms come out of one matrix product
        unit = LOG2E if self._folded else 1.0
        self._columns = None if self.weight is None else (self.weight * unit).T
        self._bias = None if self.bias is None else self.bias * unit

    def count(self, width: int) -> int:
        """M, for inputs of this width."""
        rows = width if self.weight is None else len(self.weight)
        return self.feature_map.features(torch.empty(0, rows)).shape[-1]

    def weights(self, k: Tensor, mask: Tensor | None = None) -> Tensor | None:
        """Logarithms (..., 1) of the factor exp(c |x|^2 / 2) of each key (..., d), -inf for padding; None if all are 0.

        They are float64, since large ones must keep their digits.
        """
        if not self.quadratic:
            if mask is None:
                return None
            return k.new_zeros(*k.shape[:-1], 1).masked_fill_(~mask, -torch.inf)
        norms = torch.linalg.vector_norm(k, dim=-1, keepdim=True, dtype=precision(k)).to(widest(k))
        large = norms * self.scale > SMALL
        if mask is not None:
            large &= mask
        if k.dtype.itemsize < 8 and (waits(k) or bool(large.any())):
            exact = torch.linalg.vector_norm(k, dim=-1, keepdim=True, dtype=widest(k))
            norms = torch.where(large, exact, norms)
        weights = norms.square_().mul_(self.quadratic * LOG2E)
        return weights if mask is None else weights.masked_fill_(~mask, -torch.inf)

    def wide(self) -> "Estimator":
        """The same in float64."""
        weight, bias = (x if x is None else x.double() for x in (self.weight, self.bias))
        return Estimator(self.feature_map, weight, bias, self.scale, self.scratch.wide(), self.together)

    def too_large(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor | None:
        """Where (L) logarithms may be so large that features in float32 lose more than 1e-5; None for nowhere."""
        if not self.log or self.weight is None or q.dtype.itemsize != 4 or widest(q) == torch.float32:
            return None
        norms = torch.maximum(*(torch.linalg.vector_norm(x, dim=-1, keepdim=True) for x in (q, k)))
        if mask is not None:
            norms = norms.masked_fill(~mask, 0.0)
        return norms.amax((0, 1, 3)) * torch.linalg.vector_norm(self.weight, dim=-1).amax() * LOG2E > LARGEST

    def log_keys(self, k: Tensor, weights: Tensor | None) -> Tensor:
        """Logarithms to choose a shift by: (n, T, M) of positive features, otherwise `weights` or zeros (1, 1, 1)."""
        if not self.log:
            return k.new_zeros(1, 1, 1) if weights is None or not self.quadratic else weights
        u = self._logarithms(self._project(k, "keys"))
        return u if weights is None else u + weights

    def keys(self, k: Tensor, weights: Tensor | None, shift: Tensor) -> tuple[Tensor, Tensor]:
        """Features (n, T, M) divided by 2^shift, and p for `keys_backward`."""
        if self._folded and weights is not None:
            offset = shift if self._bias is None else shift - self._bias
            u = torch.sub(weights, offset, out=self._buffer("keys", k))
            return u.baddbmm_(k, self._expanded(k)).exp2_(), u
        p = self._project(k, "keys")
        if self.log:
            u = self._logarithms(p) - shift
            return (u if weights is None else u.add_(weights)).exp2_(), p
        features = self.feature_map.features(p)
        return features if weights is None else features.mul_((weights - shift).exp2_()), p

    def keys_backward(
        self, k: Tensor, weights: Tensor | None, shift: Tensor, p: Tensor, features: Tensor, grad: Tensor
    ) -> Tensor:
        """The gradient of k (n, T, d) from that of the features, which is overwritten."""
        if self.log:
            product = grad = grad.mul_(features)
        else:
            product = grad * features if self.quadratic else None
            if weights is not None:
                grad = grad.mul_((weights - shift).exp2_())
        result = self.queries_backward(p, grad)
        if self.quadratic and product is not None:
            result.addcmul_(k, product.sum(-1, keepdim=True), value=2 * self.quadratic)
        return result

    def queries(self, q: Tensor, shift: Tensor, norm: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Features (n, T, M), p for `queries_backward`, and the logarithm (n, T, 1) of their divisor.

        Positive features are multiplied by 2^shift and divided by 2^norm, by default the largest of each row.
        """
        if not self.log:
            p = self._project(q, "queries")
            return self.feature_map.features(p), p, None
        if self._folded:
            offset = shift if self._bias is None else shift + self._bias
            p = t = self._buffer("queries", q)
            if norm is None:
                torch.baddbmm(offset, q, self._expanded(q), out=t)
            else:
                torch.sub(offset, norm, out=t).baddbmm_(q, self._expanded(q))
        else:
            p = self._project(q, "queries")
            t = self._logarithms(p) + shift
            if norm is not None:
                t.sub_(norm)
        if norm is None:
            norm = t.amax(-1, keepdim=True)
            t.sub_(norm)
        return t.exp2_(), p, norm

    def queries_backward(self, p: Tensor, grad: Tensor) -> Tensor:
        """The gradient of q (n, T, d) from that of the features, or of the natural logarithms of positive ones."""
        if not self.feature_map.linear:
            grad = self.feature_map.features_backward(p, grad)
        if self.weight is None:
            return grad * self.scale
        return torch.bmm(grad, self.weight.expand(len(grad), -1, -1))

    def _expanded(self, x: Tensor) -> Tensor:
        assert self._columns is not None
        return self._columns.expand(len(x), -1, -1)

    def _buffer(self, name: str, x: Tensor) -> Tensor:
        name = name if self.together else "features"
        return self.scratch(name, *x.shape[:2], x.shape[-1] if self.weight is None else len(self.weight))

    def _project(self, x: Tensor, name: str) -> Tensor:
        if self._columns is None:
            return torch.mul(x, self.scale, out=self._buffer(name, x))
        p = torch.bmm(x, self._expanded(x), out=self._buffer(name, x))
        return p if self._bias is None else p.add_(self._bias)

    def _logarithms(self, p: Tensor) -> Tensor:
        return p if self._folded else self.feature_map.features(p) * LOG2E


def rows(x: Tensor, start: int, stop: int, dtype: torch.dtype) -> Tensor:
    """Positions of (B, H, L, w) as (n, T, w), without a copy where strides and dtype permit."""
    return x[:, :, start:stop].reshape(-1, stop - start, x.shape[-1]).to(dtype)


def write(target: Tensor, start: int, stop: int, values: Tensor) -> None:
    """Copies (n, T, w) to positions of (B, H, L, w)."""
    target[:, :, start:stop] = values.unflatten(0, target.shape[:2])


def finite(shift: Tensor) -> Tensor:
    """Replaces the shift -inf, where there is no key at all, by 0."""
    return shift.masked_fill(shift == -torch.inf, 0.0)


def nonzero(denominator: Tensor) -> Tensor:
    """Replaces 0, the denominator of a position that sees no key, by 1."""
    return denominator.masked_fill(denominator == 0, 1.0)


def extended(x: Tensor, column: Tensor | float, scratch: Scratch, name: str = "extended") -> Tensor:
    """Appends one column (n, T, 1) to x (n, T, w)."""
    result = scratch(name, *x.shape[:2], x.shape[2] + 1)
    result[..., :-1] = x
    result[..., -1:] = column
    return result


class Keys:
    """Blocks of the keys (B, H, L, d) and values (B, H, L, e) of one call, with a mask (B, L) bool or None."""

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
        """(n, T, e + 1): the values and a column of ones, whose sums are denominators."""
        values = self._real(self.v, start, stop, estimator.scratch.dtype)
        return extended(values, 1.0, estimator.scratch, "values")

    def highest(self) -> Tensor:
        """The largest weight (n, 1, 1)."""
        if self.weights is None:
            return self.k.new_zeros(1, 1, 1)
        return finite(self.weights.amax(1, keepdim=True))

    def _real(self, x: Tensor, start: int, stop: int, dtype: torch.dtype, step: int = 1) -> Tensor:
        """Positions as (n, T, w), with padding, which may hold any finite numbers, set to 0."""
        x = x[:, :, start:stop:step]
        if self.mask is not None:
            x = x * self.mask[:, :, start:stop:step]
        return rows(x, 0, x.shape[2], dtype)


def upstream_gradient(
    results: Outputs, grad: Tensor, start: int, stop: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Of a block: the gradient of `out` (n, T, e), its inner product with `out` (n, T, 1), and `norm` (n, T, 1)."""
    upstream = rows(grad, start, stop, dtype)
    drift = (upstream * rows(results.out, start, stop, dtype)).sum(-1, keepdim=True)
    return upstream, drift, rows(results.norm, start, stop, dtype)
