"""Random-feature attention as one PyTorch operator, linear in length, with its own backward.

Legend: B batch, H heads, L length, d head width, e value width, M features.

Queries, keys and values are processed in blocks, so that features stay in the processor's cache and never exist for
the whole length; the backward pass recomputes them. With the logarithms u of the keys' and s of the queries' positive
features, attention of position t is

    sum_ji exp(s_ti + u_ji) v_j / sum_ji exp(s_ti + u_ji).

Keys are reduced to sums per feature i, relative to a shift m_i that moves to the queries: exp(u_ji - m_i) and
exp(s_ti + m_i). If m_i is the logarithm of the sum itself and the largest weight of a query is scaled to 1, the
denominator is at least 1, without an epsilon, and nothing overflows. docs/algorithm.md has the proof.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from protlm.performer.bidirectional import bidirectional, bidirectional_backward
from protlm.performer.causal import causal, causal_backward
from protlm.performer.causal_chunks import chunked_causal, chunked_causal_backward
from protlm.performer.estimator import Estimator, Keys, Outputs, Scratch, precision, waits, widest, without_autocast
from protlm.performer.features import decode_map
from protlm.performer.operators import operator

CHUNK = 64
"""Positions whose pairwise products are computed in the causal case."""


class Inputs(NamedTuple):
    """The tensors of one call.

    Args:
        q, k: (B, H, L, d), v: (B, H, L, e); any float dtype and strides. Sums are float32 (float64 for float64).
        key_mask: (B, L) bool, true where a key is real; None if all are.
        weight: (M, d), the directions; None if the map has no projection.
        bias: (M); None for zeros.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    key_mask: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None

    def scaled(self, scale: float) -> "Inputs":
        """The same with directions multiplied by `scale`."""
        return self if self.weight is None else self._replace(weight=self.weight * scale)


class Options(NamedTuple):
    """What else determines the result of one call.

    Args:
        feature_map: the map, as a string from `features.encode_map`.
        scale: what q and k, or else the directions, are multiplied by, usually d^(-1/4).
        causal: position t sees positions up to t only.
        chunk: positions whose pairwise products are computed in the causal case.
        block: positions processed at once; 0 for a size that suits the device.
    """

    feature_map: str
    scale: float = 1.0
    causal: bool = False
    chunk: int = CHUNK
    block: int = 0


# The schemas of the operators: the fields above one by one, since operators take no tuples. Their weight is scaled.
_INPUTS = "Tensor q, Tensor k, Tensor v, Tensor? key_mask, Tensor? weight, Tensor? bias"
_OPTIONS = "str feature_map, float scale, bool causal, SymInt chunk, SymInt block"
_RESULTS = "Tensor out, Tensor norm, Tensor shift, Tensor sums"
_FIRST, _LAST = len(Inputs._fields), -len(Options._fields)


def linear_attention(inputs: Inputs, options: Options) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted means of the values (B, H, L, e) in the dtype of v, 0 for a position that sees no key, and the sums.

    These are the state of `FavorAttention.step`: shift (B, H, 1, M or 1) and sums (B, H, e + 1, M). Gradients reach q,
    k and v from the means only.
    """
    out, _, shift, sums = _LinearAttention.apply(*inputs.scaled(options.scale), *options)
    return out, shift, sums


def like(x: Tensor, width: int) -> Tensor:
    """An empty tensor (B, H, L, width) in the memory order of x: heads within positions, or positions within heads."""
    batch, heads, length, _ = x.shape
    if x.stride(1) < x.stride(2):
        return x.new_empty(batch, length, heads, width).transpose(1, 2)
    return x.new_empty(batch, heads, length, width)


@contextmanager
def _products_of(dtype: torch.dtype) -> Iterator[None]:
    """Lets products of float32 tensors use the processor's 16-bit units, with float32 sums, if inputs have 16 bits."""
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


def _parts(inputs: Inputs, options: Options, estimator: Estimator, features: int) -> Iterator[tuple[slice, Keys, int]]:
    """Parts of the batch that are processed together: their rows, their keys, and the positions of a block."""
    q, k, v, key_mask = inputs[:4]
    elements = 2**20 if q.device.type == "cpu" else 2**26
    batch, heads, length, _ = q.shape
    together = max(1, min(batch, elements // (heads * features * min(length, 512))))
    positions = options.block or max(128, elements // (together * heads * features))
    for start in range(0, batch, together):
        rows = slice(start, start + together)
        yield rows, Keys(estimator, k[rows], v[rows], None if key_mask is None else key_mask[rows]), positions


def _estimator(inputs: Inputs, options: Options) -> Estimator:
    q, k, v, key_mask, weight, bias = inputs
    dtype = precision(q, k, v)
    weight, bias = (x if x is None else x.to(dtype) for x in (weight, bias))
    scratch = Scratch(q.new_empty(0, dtype=dtype))
    estimator = Estimator(decode_map(options.feature_map), weight, bias, options.scale, scratch, options.causal)
    # causal attention decides this for each block; elsewhere than on the CPU, numbers so large lose digits
    if not options.causal and not waits(q):
        large = estimator.too_large(q, k, None if key_mask is None else key_mask[:, None, :, None])
        if large is not None and bool(large.any()):
            return estimator.wide()
    return estimator


def _outputs(*arguments: Any) -> Outputs:
    """Empty results of `_attention`."""
    (q, k, v, _, weight, _), options = Inputs(*arguments[:_FIRST]), Options(*arguments[_LAST:])
    (batch, heads, length, width), chosen = q.shape, decode_map(options.feature_map)
    features = Estimator(chosen, weight, None, options.scale, Scratch(q)).count(width)
    return Outputs(
        like(v, v.shape[-1]),
        q.new_empty(batch, heads, length, 1, dtype=widest(q)),
        q.new_empty(batch, heads, 1, features if chosen.log else 1, dtype=widest(q)),
        q.new_empty(batch, heads, v.shape[-1] + 1, features, dtype=precision(q, k, v)),
    )


def _attention(*arguments: Any) -> tuple[Tensor, ...]:
    inputs, options, results = Inputs(*arguments[:_FIRST]), Options(*arguments[_LAST:]), _outputs(*arguments)
    if not results.out.numel():
        return tuple(results)
    with without_autocast(inputs.q.device), _products_of(inputs.v.dtype):
        estimator = _estimator(inputs, options)
        for rows, keys, block in _parts(inputs, options, estimator, results.sums.shape[3]):
            q, out, norm = inputs.q[rows], results.out[rows], results.norm[rows]
            if options.causal:
                compute = chunked_causal if waits(q) and estimator.shifted else causal
                shift, sums = compute(keys, q, out, norm, block, options.chunk)
            else:
                shift, sums = bidirectional(keys, q, out, norm, block)
            results.shift[rows] = shift.view_as(results.shift[rows])
            results.sums[rows] = sums.view_as(results.sums[rows])
    return tuple(results)


def _gradients(grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Empty results of `_attention_backward`."""
    return like(q, q.shape[-1]), like(k, k.shape[-1]), like(v, v.shape[-1])


def _attention_backward(grad: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    inputs, options = Inputs(*arguments[:_FIRST]), Options(*arguments[_LAST:])
    results, gradients = Outputs(*arguments[_FIRST:_LAST]), _gradients(grad, *inputs)
    if not results.out.numel():
        return gradients
    with without_autocast(inputs.q.device), _products_of(inputs.v.dtype):
        estimator = _estimator(inputs, options)
        for rows, keys, block in _parts(inputs, options, estimator, results.sums.shape[3]):
            here = inputs.q[rows], Outputs(*(x[rows] for x in results)), grad[rows], [x[rows] for x in gradients], block
            if options.causal:
                compute = chunked_causal_backward if waits(inputs.q) and estimator.shifted else causal_backward
                compute(keys, *here, options.chunk)
            else:
                bidirectional_backward(keys, *here)
    return gradients


_FORWARD = operator(
    "linear_attention",
    _attention,
    lambda *arguments: tuple(_outputs(*arguments)),
    f"({_INPUTS}, {_OPTIONS}) -> (Tensor, Tensor, Tensor, Tensor)",
    (4, 5),
)
_BACKWARD = operator(
    "linear_attention_backward",
    _attention_backward,
    _gradients,
    f"(Tensor grad, {_INPUTS}, {_RESULTS}, {_OPTIONS}) -> (Tensor, Tensor, Tensor)",
    (5, 6),
)


class _LinearAttention(torch.autograd.Function):
    """Joins the two operators; unlike `register_autograd` on an operator, it works under torch.func."""

    generate_vmap_rule = True

    @staticmethod
    def forward(q, k, v, key_mask, weight, bias, feature_map, scale, causal, chunk, block):
        # the arguments have names because torch.compile cannot trace *arguments here
        return _FORWARD(q, k, v, key_mask, weight, bias, feature_map, scale, causal, chunk, block)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs[:_FIRST], *output)
        ctx.mark_non_differentiable(*output[1:])
        ctx.options = inputs[_FIRST:]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return (*_Gradients.apply(grads[0], *ctx.saved_tensors, *ctx.options), *[None] * 8)


class _Gradients(torch.autograd.Function):
    """Makes second derivatives fail loudly; without it they would be wrong."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        grad, q, k, v, key_mask, weight, bias, out, norm, shift, sums, feature_map, scale, causal, chunk, block
    ):
        inputs, results = (q, k, v, key_mask, weight, bias), (out, norm, shift, sums)
        return _BACKWARD(grad, *inputs, *results, feature_map, scale, causal, chunk, block)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> None:
        raise NotImplementedError("linear attention has no second derivatives")
