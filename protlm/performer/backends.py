"""Which code computes attention from random features.

"cpu" and "eager" are the same PyTorch operations; "cpu" refuses any other device. "triton" are kernels for GPUs
(Triton, an optional extra), "flex" is PyTorch's FlexAttention, for bidirectional attention with positive features.
"auto" takes "triton" on a CUDA device where it can, and "eager" otherwise.
"""

import importlib
import warnings
from functools import cache
from typing import Any

import torch
from torch import Tensor

from protlm.performer.estimator import without_autocast
from protlm.performer.features import decode_map
from protlm.performer.linear_attention import Inputs, Options, linear_attention
from protlm.performer.segments import Packed

BACKENDS = ("auto", "cpu", "eager", "triton", "flex")
TOLERANCE = 0.02
"""Relative error of the kernels, of float16 and bfloat16 included, above which "auto" does not use them."""


@cache
def kernels() -> Any:
    """The module with the Triton kernels, or a string with the reason why it cannot be imported."""
    try:
        importlib.import_module("triton")
        return importlib.import_module("protlm.performer.kernels.attention")
    except ImportError as error:
        return f"Triton is not available ({error}); install it: pip install triton"


@cache
def flex() -> Any:
    """The module that uses FlexAttention, whose import takes a second."""
    return importlib.import_module("protlm.performer.flex")


def check_backend(name: str) -> str:
    """Returns the name of a backend; raises ValueError for an unknown one."""
    if name not in BACKENDS:
        raise ValueError(f"attention_backend {name!r}: expected one of {', '.join(BACKENDS)}")
    return name


def why_not_triton(inputs: Inputs, options: Options) -> str | None:
    """Why the kernels cannot compute a call; None if they can."""
    device, found = inputs.q.device.type, kernels()
    if device != "cuda" and (isinstance(found, str) or not _interpreted()):
        return f"the kernels need a CUDA device, got {device}; use 'auto'"
    return found if isinstance(found, str) else found.unsupported(inputs, options)


def choose(requested: str, inputs: Inputs, options: Options, packed: bool = False) -> str:
    """ "eager", "triton" or "flex" for one call, of a packed or a dense batch.

    Raises:
        ValueError: if the backend that was requested cannot compute it, or is unknown.
    """
    check_backend(requested)
    device = inputs.q.device.type
    if requested == "cpu" and device != "cpu":
        raise ValueError(f"attention_backend 'cpu': the tensors are on {device}; use 'eager' or 'auto'")
    if requested in ("cpu", "eager"):
        return "eager"
    if requested == "auto":
        usable = device == "cuda" and why_not_triton(inputs, options) is None
        return "triton" if usable and _proved(inputs, options, packed) is None else "eager"
    reason = why_not_triton(inputs, options) if requested == "triton" else flex().unsupported(inputs, options)
    if reason is not None:
        raise ValueError(f"attention_backend {requested!r}: {reason}")
    return requested


def explain(requested: str, inputs: Inputs, options: Options) -> str:
    """What computes such a call, and why, as a phrase for users; raises ValueError like `choose`."""
    chosen, device = choose(requested, inputs, options), inputs.q.device
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    if chosen != "eager":
        return f"{'Triton kernels' if chosen == 'triton' else 'FlexAttention'} on {where}"
    reason = None
    if requested == "auto" and device.type == "cuda":
        reason = why_not_triton(inputs, options) or _proved(inputs, options)
    return f"PyTorch operations on {where}" + (f" ({reason})" if reason else "")


_PROVED: dict[tuple[Any, ...], str | None] = {}


def _proved(inputs: Inputs, options: Options, packed: bool = False) -> str | None:
    """Why the kernels are not trusted on this device for this kind of call; None if they agree with PyTorch."""
    device, features = inputs.q.device, 0 if inputs.weight is None else len(inputs.weight)
    sizes = (inputs.q.shape[-1], inputs.v.shape[-1], features)
    key = (device, inputs.q.dtype, options.feature_map, options.causal, *sizes, packed)
    if key not in _PROVED:
        try:
            with torch.cuda.device_of(inputs.q):
                error = agreement(device, inputs.q.dtype, options, *sizes, packed=packed)
            reason = None if error < TOLERANCE else f"the kernels differ from PyTorch by {error:.2g}"
        except Exception as error:  # of Triton, of its compilers, of the driver
            reason = f"the kernels failed: {type(error).__name__}: {error}".split("\n")[0]
        _PROVED[key] = reason
        if reason is not None:
            what = f"attention on {torch.cuda.get_device_name(device)}: {reason}; PyTorch computes it instead"
            warnings.warn(what, RuntimeWarning, stacklevel=3)
    return _PROVED[key]


def agreement(
    device: torch.device,
    dtype: torch.dtype,
    options: Options,
    head_dim: int,
    values: int,
    num_features: int,
    packed: bool = False,
) -> float:
    """The largest relative difference of results and gradients between the kernels and PyTorch, on random inputs.

    Args:
        device, dtype: of queries, keys and values.
        options: of the calls.
        head_dim, values, num_features: d, e and M; 0 for a map without a projection.
        packed: whether the two sequences, of 130 and 97 positions, are packed, or padded with a mask.
    """
    generator, feature_map = torch.Generator("cpu").manual_seed(0), decode_map(options.feature_map)
    centred = feature_map.redrawn and not options.causal

    def drawn(*shape: int) -> Tensor:
        with torch.inference_mode(False):
            return torch.randn(*shape, generator=generator, device="cpu").to(device)

    shape, lengths = ((1, 2, 227), [130, 97]) if packed else ((2, 2, 130), [130])
    q, k, v, grad = (drawn(*shape, width).to(dtype) for width in (head_dim, head_dim, values, values))
    # once scaled, they have few digits, since kernels round them
    weight = drawn(num_features, head_dim) * options.scale if num_features else None
    weight = None if weight is None else weight.to(dtype).float() / options.scale
    bias = drawn(num_features) * 0.1 if feature_map.adaptive else None
    mask = None
    if not packed:
        mask = torch.ones(2, 130, dtype=torch.bool, device=device)
        mask[1, 97:] = False
        grad = grad * mask[:, None, :, None]

    def expected(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        parts = []
        for x, y, z in zip(*(tensor.split(lengths, 2) for tensor in (q, k, v)), strict=True):
            if centred:
                real = x.new_ones(x.shape[:3]) if mask is None else mask[:, None].to(x)
                y = y - ((x + y) * real[..., None]).sum(2, keepdim=True) / real.sum(-1)[..., None, None]
            parts.append(linear_attention(Inputs(x, y, z, mask, weight, bias), options)[0])
        return torch.cat(parts, 2)

    def found(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        edges = torch.tensor([0, 130, 227], dtype=torch.int32, device=device)
        given = Inputs(q, k, v, mask, weight, bias)
        return kernels().attention(given, options, centred, Packed(edges, 130) if packed else None)[0]

    pairs = []
    for function, used in ((expected, torch.float32), (found, dtype)):
        with without_autocast(device), torch.inference_mode(False), torch.enable_grad():
            tensors = [x.to(used).detach().requires_grad_() for x in (q, k, v)]
            out = function(*tensors)
            seen = out.detach() if mask is None else out.detach() * mask[:, None, :, None]
            pairs.append([seen, *torch.autograd.grad(out, tensors, grad.to(out.dtype))])
    norms = [
        (torch.linalg.vector_norm(b.float() - a), torch.linalg.vector_norm(a)) for a, b in zip(*pairs, strict=True)
    ]
    errors = torch.stack([difference / norm.clamp(min=1e-30) for difference, norm in norms])
    return float(errors.nan_to_num(torch.inf).amax())


def _interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, for tests."""
    return importlib.import_module("triton").knobs.runtime.interpret
