"""Attention from random features as one PyTorch operator, linear in length, with its own backward.

Legend: B batch, H heads, L length, d head width, e value width, M features.

Queries, keys and values are taken block by block, so that features stay in the processor's cache and never exist for
the whole length; the backward pass computes them again. With logarithms u of the keys' and s of the queries' positive
features, attention of position t is

    sum_ji exp(s_ti + u_ji) v_j / sum_ji exp(s_ti + u_ji).

Keys are kept as sums per feature i, relative to a shift m_i that moves to the queries: exp(u_ji - m_i) and
exp(s_ti + m_i). Where m_i is the logarithm of the sum itself and the largest weight of a query is scaled to 1, the
denominator is at least 1, without an epsilon, and nothing overflows. docs/algorithm.md has the proof.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from protlm.performer.bidirectional import bidirectional, bidirectional_backward
from protlm.performer.blocks import Keys
from protlm.performer.causal import causal, causal_backward
from protlm.performer.estimator import Estimator, Scratch, precision, widest, without_autocast
from protlm.performer.features import decode

CHUNK = 64
"""Positions whose pairs are computed in the causal case."""
NAMESPACE = "protlm" if __package__ == "protlm.performer" else f"protlm_{__name__.encode().hex()}"
"""Of the operators; a copy of this file, as in an exported model, has operators of its own."""


def linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    feature_map: str,
    weight: Tensor | None,
    bias: Tensor | None = None,
    key_mask: Tensor | None = None,
    scale: float = 1.0,
    causal: bool = False,
    chunk: int = CHUNK,
    block: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Attention, and what is kept of the keys.

    Args:
        q, k: (B, H, L, d), v: (B, H, L, e); any float dtype and strides. Sums are float32 (float64 for float64).
        feature_map: the map, by `features.encode`; its affine part is given by the next two.
        weight: (M, d) with `scale` in it, or None if the map has no projection; bias: (M), None for zeros.
        key_mask: (B, L) bool, true where a key is real.
        scale: what q and k are multiplied with, usually d^(-1/4).
        causal: position t sees positions up to t only.
        chunk: positions whose pairs are computed in the causal case.
        block: positions done at once; 0 for what suits the device.

    Returns:
        Weighted means of the values (B, H, L, e) in the dtype of v, 0 for a position that sees no key, and the state of
        `FavorAttention.step`: shift (B, H, 1, M or 1) and sums (B, H, e + 1, M). Gradients reach q, k and v from
        the first only.
    """
    out, _, shift, sums = _LinearAttention.apply(
        q, k, v, key_mask, weight, bias, scale, feature_map, causal, chunk, block
    )
    return out, shift, sums


def _like(x: Tensor, width: int) -> Tensor:
    """An empty tensor (B, H, L, width), with heads inside of positions in memory if x is so."""
    batch, heads, length, _ = x.shape
    if x.stride(1) < x.stride(2):
        return x.new_empty(batch, length, heads, width).transpose(1, 2)
    return x.new_empty(batch, heads, length, width)


@contextmanager
def _products_of(dtype: torch.dtype) -> Iterator[None]:
    """For inputs of 16 bits, products of float32 tensors may use the processor's 16-bit units, with float32 sums."""
    backends: list[Any] = [getattr(torch.backends, name).matmul for name in ("mkldnn", "cuda")]
    before = [backend.fp32_precision for backend in backends]
    if dtype.itemsize == 2:
        for backend, precision in zip(backends, ("bf16", "tf32"), strict=True):
            backend.fp32_precision = precision
    try:
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


def _groups(q: Tensor, features: int, block: int) -> Iterator[tuple[slice, int]]:
    """Parts of the batch to be done together, each with the positions of a block."""
    elements = 2**20 if q.device.type == "cpu" else 2**26
    batch, heads, length, _ = q.shape
    together = max(1, min(batch, elements // (heads * features * min(length, 512))))
    positions = block or max(128, elements // (together * heads * features))
    for start in range(0, batch, together):
        yield slice(start, start + together), positions


@torch.library.custom_op(f"{NAMESPACE}::linear_attention", mutates_args=())
def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_mask: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    scale: float,
    feature_map: str,
    is_causal: bool,
    chunk: int,
    block: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    results = _outputs(q, k, v, weight, scale, feature_map)
    if not results[0].numel():
        return results
    with without_autocast(q.device), _products_of(v.dtype):
        estimator = _estimator(q, k, v, key_mask, weight, bias, scale, feature_map, is_causal)
        _fill(results, estimator, q, k, v, key_mask, is_causal, chunk, block)
    return results


def _estimator(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_mask: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    scale: float,
    feature_map: str,
    is_causal: bool,
) -> Estimator:
    dtype = precision(q, k, v)
    weight, bias = (x if x is None else x.to(dtype) for x in (weight, bias))
    scratch = Scratch(q.new_empty(0, dtype=dtype))
    estimator = Estimator(decode(feature_map), weight, bias, scale, scratch, is_causal)
    if not is_causal:  # the other decides it for each block
        large = estimator.too_large(q, k, None if key_mask is None else key_mask[:, None, :, None])
        if large is not None and bool(large.any()):
            return estimator.wide()
    return estimator


def _fill(
    results: tuple[Tensor, Tensor, Tensor, Tensor],
    estimator: Estimator,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_mask: Tensor | None,
    is_causal: bool,
    chunk: int,
    block: int,
) -> None:
    out, norm, shift, sums = results
    for part, size in _groups(q, sums.shape[3], block):
        keys = Keys(estimator, k[part], v[part], None if key_mask is None else key_mask[part])
        if is_causal:
            state = causal(estimator, q[part], keys, out[part], norm[part], size, chunk)
        else:
            state = bidirectional(estimator, q[part], keys, out[part], norm[part], size)
        for whole, value in zip((shift, sums), state, strict=True):
            whole[part] = value.view_as(whole[part])


def _outputs(
    q: Tensor, k: Tensor, v: Tensor, weight: Tensor | None, scale: float, feature_map: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    batch, heads, length, width = q.shape
    chosen = decode(feature_map)
    features = Estimator(chosen, weight, None, scale, Scratch(q)).count(width)
    return (
        _like(v, v.shape[-1]),
        q.new_empty(batch, heads, length, 1, dtype=widest(q)),
        q.new_empty(batch, heads, 1, features if chosen.log else 1, dtype=widest(q)),
        q.new_empty(batch, heads, v.shape[-1] + 1, features, dtype=precision(q, k, v)),
    )


@_attention.register_fake
def _(q, k, v, key_mask, weight, bias, scale, feature_map, is_causal, chunk, block):
    return _outputs(q, k, v, weight, scale, feature_map)


@torch.library.custom_op(f"{NAMESPACE}::linear_attention_backward", mutates_args=())
def _attention_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_mask: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    out: Tensor,
    norm: Tensor,
    shift: Tensor,
    sums: Tensor,
    scale: float,
    feature_map: str,
    is_causal: bool,
    chunk: int,
    block: int,
) -> tuple[Tensor, Tensor, Tensor]:
    grad_q, grad_k, grad_v = _like(q, q.shape[-1]), _like(k, k.shape[-1]), _like(v, v.shape[-1])
    if not out.numel():
        return grad_q, grad_k, grad_v
    with without_autocast(q.device), _products_of(v.dtype):
        estimator = _estimator(q, k, v, key_mask, weight, bias, scale, feature_map, is_causal)
        for part, size in _groups(q, sums.shape[3], block):
            keys = Keys(estimator, k[part], v[part], None if key_mask is None else key_mask[part])
            here = grad_q[part], grad_k[part], grad_v[part]
            if is_causal:
                causal_backward(estimator, q[part], keys, out[part], norm[part], grad[part], size, chunk, here)
            else:
                state = shift[part].flatten(0, 1), sums[part].flatten(0, 1)
                bidirectional_backward(estimator, q[part], keys, out[part], norm[part], state, grad[part], size, here)
    return grad_q, grad_k, grad_v


@_attention_backward.register_fake
def _(grad, q, k, v, *others):
    return _like(q, q.shape[-1]), _like(k, k.shape[-1]), _like(v, v.shape[-1])


class _LinearAttention(torch.autograd.Function):
    """The two operators joined; unlike operators with a gradient of their own, it works under torch.func."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_mask: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        scale: float,
        feature_map: str,
        is_causal: bool,
        chunk: int,
        block: int,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return _attention(q, k, v, key_mask, weight, bias, scale, feature_map, is_causal, chunk, block)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs[:6], *output)
        ctx.mark_non_differentiable(*output[1:])
        ctx.options = inputs[6:]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return (*_Gradients.apply(grads[0], *ctx.saved_tensors, *ctx.options), *[None] * 8)


class _Gradients(torch.autograd.Function):
    """Second derivatives fail loudly; they would be wrong without this."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        grad: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        key_mask: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        out: Tensor,
        norm: Tensor,
        shift: Tensor,
        sums: Tensor,
        scale: float,
        feature_map: str,
        is_causal: bool,
        chunk: int,
        block: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        return _attention_backward(
            grad, q, k, v, key_mask, weight, bias, out, norm, shift, sums, scale, feature_map, is_causal, chunk, block
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> None:
        raise NotImplementedError("linear attention has no second derivatives")


def _register_vmap(operator: Any, shared: tuple[int, ...]) -> None:
    """One more batch dimension becomes part of the batch.

    Args:
        operator: one of the two above.
        shared: which arguments are directions.
    """

    def rule(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        if any(in_dims[i] is not None for i in shared):
            raise NotImplementedError("vmap over random directions: use the same for all")

        def fold(i: int, x: Any) -> Any:
            if not isinstance(x, Tensor) or i in shared:
                return x
            dim = in_dims[i]
            x = x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
            return x.flatten(0, 1)

        results = operator(*(fold(i, x) for i, x in enumerate(arguments)))
        return tuple(x.unflatten(0, (info.batch_size, -1)) for x in results), (0,) * len(results)

    operator.register_vmap(rule)


_register_vmap(_attention, (4, 5))
_register_vmap(_attention_backward, (5, 6))
