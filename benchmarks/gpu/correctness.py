"""Errors of the kernels, and whether a protein's results depend on its batch."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from itertools import product
from multiprocessing import get_context

import torch
from torch import Tensor

from benchmarks.gpu.device import DEVICE, favor, network, relative, tensors
from benchmarks.gpu.figures import Row, attempt, check, row, way
from protlm.performer import Performer
from protlm.performer.segments import Packed
from protlm.sequence.alphabet import PAD

LIMITS = {"float32": 1e-5, "bfloat16": 2e-2, "float16": 2e-2}
"""Largest relative errors that pass."""
JUMPS = 2e-3
"""Of float32 gradients of queries and keys by ReLU, whose derivative jumps at 0: a projection that is rounded across 0
changes a gradient by a whole feature (docs/gpu.md, Accuracy)."""
Case = tuple[str, bool, str, int]
"""Kernel, causal, dtype, width of a head."""


def correctness() -> Iterator[Row]:
    """Errors of results and gradients against float64, of the kernels and of PyTorch operations."""
    both = (False, True)
    cases: list[Case] = [(*case, 64) for case in product(("softmax", "relu"), both, LIMITS)]
    cases += [(kernel, causal, "bfloat16", 64) for kernel in ("hyperbolic", "gelu", "exp") for causal in both]
    cases += [(kernel, causal, "bfloat16", 20) for kernel in ("softmax", "exp") for causal in both]
    failed: list[str] = []
    # the kernels take most of the time to compile; a process for each case, since CUDA is lost after some errors
    workers = min(12, os.cpu_count() or 1)
    with ProcessPoolExecutor(workers, get_context("spawn"), max_tasks_per_child=1) as pool:
        for case, future in [(case, pool.submit(errors, case)) for case in cases]:
            with attempt(str(case), failed):
                yield from future.result()
    check(failed)


def errors(case: Case) -> list[Row]:
    """The rows of one kernel, direction, dtype and width; of two proteins, the second of them padded."""
    kernel, causal, name, width = case
    torch.manual_seed(0)
    dtype = getattr(torch, name)
    q, k, v, grad = tensors(2, 1025, dtype, width=width)
    mask = torch.ones(2, 1025, dtype=torch.bool, device=DEVICE)
    mask[1, 700:] = False
    real = mask[:, None, :, None]
    results = {}
    for backend in ("float64", "triton", "eager"):
        module = favor(kernel, 256, causal, "eager" if backend == "float64" else backend, width)
        kind = torch.float64 if backend == "float64" else dtype
        own = [x.detach().to(kind).requires_grad_() for x in (q, k, v)]
        out = module.to(kind if kind == torch.float64 else torch.float32)(*own, mask)
        results[backend] = out * real, *torch.autograd.grad(out, own, (grad * real).to(out.dtype))
    rows, label = [], f"{kernel}, {name}" if width == 64 else f"{kernel}, d={width}, {name}"
    for backend in ("triton", "eager"):
        for what, found, true in zip(("out", "dq", "dk", "dv"), results[backend], results["float64"], strict=True):
            figure = f"error of {what}", relative(found, true), "", limit(case, what) if backend == "triton" else None
            rows.append(row("correctness", f"{label}, {backend}", *figure, direction=way(causal)))
    return rows


def limit(case: Case, what: str) -> float:
    """The largest error that passes."""
    jumps = case[0] == "relu" and case[2] == "float32" and what in ("dq", "dk")
    return JUMPS if jumps else LIMITS[case[2]]


def invariance() -> Iterator[Row]:
    """Differences of representations between a protein alone and in batches, also among others in another order."""
    for kind, causal in product(("relu", "softmax", "exact"), (False, True)):
        net = network(kind, causal, layers=6).eval()
        for name in ("float32", "bfloat16"):
            for batch, error in differences(net, getattr(torch, name)).items():
                figure = f"alone against {batch}", error, "", LIMITS[name]
                yield row("invariance", f"{kind}, {name}", *figure, direction=way(causal))


def differences(net: Performer, dtype: torch.dtype, lengths: Sequence[int] = (1, 63, 300, 1024)) -> dict[str, float]:
    """Relative differences of random proteins' representations from those alone, by the batch that they are in.

    "shuffled" batches hold as many others and are in random order.

    Args:
        net: in evaluation mode.
        dtype: of autocast; float32 for none.
        lengths: of the proteins.
    """
    device, generator = net.embedding.weight.device, torch.Generator().manual_seed(0)
    sizes = [*lengths, *(length + 17 for length in lengths)]
    proteins = [torch.randint(4, 24, (size,), generator=generator).to(device) for size in sizes]
    orders = {"": list(range(len(lengths))), ", shuffled": torch.randperm(len(sizes), generator=generator).tolist()}
    cast = torch.autocast(device.type, dtype) if dtype != torch.float32 else nullcontext()
    found = {}
    with torch.no_grad(), cast:
        alone = torch.cat([net.hidden(x[None])[0] for x in proteins[: len(lengths)]])
        for how, order in orders.items():
            for name, together in (("packed", packed), ("padded", padded)):
                rows = dict(zip(order, together(net, [proteins[i] for i in order]), strict=True))
                found[name + how] = relative(torch.cat([rows[i] for i in range(len(lengths))]), alone)
    return found


def packed(net: Performer, proteins: list[Tensor]) -> Sequence[Tensor]:
    """Representations of proteins in one packed batch."""
    sizes = [len(x) for x in proteins]
    edges = torch.tensor([0, *sizes]).cumsum(0).int().to(proteins[0].device)
    return net.hidden(torch.cat(proteins)[None], segments=Packed(edges, max(sizes)))[0].split(sizes)


def padded(net: Performer, proteins: list[Tensor]) -> Sequence[Tensor]:
    """Representations of proteins in one padded batch."""
    rows = net.hidden(torch.nn.utils.rnn.pad_sequence(proteins, batch_first=True, padding_value=PAD))
    return [row[: len(x)] for row, x in zip(rows, proteins, strict=True)]
