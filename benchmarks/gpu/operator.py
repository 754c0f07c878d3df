"""One call of attention against what PyTorch and other packages offer."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from multiprocessing import get_context
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.device import DEVICE, TOKENS_A_BATCH, favor, launches, milliseconds, replayed, tensors
from benchmarks.gpu.figures import Row, attempt, check, row, way
from benchmarks.peers import flash_linear_attention, performer_pytorch

LENGTHS = (512, 1024, 2048, 8192, 65_536)
OWN = tuple(product(("relu", "softmax"), (128, 256)))
"""Kernel and features."""
Attention = Callable[..., Tensor]


def attention() -> Iterator[Row]:
    """Times of one attention call of 65,536 tokens, 8 heads of width 64, bfloat16; the kernels first, then others."""
    failed: list[str] = []
    with ProcessPoolExecutor(min(8, os.cpu_count() or 1), get_context("spawn")) as pool:
        list(pool.map(compiled_ahead, [(*case, causal) for case in OWN for causal in (False, True)]))
    for of, causal, length in product((own, peers), (False, True), LENGTHS):
        for case, function in of(causal).items():
            yield from timed(case, function, causal, length, failed if of is own else None)
    check(failed)


def compiled_ahead(case: tuple[str, int, bool]) -> None:
    """Compiles the kernels of one case for later processes; several cases compile together. Failures come later."""
    kernel, features, causal = case
    with attempt(f"compiling {case}"):
        function = favor(kernel, features, causal, "triton")
        for length in (LENGTHS[0], LENGTHS[-1]):
            q, k, v, grad = tensors(TOKENS_A_BATCH // length, length, torch.bfloat16)
            with torch.no_grad():
                function(q, k, v)
            torch.autograd.grad(function(q, k, v), (q, k, v), grad)
        torch.cuda.synchronize()


def own(causal: bool) -> dict[str, Attention]:
    """The kernels, and exact attention by PyTorch."""
    cases: dict[str, Attention] = {"exact": partial(F.scaled_dot_product_attention, is_causal=causal)}
    return cases | {f"{kernel}, M={features}": favor(kernel, features, causal, "triton") for kernel, features in OWN}


def peers(causal: bool) -> dict[str, Attention]:
    """Attention from random features by PyTorch operations, FlexAttention and other packages, if installed."""
    cases: dict[str, Attention | None] = {
        "performer-pytorch, M=128": performer_pytorch(causal, DEVICE),
        "relu, M=128, flash-linear-attention": flash_linear_attention(causal, DEVICE),
        "softmax, M=128, FlexAttention": None if causal else favor("softmax", 128, causal, "flex"),
        "relu, M=128, PyTorch": favor("relu", 128, causal, "eager"),
        "softmax, M=128, PyTorch": favor("softmax", 128, causal, "eager"),
    }
    return {name: function for name, function in cases.items() if function is not None}


def timed(case: str, function: Attention, causal: bool, length: int, failed: list[str] | None) -> Iterator[Row]:
    """Times and launches of a forward pass, and with a backward pass.

    Args:
        case, function: name and attention.
        causal, length: its direction and L.
        failed: for the names of cases that fail; None if they may.
    """
    q, k, v, grad = tensors(max(1, TOKENS_A_BATCH // length), length, torch.bfloat16)
    plain = [x.detach() for x in (q, k, v)]
    passes: dict[str, Callable[[], Any]] = {
        "forward": lambda: function(*plain),
        "both": lambda: torch.autograd.grad(function(q, k, v).to(grad.dtype), (q, k, v), grad),
    }
    for name, run in passes.items():
        where = {"direction": way(causal), "length": length, "pass": name}
        with attempt(f"{case}, {way(causal)}, L={length}, {name}", failed):
            yield row("attention", case, "time", milliseconds(run, 0.2), "ms", **where)
            if failed is not None or "FlexAttention" in case:  # others wait for the device, which a graph cannot
                yield row("attention", case, "time in a graph", replayed(run), "ms", **where)
            if failed is not None or length in (1024, 8192):
                kernels, waits = launches(run)
                yield row("attention", case, "kernels", kernels, **where)
                yield row("attention", case, "waits", waits, "", 0 if failed is not None else None, **where)
            continue
        torch.cuda.empty_cache()  # after a failure; raises if CUDA is lost, which ends the part
        return
