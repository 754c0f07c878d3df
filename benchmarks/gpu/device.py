"""Times on a CUDA device, and what is measured there.

Legend: B batch, H heads, L length, d head width.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from protlm.performer import Performer, PerformerConfig
from protlm.performer.attention import FavorAttention
from protlm.sequence.alphabet import PAD, TOKENS

DEVICE = torch.device("cuda")
TOKENS_A_BATCH = 65_536


def milliseconds(run: Callable[[], Any], limit: float = 0.6) -> float:
    """Median milliseconds on the device of up to 20 calls within `limit` seconds, after three that warm up."""
    for _ in range(3):
        run()
    torch.cuda.synchronize()
    times, stop = [], time.monotonic() + limit
    while len(times) < 3 or (len(times) < 20 and time.monotonic() < stop):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


def replayed(run: Callable[[], Any]) -> float:
    """Median milliseconds of a call as a CUDA graph, so without the time that Python takes to launch its kernels."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return milliseconds(graph.replay, 0.2)


def launches(run: Callable[[], Any]) -> tuple[int, int]:
    """Kernels launched, and times that the host waited for the device, in one call."""
    run()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorded:
        run()
    names = [event.name for event in recorded.events() or []]
    kernels = sum(name.startswith(("cudaLaunchKernel", "cuLaunchKernel")) for name in names)
    return kernels, names.count("cudaStreamSynchronize")


def tensors(batch: int, length: int, dtype: torch.dtype, heads: int = 8, width: int = 64) -> list[Tensor]:
    """Queries, keys, values and a gradient (B, H, L, d), in the memory order of the model's projections."""
    return [
        torch.randn(batch, length, heads, width, device=DEVICE).to(dtype).transpose(1, 2).requires_grad_(i < 3)
        for i in range(4)
    ]


def relative(found: Tensor, expected: Tensor) -> float:
    """Relative error in the Euclidean norm."""
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).norm() / expected.norm())


def favor(kernel: str, features: int, causal: bool, backend: str, width: int = 64) -> FavorAttention:
    """Attention from random features."""
    attention = FavorAttention(width, features, kernel, causal=causal).to(DEVICE)
    attention.backend = backend
    return attention


def network(kind: str, causal: bool = False, layers: int = 36, **more: Any) -> Performer:
    """The model of conf/model/trembl.yaml without dropout, with random weights."""
    torch.manual_seed(0)
    sizes = {"layers": layers, "heads": 8, "width": 512, "feed_forward": 1024, "max_length": 8192, "dropout": 0.0}
    return Performer(PerformerConfig(len(TOKENS), PAD, attention=kind, causal=causal, **(sizes | more))).to(DEVICE)
