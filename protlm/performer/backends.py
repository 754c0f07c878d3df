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
from protlm.performer.linear_attention import Inputs, Options, linear_attention

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


def choose(requested: str, inputs: Inputs, options: Options) -> str:
    """ "eager", "triton" or "flex" for one call.

    Raises:
        ValueError: if the backend that was requested cannot compute it.
    """
    device = inputs.q.device.type
    if requested == "cpu" and device != "cpu":
        raise ValueError(f"attention_backend 'cpu': the tensors are on {device}; use 'eager' or 'auto'")
    if requested in ("cpu", "eager"):
        return "eager"
    if requested == "auto":
        usable = device == "cuda" and why_not_triton(inputs, options) is None
        return "triton" if usable and _proved(inputs, options) is None else "eager"
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


def _proved(inputs: Inputs, options: Options) -> str | None:
    """Why the kernels are not trusted on this device for this kind of call; None if they agree with PyTorch."""
    device, features = inputs.q.device, 0 if inputs.weight is None else len(inputs.weight)
    sizes = (inputs.q.shape[-1], inputs.v.shape[-1], features)
    key = (device, inputs.q.dtype, options.feature_map, options.causal, *sizes)
    if key not in _PROVED:
        with torch.cuda.device_of(inputs.q):
            error = agreement(device, inputs.q.dtype, options, *sizes)
        _PROVED[key] = None if error < TOLERANCE else f"the kernels differ from PyTorch by {error:.2g}"
        if error >= TOLERANCE:
            what = f"attention on {torch.cuda.get_device_name(device)}: {_PROVED[key]}, which computes it instead"
            warnings.warn(what, RuntimeWarning, stacklevel=3)
    return _PROVED[key]


def agreement(
    device: torch.device, dtype: torch.dtype, options: Options, head_dim: int, values: int, num_features: int
) -> float:
    """The largest relative difference of results and gradients between the kernels and PyTorch, on random inputs.

    Args:
        device, dtype: of queries, keys and values.
        options: of the calls.
        head_dim, values, num_features: d, e and M; 0 for a map without a projection.
    """
    generator = torch.Generator("cpu").manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        with torch.inference_mode(False):
            return torch.randn(*shape, generator=generator, device="cpu").to(device)

    shape = (2, 2, 130)
    q, k, v, grad = (drawn(*shape, width).to(dtype) for width in (head_dim, head_dim, values, values))
    weight = (drawn(num_features, head_dim) * options.scale).to(dtype).float() if num_features else None
    mask = torch.ones(2, 130, dtype=torch.bool, device=device)
    mask[1, 97:] = False
    grad = grad * mask[:, None, :, None]
    pairs = []
    for wide, function in ((True, linear_attention), (False, kernels().attention)):
        with without_autocast(device), torch.inference_mode(False), torch.enable_grad():
            tensors = [(x.float() if wide else x).detach().requires_grad_() for x in (q, k, v)]
            out = function(Inputs(tensors[0], tensors[1], tensors[2], mask, weight), options)[0]
            pairs.append(
                [out.detach() * mask[:, None, :, None], *torch.autograd.grad(out, tensors, grad.to(out.dtype))]
            )
    norms = [
        (torch.linalg.vector_norm(b.float() - a), torch.linalg.vector_norm(a)) for a, b in zip(*pairs, strict=True)
    ]
    errors = torch.stack([difference / norm.clamp(min=1e-30) for difference, norm in norms])
    return float(errors.nan_to_num(torch.inf).amax())


def _interpreted() -> bool:
    """Whether kernels run in Triton's interpreter, for tests."""
    return importlib.import_module("triton").knobs.runtime.interpret
