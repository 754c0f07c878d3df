"""Bidirectional attention from random features on a GPU: launches of its kernels.

Legend: B batch, S sequences, H heads, L length, d head width, e value width, M features.

A batch is dense, (B, H, L, d) with S = B, or packed: B = 1, L positions of all sequences one after another, sequence s
from cu_seqlens[s] to cu_seqlens[s + 1]. What is launched depends on shapes only, and nothing waits for the device.
The same inputs give the same bits.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from protlm.performer.features import Computed, Exponential, FeatureMap, Generalised, decode_map
from protlm.performer.kernels import bidirectional_backward, bidirectional_forward
from protlm.performer.kernels.bidirectional_parts import PARTS, Shape, centre_parts, parts_of
from protlm.performer.kernels.bidirectional_tiles import replaced, tiles
from protlm.performer.linear_attention import like

PRECISION = "tf32x3"
"""Of products of float32 inputs: three products of tensor cores, or "ieee", which spills registers."""
WIDEST = 128
"""The largest d and e."""
TYPES = {torch.bfloat16: tl.bfloat16, torch.float16: tl.float16, torch.float32: tl.float32}


class Results(NamedTuple):
    """What a forward pass returns and a backward pass needs."""

    out: Tensor
    """(B, H, L, e) in the dtype and memory order of v; 0 where a sequence has no key."""
    norm: Tensor
    """(B, H, L) float32, base-2 logarithm of each denominator, or its reciprocal for features f(p) + epsilon."""
    sums: Tensor
    """(S, H, M, e) in the dtype of v: g of bidirectional_forward.py."""
    logs: Tensor
    """(S, H, M) float32: m."""
    centre: Tensor
    """(S, H, PARTS, d + 1) float32, sums of q + k and numbers of positions; PARTS is 0 if keys are not centred."""


def _older(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] < 9


def kernel_map(feature_map: FeatureMap) -> tuple[str, float] | None:
    """MAP and EPSILON of maps.py; None for a map that has no kernel."""
    if feature_map.log and feature_map.linear:
        return "log", 0.0
    if type(feature_map) is Exponential:
        return "exp", math.log2(feature_map.epsilon)
    if type(feature_map) is Generalised:
        return feature_map.function, feature_map.epsilon
    return ("identity", 0.0) if type(feature_map) is Computed else None


def unsupported(inputs: Any, options: Any) -> str | None:
    """Why there is no kernel for a call, or None; arguments as in linear_attention.py."""
    q, k, v = inputs[:3]
    if kernel_map(decode_map(options.feature_map)) is None:
        return f"no kernel for the feature map {decode_map(options.feature_map)!r}"
    if max(q.shape[-1], v.shape[-1]) > WIDEST:
        return f"heads of width {q.shape[-1]} and {v.shape[-1]}, the kernels allow {WIDEST}"
    if not all(x.dtype in (torch.float32, torch.bfloat16, torch.float16) for x in (q, k, v)):
        return f"no kernel for {q.dtype}, {k.dtype}, {v.dtype}"
    return None


def _shape(inputs: Any, cu_seqlens: Tensor | None, max_length: int) -> Shape:
    q, _, v, _, weight, _ = inputs
    batch, heads, length, width = q.shape
    features = width if weight is None else weight.shape[0]
    if cu_seqlens is None:
        return Shape(batch, heads, length, length, features, width, v.shape[-1], False)
    return Shape(cu_seqlens.shape[0] - 1, heads, length, max_length, features, width, v.shape[-1], True)


def results(inputs: Any, centred: bool, cu_seqlens: Tensor | None = None, max_length: int = 0) -> Results:
    """Empty results of `forward`."""
    q, _, v = inputs[:3]
    shape = _shape(inputs, cu_seqlens, max_length)
    sequences, heads, length, _, features, width, values, _ = shape
    return Results(
        like(v, values),
        q.new_empty(q.shape[0], heads, length, dtype=torch.float32),
        v.new_empty(sequences, heads, features, values),
        q.new_empty(sequences, heads, features, dtype=torch.float32),
        q.new_empty(sequences, heads, PARTS if centred else 0, width + 1, dtype=torch.float32),
    )


def _split(feature_map: FeatureMap, dtype: torch.dtype) -> bool:
    """Whether the backward pass needs more of the directions than 16 bits hold: where the slope of features jumps."""
    name, _ = kernel_map(feature_map) or ("", 0.0)
    return dtype.itemsize == 2 and feature_map.projected and name in ("relu", "abs")


@cache
def _constants(
    feature_map: str, scale: float, dtype: torch.dtype, features: int, width: int, values: int, align: int, older: bool,
    replaced: tuple[Any, ...], precision: str,
) -> Callable[[Any], dict[str, Any]]:  # fmt: skip
    """For a kernel, its compile-time constants and launch options; arguments as in `_Launcher`."""
    chosen = decode_map(feature_map)
    name, epsilon = kernel_map(chosen) or ("", 0.0)
    padded = [max(16, triton.next_power_of_2(x)) for x in (width, values)]
    constants: dict[str, Any] = {
        "MAP": name,
        "EPSILON": epsilon,
        "LOG": chosen.log,
        "SCALE": scale,
        "QUADRATIC": chosen.quadratic * scale**2 / 2,
        "ALIGN": align,
        "M": features,
        "D": width,
        "E": values,
        "DP": padded[0],
        "EP": padded[1],
        "PARTS": PARTS,
        "DOT": TYPES[dtype],
        "PRECISION": "tf32" if dtype.itemsize == 2 else precision,
        "SPLIT": _split(chosen, dtype),
    }

    @cache
    def of(kernel: Any) -> dict[str, Any]:
        scarce = padded != [width, values] or name == "gelu"
        sizes = tiles(kernel.fn.__name__, max(padded), dtype.itemsize, features, chosen.log, scarce, older)
        known = {name: value for name, value in (constants | sizes).items() if name in kernel.arg_names}
        return known | {name: sizes[name] for name in ("num_warps", "num_stages")}

    return of


class _Launcher:
    """Compile-time constants and tile sizes of one call.

    Args:
        inputs, options: as in linear_attention.py.
        shape: of the call.
        tensors: all tensors whose strides are passed, with rows of one alignment.
    """

    def __init__(self, inputs: Any, options: Any, shape: Shape, tensors: list[Tensor]) -> None:
        q, k, v = inputs[:3]
        self.dtype = q.dtype if q.dtype == k.dtype == v.dtype and q.dtype.itemsize == 2 else torch.float32
        self.align = math.gcd(16, *(stride for x in tensors for stride in x.stride()[:3]))
        sizes = shape.features, shape.width, shape.values, self.align, _older(q.device), replaced(), PRECISION
        self.constants = _constants(options.feature_map, options.scale, self.dtype, *sizes)

    def strides(self, *tensors: Tensor) -> list[int]:
        """Of batch, head and row of each tensor, divided by the alignment."""
        return [stride // self.align for x in tensors for stride in x.stride()[:3]]

    def __call__(self, kernel: Any, grid: tuple[int, int], *arguments: Any, **constants: Any) -> None:
        known = self.constants(kernel)
        kernel[grid](*arguments, **(known | constants if constants else known))


def _rows_first(x: Tensor) -> Tensor:
    return x if x.stride(-1) == 1 else x.contiguous()


def _mask(key_mask: Tensor | None) -> tuple[Tensor | None, int]:
    if key_mask is None:
        return None, 0
    key_mask = _rows_first(key_mask)
    return key_mask.view(torch.uint8), key_mask.stride(0)


def forward(
    inputs: Any, options: Any, centred: bool = False, cu_seqlens: Tensor | None = None, max_length: int = 0
) -> Results:
    """Bidirectional attention; 2 launches, one more to centre keys and one more if sequences are divided.

    Args:
        inputs, options: as in linear_attention.py; weight and bias are float32.
        centred: whether the mean of q + k over each sequence and head is subtracted from its keys.
        cu_seqlens: (S + 1) int32 on the device, where the sequences of a packed batch begin and end; None if dense.
        max_length: of the longest sequence of a packed batch.
    """
    answer, shape = results(inputs, centred, cu_seqlens, max_length), _shape(inputs, cu_seqlens, max_length)
    if not answer.out.numel() or not answer.norm.numel():
        return answer
    q, k, v, (mask, mask_batch), weight, bias = (*map(_rows_first, inputs[:3]), _mask(inputs.key_mask), *inputs[4:])
    out, norm, sums, logs, centre = answer
    launch = _Launcher(inputs, options, shape, [q, k, v, out])
    count, (length, heads) = shape.sequences * shape.heads, (shape.length, shape.heads)
    parts = centre_parts(shape)
    if centred:
        grid, sizes = (count, parts), (length, heads, parts, mask_batch)
        launch(bidirectional_forward.sum_rows, grid, q, k, mask, cu_seqlens, centre, *sizes, *launch.strides(q, k))
    kernel = bidirectional_forward.sum_keys
    tile = launch.constants(kernel)
    blocks = -(-shape.features // tile["BLOCK_M"])
    splits = parts_of(shape, "sum_keys", count * blocks, 8 * tile["BLOCK_N"])
    partial = (sums, logs) if splits == 1 else _partial(shape, splits, sums)
    rounded = _rounded(launch, weight)
    arguments = k, v, mask, cu_seqlens, weight, rounded, centre if centred else None, *partial
    sizes = length, heads, splits, parts, mask_batch
    launch(kernel, (count * blocks, splits), *arguments, *sizes, *launch.strides(k, v))
    if splits > 1:
        _join(launch, shape, splits, partial, sums, logs)
    kernel = bidirectional_forward.attend
    tile = launch.constants(kernel)
    grid = count, -(-shape.longest // (tile["BLOCK_N"] * tile["REPEAT"]))
    launch(kernel, grid, q, cu_seqlens, rounded, bias, sums, logs, out, norm, length, heads, *launch.strides(q, out))
    return answer


def _rounded(launch: _Launcher, weight: Tensor | None) -> Tensor | None:
    """Memory for the directions (M, d) in the dtype of products, and for what they have lost by rounding.

    The first kernel writes both for the others.
    """
    return None if weight is None else weight.new_empty(2, *weight.shape, dtype=launch.dtype)


def _partial(shape: Shape, splits: int, like: Tensor) -> tuple[Tensor, Tensor]:
    sizes = shape.sequences, shape.heads, splits, shape.features
    return like.new_empty(*sizes, shape.values, dtype=torch.float32), like.new_empty(*sizes, dtype=torch.float32)


def _join(
    launch: _Launcher, shape: Shape, splits: int, partial: tuple[Tensor, Tensor], *whole: Tensor, **constants: Any
) -> None:
    kernel = bidirectional_forward.join
    blocks = -(-shape.features // launch.constants(kernel)["BLOCK_M"])
    launch(kernel, (shape.sequences * shape.heads, blocks), *partial, *whole, splits, **constants)


def backward(
    grad: Tensor,
    inputs: Any,
    options: Any,
    results: Results,
    centred: bool = False,
    cu_seqlens: Tensor | None = None,
    max_length: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v from that of `results.out`; 3 launches, one more if sequences are divided.

    Other arguments as in `forward`.
    """
    q, k, v, grad = map(_rows_first, (*inputs[:3], grad))
    grad_q, grad_k, grad_v = (like(x, x.shape[-1]) for x in (q, k, v))
    out, norm, sums, logs, centre = results
    if not norm.numel() or not out.numel():
        return grad_q.zero_(), grad_k.zero_(), grad_v.zero_()
    (mask, mask_batch), weight, bias = _mask(inputs.key_mask), inputs.weight, inputs.bias
    shape = _shape(inputs, cu_seqlens, max_length)
    launch = _Launcher(inputs, options, shape, [q, k, v, out, grad, grad_q, grad_k, grad_v])
    count, (length, heads) = shape.sequences * shape.heads, (shape.length, shape.heads)
    kernel = bidirectional_backward.sum_queries
    tile = launch.constants(kernel)
    blocks = -(-shape.features // tile["BLOCK_M"])
    splits = parts_of(shape, "sum_queries", count * blocks, 8 * tile["BLOCK_N"])
    drift, grad_sums, grad_logs = torch.empty_like(norm), torch.empty_like(sums), torch.empty_like(logs)
    partial = (grad_sums, grad_logs) if splits == 1 else _partial(shape, splits, sums)
    rounded = _rounded(launch, weight)
    arguments = q, out, grad, norm, drift, cu_seqlens, weight, rounded, bias, logs, *partial
    launch(kernel, (count * blocks, splits), *arguments, length, heads, splits, *launch.strides(q, out, grad))
    if splits > 1:
        _join(launch, shape, splits, partial, grad_sums, grad_logs, LOG=False)
    kernel = bidirectional_backward.differentiate_keys
    parts = parts_of(shape, "differentiate_keys", count, 2 * launch.constants(kernel)["BLOCK_N"])
    middle = centre if centred else None
    grad_centre = norm.new_empty(shape.sequences, heads, parts, shape.width) if centred else None
    arguments = k, v, mask, cu_seqlens, rounded, middle, logs, grad_sums, grad_logs, grad_k, grad_v, grad_centre
    sizes = length, heads, parts, centre_parts(shape), mask_batch
    launch(kernel, (count, parts), *arguments, *sizes, *launch.strides(k, v, grad_k, grad_v))
    kernel = bidirectional_backward.differentiate_queries
    tile = launch.constants(kernel)
    grid = count, -(-shape.longest // (tile["BLOCK_N"] * tile["REPEAT"]))
    arguments = q, grad, norm, drift, mask, cu_seqlens, rounded, bias, sums, logs, middle, grad_centre, grad_q, grad_k
    sizes = length, heads, centre_parts(shape), parts, mask_batch
    launch(kernel, grid, *arguments, *sizes, *launch.strides(q, grad, grad_q, grad_k))
    return grad_q, grad_k, grad_v
