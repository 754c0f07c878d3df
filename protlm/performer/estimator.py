"""A feature map bound to its directions, applied to blocks of queries and keys, forward and backward.

Legend: n batch x heads, T positions of a block, d head width, M features.

Positive features are kept as logarithms to base 2, since exp2 is the faster function. They are shifted per feature:
keys by -m_i, queries by +m_i, which cancels (linear_attention.py). Features that may be negative have one shift for
all i, and only for the factor exp(c |x|^2 / 2) of the keys; that of a query always cancels.
"""

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from protlm.performer.features import FeatureMap

LOG2E = 1 / math.log(2)
LARGEST = 1024.0  # of a logarithm in float32: neighbouring numbers are 1e-4 apart there
SMALL = 8.0  # norm of a key up to which |x|^2 / 2 is known to 4e-6 in float32


def widest(x: Tensor) -> torch.dtype:
    """float64, but for devices that have none."""
    return torch.float32 if x.device.type == "mps" else torch.float64


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """Autocast would turn sums into 16 bits."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def precision(*tensors: Tensor) -> torch.dtype:
    """float32, or float64 if one of them is."""
    return torch.float64 if any(x.dtype == torch.float64 for x in tensors) else torch.float32


class Scratch:
    """Memory that is used again for every block: fresh memory costs more than the sums that are put into it.

    Args:
        like: gives dtype and device.
    """

    def __init__(self, like: Tensor) -> None:
        self._like, self.dtype = like, like.dtype
        self._buffers: dict[str, Tensor] = {}

    def wide(self) -> "Scratch":
        """The same for float64."""
        return Scratch(self._like.double())

    def __call__(self, name: str, *shape: int) -> Tensor:
        """An uninitialised tensor, valid until the same name is asked for again."""
        size = math.prod(shape)
        if name not in self._buffers or self._buffers[name].numel() < size:
            self._buffers[name] = self._like.new_empty(size)
        return self._buffers[name][:size].view(shape)


@dataclass
class Estimator:
    """Features of blocks.

    Args:
        feature_map: the map.
        weight: (M, d), with the d^(-1/4) of queries and keys in it; None for a map without a projection.
        bias: (M), or None for zeros.
        scale: the d^(-1/4).
        scratch: memory for the features.
        together: features of queries and of keys are needed at the same time.
    """

    feature_map: FeatureMap
    weight: Tensor | None
    bias: Tensor | None
    scale: float
    scratch: Scratch
    together: bool = True

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
        """Logarithms (..., 1) of what depends on the key (..., d) alone: c |x|^2 / 2, and -inf for padding.

        In float64, since large ones have to keep their digits; None for zeros.
        """
        if not self.quadratic:
            if mask is None:
                return None
            return k.new_zeros(*k.shape[:-1], 1).masked_fill_(~mask, -torch.inf)
        norms = torch.linalg.vector_norm(k, dim=-1, keepdim=True, dtype=precision(k)).to(widest(k))
        large = norms * self.scale > SMALL
        if mask is not None:
            large &= mask
        if k.dtype.itemsize < 8 and bool(large.any()):
            exact = torch.linalg.vector_norm(k, dim=-1, keepdim=True, dtype=widest(k))
            norms = torch.where(large, exact, norms)
        weights = norms.square_().mul_(self.quadratic * LOG2E)
        return weights if mask is None else weights.masked_fill_(~mask, -torch.inf)

    def wide(self) -> "Estimator":
        """The same in float64."""
        weight, bias = (x if x is None else x.double() for x in (self.weight, self.bias))
        return Estimator(self.feature_map, weight, bias, self.scale, self.scratch.wide(), self.together)

    def too_large(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor | None:
        """Where (L) logarithms may get so large that float32 loses more than 1e-5 of what they are of; None: nowhere.

        Args:
            q, k: (B, H, L, d); mask: (B, 1, L, 1) or None.
        """
        if not self.log or self.weight is None or q.dtype.itemsize != 4 or widest(q) == torch.float32:
            return None
        norms = torch.maximum(*(torch.linalg.vector_norm(x, dim=-1, keepdim=True) for x in (q, k)))
        if mask is not None:
            norms = norms.masked_fill(~mask, 0.0)
        return norms.amax((0, 1, 3)) * torch.linalg.vector_norm(self.weight, dim=-1).amax() * LOG2E > LARGEST

    def log_keys(self, k: Tensor, weights: Tensor | None) -> Tensor:
        """What `shift` has to follow: logarithms (n, T, M) of positive features; else `weights`, or zeros (1, 1, 1)."""
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
        return features if weights is None else features.mul_(self._factors(weights, shift)), p

    def keys_backward(
        self, k: Tensor, weights: Tensor | None, shift: Tensor, p: Tensor, features: Tensor, grad: Tensor
    ) -> Tensor:
        """The gradient of k (n, T, d) from that of the features, which is overwritten."""
        if self.log:
            product = grad = grad.mul_(features)
        else:
            product = grad * features if self.quadratic else None
            if weights is not None:
                grad = grad.mul_(self._factors(weights, shift))
        result = self._project_backward(p, grad)
        if self.quadratic and product is not None:
            result.addcmul_(k, product.sum(-1, keepdim=True), value=2 * self.quadratic)
        return result

    def queries(self, q: Tensor, shift: Tensor, norm: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        """Features (n, T, M), p for `queries_backward`, and the logarithm (n, T, 1) of what they were divided by.

        Positive features are multiplied by 2^shift and divided by 2^norm, by default by the largest of each row.
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
        return self._project_backward(p, grad)

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

    def _project_backward(self, p: Tensor, grad: Tensor) -> Tensor:
        if not self.feature_map.linear:
            grad = self.feature_map.features_backward(p, grad)
        if self.weight is None:
            return grad * self.scale
        return torch.bmm(grad, self.weight.expand(len(grad), -1, -1))

    def _logarithms(self, p: Tensor) -> Tensor:
        return p if self._folded else self.feature_map.features(p) * LOG2E

    def _factors(self, weights: Tensor, shift: Tensor) -> Tensor:
        return (weights - shift).exp2_()
