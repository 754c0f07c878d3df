"""Causal attention from random features, forward and backward, in blocks of chunks.

Legend: B batch, H heads, n = B x H, L length, T positions of a block, C positions of a chunk, N chunks of a block,
d head width, e value width, M features.

Within a chunk, the weights of all pairs are computed (C x C); earlier keys enter through their sums. The chunks of a
block are processed together: the sums of each in one product, then the prefix sums.

Features of a block are relative to the shift of the keys before it, which all of its rows see, so no denominator can
underflow; but later keys can overflow it. Where the sums of a chunk outgrow the shift by more than GROWTH, the chunks
before it are processed first, then the chunk in halves, down to one position, for which the shift is raised. Results
of earlier positions do not depend on this.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from protlm.performer.estimator import (
    GROWTH,
    Estimator,
    Keys,
    Outputs,
    extended,
    nonzero,
    rows,
    upstream_gradient,
    widest,
    write,
)


class Past(NamedTuple):
    """The keys before a block."""

    shift: Tensor
    """(n, 1, M) or (n, 1, 1) float64, the logarithm of the sums' scale."""
    sums: Tensor
    """(n, e + 1, M)."""
    highest: Tensor
    """(n, 1, 1) float64, the largest weight of a key; others are relative to it, to keep their digits."""


class KeyBlock:
    """Features of a block of keys, relative to the shift of the keys before it, and the sums before each chunk.

    The block is positions `start` to `stop`, of which there is a multiple of C (`chunk`), or fewer than C.
    """

    def __init__(self, keys: Keys, estimator: Estimator, start: int, stop: int, chunk: int, past: Past) -> None:
        self.estimator, self.start, self.stop, self.past = estimator, start, stop, past
        self.chunks = max(1, (stop - start) // chunk)
        dtype = estimator.scratch.dtype
        self.highest = past.highest if keys.weights is None else keys.weights[:, start:stop].amax(1, keepdim=True)
        alone = stop - start == 1
        self.origin = torch.maximum(past.highest, self.highest) if alone else past.highest
        self.k, self.weights = keys.block(start, stop, self.origin, estimator)
        self.shift, before = (past.shift - self.origin).to(dtype), past.sums.to(dtype)
        if alone and estimator.shifted:
            raised = torch.maximum(self.shift, estimator.log_keys(self.k, self.weights))
            self.shift, before = raised, rescaled(before, self.shift, raised)
        self.features, self.p = estimator.keys(self.k, self.weights, self.shift)
        self.values = keys.values_and_ones(start, stop, estimator)
        own = self.sums(self.values, self.features, "own")
        self.before, self.after = accumulated(before, own, estimator.scratch("before", *own.shape))

    def outgrown(self) -> int | None:
        """The first chunk whose keys are too large for the shift; None if there is none."""
        if self.stop - self.start == 1 or not self.estimator.shifted:
            return None
        if self.estimator.log:
            largest = torch.cat((self.before[:, 1:, -1], self.after[:, None, -1]), 1).amax((0, 2))
        else:
            assert self.weights is not None
            largest = self.chunked(self.weights - self.shift).exp2().unflatten(0, (-1, self.chunks)).amax((0, 2, 3))
        bad = (~(largest <= GROWTH)).tolist()
        return bad.index(True) if any(bad) else None

    def next(self) -> Past:
        """The keys up to the end of the block, normalised."""
        highest = torch.maximum(self.past.highest, self.highest)
        if self.estimator.log:
            ones = nonzero(self.after[:, -1:])
            return Past(self.shift + ones.log2() + self.origin, self.after / ones, highest)
        if not self.estimator.shifted:
            return Past(self.past.shift, self.after, highest)
        raised = (highest - self.origin).to(self.shift)
        return Past(highest, rescaled(self.after, self.shift, torch.maximum(self.shift, raised)), highest)

    def chunked(self, x: Tensor) -> Tensor:
        """(n, T, w) -> (n N, C, w)."""
        return x.reshape(len(x) * self.chunks, -1, x.shape[-1])

    def pairs(self, x: Tensor, y: Tensor) -> Tensor:
        """x_t . y_j within the chunks (n N, C, C), 0 for j > t."""
        x, y = self.chunked(x), self.chunked(y)
        out = self.estimator.scratch("pairs", len(x), x.shape[1], x.shape[1])
        return torch.bmm(x, y.transpose(1, 2), out=out).tril_()

    def sums(self, x: Tensor, y: Tensor, name: str) -> Tensor:
        """The sum over each chunk of x y': (n, N, width of x, width of y)."""
        out = self.estimator.scratch(name, len(x) * self.chunks, x.shape[-1], y.shape[-1])
        torch.bmm(self.chunked(x).transpose(1, 2), self.chunked(y), out=out)
        return out.view(len(x), self.chunks, *out.shape[1:])

    def combined(self, pairs: Tensor, near: Tensor, x: Tensor, far: Tensor) -> Tensor:
        """pairs @ near within the chunks plus x @ far for earlier keys: (n, T, w)."""
        out = self.estimator.scratch(f"combined {near.shape[-1]}", *near.shape)
        result = torch.bmm(pairs, self.chunked(near), out=self.chunked(out))
        result.baddbmm_(self.chunked(x), far.flatten(0, 1))
        return out


def accumulated(first: Tensor, parts: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
    """The sums before each of the parts (n, N, ...), and the sum of all, both starting from `first` (n, ...)."""
    out[:, 0] = first
    for i in range(1, parts.shape[1]):
        torch.add(out[:, i - 1], parts[:, i - 1], out=out[:, i])
    return out, out[:, -1] + parts[:, -1]


def rescaled(sums: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Sums (n, w, M) relative to the shift `before`, made relative to `after`."""
    return sums * (before - after).exp2()


def key_blocks(keys: Keys, q: Tensor, block: int, chunk: int) -> Iterator[KeyBlock]:
    """Blocks in order, as long as their keys allow; in float64 where numbers are very large."""
    length = keys.k.shape[2]
    large = keys.estimator.too_large(q, keys.k, keys.mask)
    wide = [False] * math.ceil(length / chunk)
    if large is not None and bool(large.any()):
        wide = [bool(part.any()) for part in large.split(chunk)]
    estimators = {False: keys.estimator, True: keys.estimator.wide() if any(wide) else keys.estimator}
    # a block is cut where the precision changes, and before an incomplete chunk
    most, cuts = max(1, block // chunk), [0]
    for i in range(1, len(wide)):
        incomplete = i == len(wide) - 1 and length % chunk
        if wide[i] != wide[i - 1] or incomplete or i * chunk - cuts[-1] >= most * chunk:
            cuts.append(i * chunk)
    todo = list(pairwise([*cuts, length]))[::-1]
    past = beginning(keys)
    while todo:
        start, stop = todo.pop()
        current = KeyBlock(keys, estimators[wide[start // chunk]], start, stop, chunk, past)
        bad = current.outgrown()
        if bad is None:
            past = current.next()
            yield current
        elif current.chunks > 1:  # the chunks before it, the chunk itself, and the chunks after it
            ends = sorted({start, start + bad * chunk, start + (bad + 1) * chunk, stop})
            todo += list(pairwise(ends))[::-1]
        else:
            middle = (start + stop) // 2
            todo += [(middle, stop), (start, middle)]


def beginning(keys: Keys) -> Past:
    """No sums yet, and the shift of each protein's first real key."""
    k, estimator = keys.k, keys.estimator
    first = torch.zeros(len(k), dtype=torch.long, device=k.device)
    if keys.mask is not None:
        first = keys.mask[:, 0, :, 0].int().argmax(-1)
    k = k.gather(2, first[:, None, None, None].expand(-1, k.shape[1], 1, k.shape[-1]))
    k = rows(k, 0, 1, estimator.scratch.dtype)
    weights = estimator.weights(k)
    highest = k.new_zeros(1, 1, 1, dtype=widest(k)) if weights is None else weights
    nothing = None if weights is None else torch.zeros_like(weights, dtype=k.dtype)
    shift = estimator.log_keys(k, nothing) + highest
    sums = k.new_zeros(len(k), keys.v.shape[-1] + 1, estimator.count(k.shape[-1]))
    return Past(shift.expand(len(k), -1, -1), sums, highest)


def causal(keys: Keys, q: Tensor, out: Tensor, norm: Tensor, block: int, chunk: int) -> tuple[Tensor, Tensor]:
    """Fills `out` (B, H, L, e) and `norm` (B, H, L, 1); returns shift and sums over all keys, see `Outputs`."""
    current: KeyBlock | None = None
    for current in key_blocks(keys, q, block, chunk):
        start, stop = current.start, current.stop
        features, _, scale = current.estimator.queries(rows(q, start, stop, current.features.dtype), current.shift)
        pairs = current.pairs(features, current.features)
        sums = current.combined(pairs, current.values, features, current.before.transpose(2, 3))
        denominator = nonzero(sums[..., -1:])
        write(out, start, stop, sums[..., :-1] / denominator)
        write(norm, start, stop, denominator.reciprocal() if scale is None else scale + denominator.log2())
    assert current is not None
    return current.next()[:2]


def causal_backward(
    keys: Keys, q: Tensor, results: Outputs, grad: Tensor, gradients: Sequence[Tensor], block: int, chunk: int
) -> None:
    """Fills the gradients of q, k and v (shaped as these) from `grad` (B, H, L, e), the gradient of `results.out`.

    A forward pass over the blocks gives that of q, with sums over earlier keys; a backward pass those of k and v, with
    sums over later queries.
    """
    log = keys.estimator.log
    grad_q, grad_k, grad_v = gradients
    done: list[tuple[Estimator, int, int, Past]] = []
    current: KeyBlock | None = None
    for current in key_blocks(keys, q, block, chunk):
        start, stop = current.start, current.stop
        features, p, upstream = _upstream(current, q, results, grad)
        pairs = current.pairs(upstream, current.values)
        grad_features = current.combined(pairs, current.features, upstream, current.before)
        if log:
            grad_features.mul_(features)
        write(grad_q, start, stop, current.estimator.queries_backward(p, grad_features))
        shift = current.shift + current.origin
        done.append((current.estimator, start, stop, Past(shift, current.past.sums[:, :, :0], current.origin)))
    assert current is not None
    following, later = torch.zeros_like(current.after), done[-1][3].shift
    while done:
        estimator, start, stop, past = done.pop()
        nothing = torch.zeros_like(following)
        current = KeyBlock(keys, estimator, start, stop, chunk, past._replace(sums=nothing))
        following, later = rescaled(following, past.shift, later).to(current.features.dtype), past.shift
        features, _, upstream = _upstream(current, q, results, grad)
        own = current.sums(upstream, features, "own").flip(1)
        after, following = accumulated(following, own, torch.empty_like(own))
        after = after.flip(1)
        pairs = current.pairs(features, current.features).transpose(1, 2)
        write(grad_v, start, stop, current.combined(pairs, upstream, current.features, after.transpose(2, 3))[..., :-1])
        pairs = current.pairs(upstream, current.values).transpose(1, 2)
        grad_features = current.combined(pairs, features, current.values, after)
        block_keys = current.k, current.weights, current.shift, current.p, current.features
        write(grad_k, start, stop, estimator.keys_backward(*block_keys, grad_features))


def _upstream(block: KeyBlock, q: Tensor, results: Outputs, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Features and p of the queries, and the gradient (n, T, e + 1) of numerator and denominator."""
    start, stop, estimator, dtype = block.start, block.stop, block.estimator, block.features.dtype
    upstream, drift, scale = upstream_gradient(results, grad, start, stop, dtype)
    features, p, _ = estimator.queries(rows(q, start, stop, dtype), block.shift, scale)
    both = extended(upstream, -drift, estimator.scratch)
    return features, p, both if estimator.log else both.mul_(scale)
