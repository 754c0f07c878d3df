"""Bidirectional attention from random features, forward and backward.

Legend: B batch, H heads, n = B x H, L length, T positions of a block, d head width, e value width, M features.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from protlm.performer.estimator import (
    GROWTH,
    Keys,
    Outputs,
    extended,
    finite,
    nonzero,
    rows,
    upstream_gradient,
    waits,
    write,
)

SAMPLE = 64  # keys that the guess is based on


def bidirectional(keys: Keys, q: Tensor, out: Tensor, norm: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Fills `out` (B, H, L, e) and `norm` (B, H, L, 1); returns shift and sums over the keys, see `Outputs`."""
    estimator = keys.estimator
    shift, sums = _reduced(keys, _blocks(q, block))
    for start, stop in _blocks(q, block):
        features, _, scale = estimator.queries(rows(q, start, stop, estimator.scratch.dtype), shift)
        used = sums if scale is None else sums[:, :-1]
        means = estimator.scratch("means", *features.shape[:2], used.shape[1])
        torch.bmm(features, used.transpose(1, 2), out=means)
        if scale is None:
            denominator = nonzero(means[..., -1:])
            write(out, start, stop, means[..., :-1] / denominator)
            write(norm, start, stop, denominator.reciprocal())
        else:
            denominator = features.sum(-1, keepdim=True)  # the sums are normalised
            write(out, start, stop, means.div_(denominator))
            write(norm, start, stop, scale + denominator.log2())
    return (shift + keys.highest()).expand(len(sums), -1, -1), sums


def bidirectional_backward(
    keys: Keys, q: Tensor, results: Outputs, grad: Tensor, gradients: Sequence[Tensor], block: int
) -> None:
    """Fills the gradients of q, k and v (shaped as these) from `grad` (B, H, L, e), the gradient of `results.out`."""
    estimator = keys.estimator
    grad_q, grad_k, grad_v = gradients
    origin, dtype = keys.highest(), estimator.scratch.dtype
    shift = (results.shift.flatten(0, 1) - origin).to(dtype)
    sums = results.sums.flatten(0, 1).to(dtype)
    grad_sums = torch.zeros_like(sums)
    for start, stop in _blocks(q, block):
        upstream, drift, scale = upstream_gradient(results, grad, start, stop, dtype)
        features, p, _ = estimator.queries(rows(q, start, stop, dtype), shift, scale)
        both = extended(upstream, -drift, estimator.scratch)
        if not estimator.log:
            both.mul_(scale)
        grad_sums.baddbmm_(both.transpose(1, 2), features)
        grad_features = estimator.scratch("gradient", *features.shape)
        torch.bmm(both, sums, out=grad_features)
        if estimator.log:
            grad_features.mul_(features)
        write(grad_q, start, stop, estimator.queries_backward(p, grad_features))
    for start, stop in _blocks(q, block):
        k, weights = keys.block(start, stop, origin, estimator)
        features, p = estimator.keys(k, weights, shift)
        write(grad_v, start, stop, torch.bmm(features, grad_sums[:, :-1].transpose(1, 2)))
        grad_features = estimator.scratch("gradient", *features.shape)
        torch.bmm(keys.values_and_ones(start, stop, estimator), grad_sums, out=grad_features)
        write(grad_k, start, stop, estimator.keys_backward(k, weights, shift, p, features, grad_features))


def _blocks(q: Tensor, block: int) -> list[tuple[int, int]]:
    return [(start, min(start + block, q.shape[2])) for start in range(0, q.shape[2], block)]


def _reduced(keys: Keys, blocks: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
    """Shift, relative to the largest weight, and sums over all keys; normalised if features are positive."""
    estimator, origin, length = keys.estimator, keys.highest(), keys.k.shape[2]
    if not estimator.log:
        shift = keys.k.new_zeros(1, 1, 1, dtype=estimator.scratch.dtype)
        return shift, _sums(keys, blocks, shift, origin)
    guessed = None if waits(keys.k) else _guessed(keys, blocks, origin, length)
    if guessed is None:
        highest = [estimator.log_keys(*keys.block(*ends, origin, estimator)).amax(1, keepdim=True) for ends in blocks]
        shift = finite(torch.stack(highest).amax(0))
        guessed = shift, _sums(keys, blocks, shift, origin)
    shift, sums = guessed
    ones = nonzero(sums[:, -1:])
    return shift + ones.log2(), sums / ones


def _guessed(keys: Keys, blocks: list[tuple[int, int]], origin: Tensor, length: int) -> tuple[Tensor, Tensor] | None:
    """The same from the largest of some keys; None if it is far from the largest of all, so that sums may overflow."""
    some = keys.block(0, length, origin, keys.estimator, max(1, length // SAMPLE))
    shift = finite(keys.estimator.log_keys(*some).amax(1, keepdim=True))
    sums = _sums(keys, blocks, shift, origin)
    ones = sums[:, -1]
    return (shift, sums) if bool(((ones >= 0.5) & (ones <= GROWTH)).all()) else None


def _sums(keys: Keys, blocks: list[tuple[int, int]], shift: Tensor, origin: Tensor) -> Tensor:
    """(n, e + 1, M): the sums of features times values, and of features."""
    sums: Tensor | None = None
    for start, stop in blocks:
        features, _ = keys.estimator.keys(*keys.block(start, stop, origin, keys.estimator), shift)
        values = keys.values_and_ones(start, stop, keys.estimator).transpose(1, 2)
        sums = torch.bmm(values, features) if sums is None else sums.baddbmm_(values, features)
    assert sums is not None
    return sums
