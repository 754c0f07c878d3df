"""Attention from random features by the Triton kernels, as two PyTorch operators with gradients.

Legend: B batch, S sequences, H heads, L length, d head width, e value width, M features. torch.compile sees each
operator as one node, so that blocks compile without a graph break.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from protlm.performer.features import decode_map
from protlm.performer.kernels import bidirectional, causal_launch
from protlm.performer.kernels.causal_step import causal_step
from protlm.performer.linear_attention import Inputs, Options, like
from protlm.performer.operators import operator
from protlm.performer.segments import Packed


class Call(NamedTuple):
    """The arguments of the operators, which take no tuples: those of linear_attention.py, and two more.

    Args:
        cu_seqlens: (S + 1) int32, the boundaries of packed sequences; None for a dense batch.
        centred: whether the kernels centre the keys; see `FavorAttention.centred`.
        max_length: of the longest packed sequence.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    key_mask: Tensor | None
    weight: Tensor | None
    bias: Tensor | None
    cu_seqlens: Tensor | None
    feature_map: str
    scale: float
    causal: bool
    centred: bool
    max_length: int

    @property
    def inputs(self) -> Inputs:
        return Inputs(*self[:6])

    @property
    def options(self) -> Options:
        return Options(self.feature_map, self.scale, self.causal)

    @property
    def packing(self) -> tuple[Tensor | None, int]:
        return self.cu_seqlens, self.max_length

    def causal_arguments(self) -> dict[str, Any]:
        packed = None if self.cu_seqlens is None else Packed(self.cu_seqlens, self.max_length)
        return dict(self.inputs._asdict(), feature_map=decode_map(self.feature_map), scale=self.scale, packed=packed)


_INPUTS = "Tensor q, Tensor k, Tensor v, Tensor? key_mask, Tensor? weight, Tensor? bias, Tensor? cu_seqlens"
_OPTIONS = "str feature_map, float scale, bool causal, bool centred, SymInt max_length"
_RESULTS = "Tensor out, Tensor norm, Tensor sums, Tensor logs, Tensor centre"
_FIRST, _LAST = 7, 5


def attention(
    inputs: Inputs, options: Options, centred: bool = False, packed: Packed | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted means of the values, with gradients, and the state of causal attention.

    Args:
        inputs, options: as in linear_attention.py; no float64.
        centred: whether the mean of q + k over each sequence and head is subtracted from its keys.
        packed: the sequences of a packed batch, whose B is 1; None for one sequence a row.

    Returns:
        (B, H, L, e) in the dtype of v; for causal attention, shift and sums as `linear_attention` returns them, else
        what only the backward pass can read.
    """
    boundaries, longest = packed or (None, 0)
    chosen = options.feature_map, options.scale, options.causal, centred and not options.causal, longest
    out, _, sums, logs, _ = _Attention.apply(*inputs, boundaries, *chosen)
    return out, logs, sums


def step(inputs: Inputs, options: Options, state: tuple[Tensor, Tensor]) -> Tensor:
    """Causal attention (B, H, 1, e) of the next position; overwrites the state, shift and sums in float32."""
    q, k, v, _, weight, bias = inputs
    with torch.cuda.device_of(q):
        return causal_step(q, k, v, weight, bias, decode_map(options.feature_map), options.scale, *state)


def unsupported(inputs: Inputs, options: Options) -> str | None:
    """Why the kernels cannot compute a call; None if they can."""
    feature_map = decode_map(options.feature_map)
    if options.causal and not causal_launch.supported(feature_map):
        return f"no causal kernel for the feature map {feature_map!r}"
    return bidirectional.unsupported(inputs, options)


def _forward(*arguments: Any) -> tuple[Tensor, ...]:
    call = Call(*arguments)
    with torch.cuda.device_of(call.q):
        if call.causal:
            out, norm, shift, sums = causal_launch.causal(**call.causal_arguments())
            return out, norm, sums, shift, norm.new_empty(0)
        return tuple(bidirectional.forward(call.inputs, call.options, call.centred, *call.packing))


def _empty(*arguments: Any) -> tuple[Tensor, ...]:
    """Empty results of `_forward`."""
    call = Call(*arguments)
    if call.causal:
        out, norm, shift, sums = causal_launch.results(**call.causal_arguments())
        return out, norm, sums, shift, norm.new_empty(0)
    return tuple(bidirectional.results(call.inputs, call.centred, *call.packing))


def _backward(grad: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    call = Call(*arguments[:_FIRST], *arguments[-_LAST:])
    out, norm, sums, logs, centre = arguments[_FIRST:-_LAST]
    with torch.cuda.device_of(call.q):
        if call.causal:
            results = causal_launch.Outputs(out, norm, logs, sums)
            return causal_launch.causal_backward(grad, results, **call.causal_arguments())
        results = bidirectional.Results(out, norm, sums, logs, centre)
        return bidirectional.backward(grad, call.inputs, call.options, results, call.centred, *call.packing)


def _gradients(grad: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    """Empty results of `_backward`."""
    return tuple(like(x, x.shape[-1]) for x in arguments[:3])


_FORWARD = operator(
    "favor", _forward, _empty, f"({_INPUTS}, {_OPTIONS}) -> (Tensor, Tensor, Tensor, Tensor, Tensor)", (4, 5, 6)
)
_BACKWARD = operator(
    "favor_backward",
    _backward,
    _gradients,
    f"(Tensor grad, {_INPUTS}, {_RESULTS}, {_OPTIONS}) -> (Tensor, Tensor, Tensor)",
    (5, 6, 7),
)


class _Attention(torch.autograd.Function):
    """Joins the two operators."""

    @staticmethod
    def forward(q, k, v, key_mask, weight, bias, cu_seqlens, feature_map, scale, causal, centred, max_length):
        # the arguments have names because torch.compile cannot trace *arguments here
        return _FORWARD(q, k, v, key_mask, weight, bias, cu_seqlens, feature_map, scale, causal, centred, max_length)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.save_for_backward(*inputs[:_FIRST], *output)
        ctx.mark_non_differentiable(*output[1:])
        if not torch.compiler.is_compiling():  # which cannot trace it
            ctx.set_materialize_grads(False)  # zeros for the results that have no gradient, a kernel each
        ctx.options = inputs[_FIRST:]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if grads[0] is None:
            return (None,) * 12
        return (*_Gradients.apply(grads[0], *ctx.saved_tensors, *ctx.options), *[None] * 9)


class _Gradients(torch.autograd.Function):
    """Makes second derivatives fail loudly; without it they would be wrong."""

    @staticmethod
    def forward(
        grad, q, k, v, key_mask, weight, bias, cu_seqlens, out, norm, sums, logs, centre,
        feature_map, scale, causal, centred, max_length,
    ):  # fmt: skip
        inputs, results = (q, k, v, key_mask, weight, bias, cu_seqlens), (out, norm, sums, logs, centre)
        return _BACKWARD(grad, *inputs, *results, feature_map, scale, causal, centred, max_length)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> None:
        raise NotImplementedError("linear attention has no second derivatives")
