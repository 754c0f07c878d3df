"""Bidirectional attention from random features, forward and backward.

Legend: B batch, H heads, n = B x H, L length, T positions of a block, d head width, e value width, M features.
"""

import torch
from torch import Tensor

from protlm.performer.blocks import Keys, State, finite, nonzero, rows, write
from protlm.performer.estimator import Estimator

GROWTH = 2.0**60  # sums may outgrow a guessed shift by so much; float32 has 2^127


def bidirectional(estimator: Estimator, q: Tensor, keys: Keys, out: Tensor, norm: Tensor, block: int) -> State:
    """Fills `out` (B, H, L, e) and `norm` (B, H, L, 1), which `bidirectional_backward` needs; returns the state."""
    length, scratch = q.shape[2], estimator.scratch
    blocks = [(start, min(start + block, length)) for start in range(0, length, block)]
    k, weights = keys.block(0, length, max(1, length // 64))
    shift = finite(estimator.log_keys(k, weights).amax(1, keepdim=True))  # a guess from some of the keys
    if estimator.log:
        ones, sums = _sums(keys, blocks, shift)
        if not bool(((ones >= 0.5) & (ones <= GROWTH)).all()):
            highest = [estimator.log_keys(*keys.block(*ends)).amax(1, keepdim=True) for ends in blocks]
            shift = finite(torch.stack(highest).amax(0))
            ones, sums = _sums(keys, blocks, shift)
            ones = nonzero(ones)
        shift = shift + ones.log2()
        sums = sums / ones
        ones = torch.ones_like(ones)
    else:
        if estimator.quadratic:
            highest = [estimator.log_keys(*keys.block(*ends)).amax(1, keepdim=True) for ends in blocks]
            shift = finite(torch.stack(highest).amax(0))
        ones, sums = _sums(keys, blocks, shift)
    for start, stop in blocks:
        features, _, scale = estimator.queries(rows(q, start, stop, keys.dtype), shift)
        if scale is None:
            denominator = nonzero((features * ones).sum(-1, keepdim=True))
            write(norm, start, stop, denominator.reciprocal())
        else:
            denominator = features.sum(-1, keepdim=True)
            write(norm, start, stop, scale + denominator.log2())
        means = torch.bmm(features, sums.transpose(1, 2), out=scratch("means", *features.shape[:2], sums.shape[1]))
        write(out, start, stop, means.div_(denominator))
    return shift.expand(len(sums), -1, -1), torch.cat((sums, ones), 1)


def _sums(keys: Keys, blocks: list[tuple[int, int]], shift: Tensor) -> tuple[Tensor, Tensor]:
    """The sums of features (n, 1, M), and of features times values (n, e, M)."""
    ones: Tensor | None = None
    sums: Tensor | None = None
    for start, stop in blocks:
        features, _ = keys.estimator.keys(*keys.block(start, stop), shift)
        values = keys.values(start, stop).transpose(1, 2)
        if ones is None or sums is None:
            ones, sums = features.sum(1, keepdim=True), torch.bmm(values, features)
        else:
            ones += features.sum(1, keepdim=True)
            sums.baddbmm_(values, features)
    assert ones is not None
    assert sums is not None
    return ones, sums


def bidirectional_backward(
    estimator: Estimator,
    q: Tensor,
    keys: Keys,
    out: Tensor,
    norm: Tensor,
    state: State,
    grad: Tensor,
    block: int,
    gradients: tuple[Tensor, Tensor, Tensor],
) -> None:
    """Fills the gradients of q, k and v (shaped as these) from `grad` (B, H, L, e), the gradient of `out`."""
    grad_q, grad_k, grad_v = gradients
    shift, sums = state
    ones, sums = sums[:, -1:], sums[:, :-1]
    length, dtype, scratch = q.shape[2], keys.dtype, estimator.scratch
    blocks = [(start, min(start + block, length)) for start in range(0, length, block)]
    grad_sums = torch.zeros_like(sums)
    grad_ones = torch.zeros_like(ones)
    for start, stop in blocks:
        upstream = rows(grad, start, stop, dtype)
        drift = (upstream * rows(out, start, stop, dtype)).sum(-1, keepdim=True)
        scale = rows(norm, start, stop, dtype)
        features, p, _ = estimator.queries(rows(q, start, stop, dtype), shift, scale)
        if not estimator.log:
            upstream, drift = upstream * scale, drift * scale
        grad_features = torch.bmm(upstream, sums, out=scratch("gradient", *features.shape))
        grad_sums.baddbmm_(upstream.transpose(1, 2), features)
        if estimator.log:
            grad_features.sub_(drift).mul_(features)
            grad_ones += grad_features.sum(1, keepdim=True)
        else:
            grad_features.addcmul_(drift, ones, value=-1)
            grad_ones -= (features * drift).sum(1, keepdim=True)
        write(grad_q, start, stop, estimator.queries_backward(p, grad_features))
    if estimator.log:  # here the sum of features times gradients was added up
        grad_ones -= (sums * grad_sums).sum(1, keepdim=True)
    for start, stop in blocks:
        k, weights = keys.block(start, stop)
        features, p = estimator.keys(k, weights, shift)
        values = keys.values(start, stop)
        write(grad_v, start, stop, torch.bmm(features, grad_sums.transpose(1, 2)))
        grad_features = scratch("gradient", *features.shape)
        torch.baddbmm(grad_ones, values, grad_sums, out=grad_features)
        write(grad_k, start, stop, estimator.keys_backward(k, weights, shift, p, features, grad_features))
