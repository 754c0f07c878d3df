"""Causal attention without decisions by values, for devices that the host should not wait for.

Legend: B batch, H heads, n = B x H, L length, T positions of a block, C positions of a chunk, N chunks of a block,
d head width, e value width, M features. Tensors of a block have n N rows of C positions.

As in causal.py, pairs within a chunk are computed and earlier keys enter through their sums. There, a chunk whose keys
outgrow the shift of the keys before it is divided. Here, its shift is raised to GROWTH below its own largest key, for
all of its positions: nothing overflows, and a position underflows only where a later key of its chunk exceeds, in a
feature, all keys that the position sees by more than 2^180. Then it gets 0. Shifts never depend on later chunks.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from protlm.performer.causal import Past, beginning, rescaled
from protlm.performer.estimator import GROWTH, Keys, Outputs, extended, nonzero, rows, upstream_gradient, write

ROOM = math.log2(GROWTH)


class Chunks:
    """Features of the keys of a block by chunk, relative to the chunk's shift, and the sums before each chunk.

    The block is positions `start` to `stop`, of which there is a multiple of C (`chunk`), or fewer than C. Shifts are
    relative to `Past.highest`, which is that of the first key throughout.
    """

    def __init__(self, keys: Keys, start: int, stop: int, chunk: int, past: Past) -> None:
        self.estimator = estimator = keys.estimator
        self.start, self.stop, self.count = start, stop, max(1, (stop - start) // chunk)
        k, weights = keys.block(start, stop, past.highest, estimator)
        self.k, self.weights = self.chunked(k), None if weights is None else self.chunked(weights)
        largest = estimator.log_keys(self.k, self.weights).amax(1, keepdim=True).unflatten(0, (-1, self.count))
        highest = torch.cat((past.shift[:, None], largest), 1).cummax(1).values  # before each chunk, and after all
        shift = torch.maximum(highest[:, :-1], largest - ROOM)
        self.shift, self.first_shift = shift.flatten(0, 1), shift[:, 0]
        """(n N, 1, M) or (n N, 1, 1); and of the first chunk, (n, 1, M) or (n, 1, 1)."""
        self.features, self.p = estimator.keys(self.k, self.weights, self.shift)
        self.values = self.chunked(keys.values_and_ones(start, stop, estimator))
        own = torch.bmm(self.values.transpose(1, 2), self.features).unflatten(0, (-1, self.count))
        before, sums = torch.empty_like(own), past.sums
        for i in range(self.count):
            before[:, i] = rescaled(sums, highest[:, i], shift[:, i])
            own[:, i] = rescaled(own[:, i], shift[:, i], highest[:, i + 1])
            sums = rescaled(sums, highest[:, i], highest[:, i + 1]) + own[:, i]
        self.before = before.flatten(0, 1)
        """(n N, e + 1, M)"""
        self.after = Past(highest[:, -1], sums, past.highest)

    def chunked(self, x: Tensor) -> Tensor:
        """(n, T, w) -> (n N, C, w)."""
        return x.reshape(len(x) * self.count, -1, x.shape[-1])

    def whole(self, x: Tensor) -> Tensor:
        """(n N, C, w) -> (n, T, w)."""
        return x.reshape(len(x) // self.count, -1, x.shape[-1])

    def queries(self, q: Tensor, norm: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor | None]:
        """`Estimator.queries` of the block's queries (B, H, L, d); `norm` is (n N, C, 1)."""
        x = self.chunked(rows(q, self.start, self.stop, self.features.dtype))
        return self.estimator.queries(x, self.shift, norm)


def _blocks(length: int, block: int, chunk: int) -> Iterator[tuple[int, int]]:
    """Blocks of whole chunks, and the positions after the last whole chunk."""
    whole, size = length - length % chunk, max(1, block // chunk) * chunk
    yield from ((start, min(start + size, whole)) for start in range(0, whole, size))
    if whole < length:
        yield whole, length


def _beginning(keys: Keys) -> Past:
    shift, sums, highest = beginning(keys)
    return Past((shift - highest).to(sums.dtype), sums, highest)


def chunked_causal(keys: Keys, q: Tensor, out: Tensor, norm: Tensor, block: int, chunk: int) -> tuple[Tensor, Tensor]:
    """As `causal`, for features that have a shift."""
    past = _beginning(keys)
    for start, stop in _blocks(q.shape[2], block, chunk):
        current = Chunks(keys, start, stop, chunk, past)
        features, _, scale = current.queries(q)
        pairs = torch.bmm(features, current.features.transpose(1, 2)).tril_()
        sums = torch.bmm(pairs, current.values).baddbmm_(features, current.before.transpose(1, 2))
        denominator = nonzero(sums[..., -1:])
        write(out, start, stop, current.whole(sums[..., :-1] / denominator))
        logs = denominator.reciprocal() if scale is None else scale + denominator.log2()
        write(norm, start, stop, current.whole(logs))
        past = current.after
    if not keys.estimator.log:
        return past.shift + past.highest, past.sums
    ones = nonzero(past.sums[:, -1:])
    return past.shift + ones.log2() + past.highest, past.sums / ones


def chunked_causal_backward(
    keys: Keys, q: Tensor, results: Outputs, grad: Tensor, gradients: Sequence[Tensor], block: int, chunk: int
) -> None:
    """As `causal_backward`, for features that have a shift."""
    log = keys.estimator.log
    grad_q, grad_k, grad_v = gradients
    done, past = [], _beginning(keys)
    for start, stop in _blocks(q.shape[2], block, chunk):
        current = Chunks(keys, start, stop, chunk, past)
        features, p, upstream = _upstream(current, q, results, grad)
        pairs = torch.bmm(upstream, current.values.transpose(1, 2)).tril_()
        grad_features = torch.bmm(pairs, current.features).baddbmm_(upstream, current.before)
        if log:
            grad_features.mul_(features)
        write(grad_q, start, stop, current.whole(current.estimator.queries_backward(p, grad_features)))
        done.append((start, stop, past._replace(sums=torch.zeros_like(past.sums))))
        past = current.after
    following, later = torch.zeros_like(past.sums), past.shift
    while done:
        start, stop, past = done.pop()
        current = Chunks(keys, start, stop, chunk, past)
        features, _, upstream = _upstream(current, q, results, grad)
        own = torch.bmm(upstream.transpose(1, 2), features).unflatten(0, (-1, current.count))
        shift = current.shift.unflatten(0, (-1, current.count))
        after = torch.empty_like(own)
        for i in reversed(range(current.count)):
            after[:, i] = rescaled(following, shift[:, i], later)
            following, later = after[:, i] + own[:, i], shift[:, i]
        after = after.flatten(0, 1)
        pairs = torch.bmm(features, current.features.transpose(1, 2)).tril_().transpose(1, 2)
        values = torch.bmm(pairs, upstream).baddbmm_(current.features, after.transpose(1, 2))
        write(grad_v, start, stop, current.whole(values[..., :-1]))
        pairs = torch.bmm(upstream, current.values.transpose(1, 2)).tril_().transpose(1, 2)
        grad_features = torch.bmm(pairs, features).baddbmm_(current.values, after)
        block_keys = current.k, current.weights, current.shift, current.p, current.features
        grad_keys = current.estimator.keys_backward(*block_keys, grad_features)
        write(grad_k, start, stop, current.whole(grad_keys))


def _upstream(current: Chunks, q: Tensor, results: Outputs, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Features and p of the queries, and the gradient (n N, C, e + 1) of numerator and denominator."""
    ends, dtype, estimator = (current.start, current.stop), current.features.dtype, current.estimator
    upstream, drift, scale = (current.chunked(x) for x in upstream_gradient(results, grad, *ends, dtype))
    features, p, _ = current.queries(q, scale)
    both = extended(upstream, -drift, estimator.scratch)
    return features, p, both if estimator.log else both.mul_(scale)
