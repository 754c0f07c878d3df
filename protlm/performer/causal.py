"""Causal attention from random features, forward and backward, in blocks of chunks.

Legend: B batch, H heads, n = B x H, L length, T positions of a block, C of a chunk, N chunks of a block, d head width,
e value width, M features.

Within a chunk, weights of pairs are computed (C x C); what came before it is in the state. The chunks of a block are
done together: their own sums in one product, then the prefix sums.

A block is measured by the shift of the keys before it, which each of its rows sees, so no denominator can underflow;
but later keys can overflow it. A block whose sums outgrow the shift by more than GROWTH is done in two halves, down
to one position, for which the shift is raised first. What earlier positions get does not depend on it.
"""

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from protlm.performer.blocks import Keys, State, extended, nonzero, rows, upstream_gradient, write
from protlm.performer.estimator import Estimator

GROWTH = 2.0**60  # a query's weight that underflows at 2^-126 is then under 2^-66 of its denominator


class Block:
    """A block of keys measured by the shift of the keys before it, with the sums before each of its chunks.

    Args:
        keys: all of them.
        start, stop: the positions of the block.
        chunk: C; a longer block is a multiple of it.
        state: of the keys before.
    """

    def __init__(self, keys: Keys, start: int, stop: int, chunk: int, state: State) -> None:
        self.estimator, self.start, self.stop = keys.estimator, start, stop
        self.chunks = max(1, (stop - start) // chunk)
        self.k, self.weights = keys.block(start, stop)
        self.shift, before = state
        if stop - start == 1 and self.estimator.shifted:
            raised = torch.maximum(self.shift, self.estimator.log_keys(self.k, self.weights))
            self.shift, before = raised, rescaled(before, self.shift, raised)
        self.features, self.p = self.estimator.keys(self.k, self.weights, self.shift)
        self.values = keys.values_and_ones(start, stop)
        own = self.sums(self.values, self.features, "own")
        self.before, self.after = accumulated(before, own, self.estimator.scratch("before", *own.shape))

    def outgrown(self) -> bool:
        """Whether the block's own keys are too large for its shift."""
        if self.stop - self.start == 1 or not self.estimator.shifted:
            return False
        if self.estimator.log:
            return not bool((self.after[:, -1] <= GROWTH).all())
        assert self.weights is not None
        return not bool(((self.weights - self.shift).exp2() <= GROWTH).all())

    def state(self) -> State:
        """Of the keys up to the block's end, normalised."""
        if self.estimator.log:
            ones = nonzero(self.after[:, -1:])
            return self.shift + ones.log2(), self.after / ones
        if not self.estimator.shifted:
            return self.shift, self.after
        raised = torch.maximum(self.shift, self.estimator.log_keys(self.k, self.weights).amax(1, keepdim=True))
        return raised, rescaled(self.after, self.shift, raised)

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
        """pairs @ near within the chunks, and x @ far for the rest: (n, T, w)."""
        out = self.estimator.scratch(f"combined {near.shape[-1]}", *near.shape)
        result = torch.bmm(pairs, self.chunked(near), out=self.chunked(out))
        result.baddbmm_(self.chunked(x), far.flatten(0, 1))
        return out


def accumulated(first: Tensor, parts: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
    """The sums before each of the parts (n, N, ...), and the sum of all, both with `first` (n, ...)."""
    out[:, 0] = first
    for i in range(1, parts.shape[1]):
        torch.add(out[:, i - 1], parts[:, i - 1], out=out[:, i])
    return out, out[:, -1] + parts[:, -1]


def rescaled(sums: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """Sums (n, w, M) relative to one shift, made relative to another."""
    return sums * (before - after).exp2()


def blocks(keys: Keys, state: State, block: int, chunk: int) -> Iterator[Block]:
    """Blocks in order, as long as their keys permit."""
    length = keys.k.shape[2]
    whole = length - length % chunk
    cuts = [*range(0, whole, max(chunk, block - block % chunk)), *([whole] if whole < length else []), length]
    todo = list(pairwise(cuts))[::-1]
    while todo:
        start, stop = todo.pop()
        current = Block(keys, start, stop, chunk, state)
        if current.outgrown():
            half = (stop - start) // 2
            middle = start + (half - half % chunk if stop - start > chunk else half)
            todo += [(middle, stop), (start, middle)]
        else:
            state = current.state()
            yield current


def initial_state(keys: Keys) -> State:
    """No sums yet, and the shift of each protein's first real key."""
    k, estimator = keys.first, keys.estimator
    zero = k.new_zeros(1, 1, 1) if estimator.quadratic else None  # its weight is what the others are relative to
    shift = estimator.log_keys(k, zero).expand(len(k), -1, -1)
    return shift, k.new_zeros(len(k), keys.v.shape[-1] + 1, estimator.count(k.shape[-1]))


def causal(estimator: Estimator, q: Tensor, keys: Keys, out: Tensor, norm: Tensor, block: int, chunk: int) -> State:
    """Fills `out` (B, H, L, e) and `norm` (B, H, L, 1), which `causal_backward` needs; returns the state at the end."""
    state = initial_state(keys)
    for current in blocks(keys, state, block, chunk):
        start, stop = current.start, current.stop
        features, _, scale = estimator.queries(rows(q, start, stop, keys.dtype), current.shift)
        pairs = current.pairs(features, current.features)
        sums = current.combined(pairs, current.values, features, current.before.transpose(2, 3))
        denominator = nonzero(sums[..., -1:])
        write(out, start, stop, sums[..., :-1] / denominator)
        write(norm, start, stop, denominator.reciprocal() if scale is None else scale + denominator.log2())
        state = current.state()
    return state


def causal_backward(
    estimator: Estimator,
    q: Tensor,
    keys: Keys,
    out: Tensor,
    norm: Tensor,
    grad: Tensor,
    block: int,
    chunk: int,
    gradients: tuple[Tensor, Tensor, Tensor],
) -> None:
    """Fills the gradients of q, k and v (shaped as these) from `grad` (B, H, L, e), the gradient of `out`.

    Once forward for q, with the sums over the keys before; once backward for k and v, with the sums over the queries
    behind.
    """
    grad_q, grad_k, grad_v = gradients
    dtype = keys.dtype
    done: list[tuple[int, int, Tensor]] = []
    for current in blocks(keys, initial_state(keys), block, chunk):
        start, stop = current.start, current.stop
        features, p, upstream = _upstream(estimator, q, out, norm, grad, current, dtype)
        pairs = current.pairs(upstream, current.values)
        grad_features = current.combined(pairs, current.features, upstream, current.before)
        if estimator.log:
            grad_features.mul_(features)
        write(grad_q, start, stop, estimator.queries_backward(p, grad_features))
        done.append((start, stop, current.shift))
    behind = torch.zeros_like(initial_state(keys)[1])
    shift = done[-1][2]
    while done:
        start, stop, before = done.pop()
        behind, shift = rescaled(behind, before, shift), before
        current = Block(keys, start, stop, chunk, (shift, torch.zeros_like(behind)))
        features, _, upstream = _upstream(estimator, q, out, norm, grad, current, dtype)
        own = current.sums(upstream, features, "own").flip(1)
        after, behind = accumulated(behind, own, torch.empty_like(own))
        after = after.flip(1)
        pairs = current.pairs(features, current.features).transpose(1, 2)
        write(grad_v, start, stop, current.combined(pairs, upstream, current.features, after.transpose(2, 3))[..., :-1])
        pairs = current.pairs(upstream, current.values).transpose(1, 2)
        grad_features = current.combined(pairs, features, current.values, after)
        k_grad = estimator.keys_backward(
            current.k, current.weights, current.shift, current.p, current.features, grad_features
        )
        write(grad_k, start, stop, k_grad)


def _upstream(
    estimator: Estimator, q: Tensor, out: Tensor, norm: Tensor, grad: Tensor, block: Block, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """Features and p of the queries, and the gradient (n, T, e + 1) of numerator and denominator."""
    start, stop = block.start, block.stop
    upstream, drift, scale = upstream_gradient(out, norm, grad, start, stop, dtype)
    features, p, _ = estimator.queries(rows(q, start, stop, dtype), block.shift, scale)
    both = extended(upstream, -drift, estimator.scratch)
    return features, p, both if estimator.log else both.mul_(scale)
