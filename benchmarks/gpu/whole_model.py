"""The whole model: training steps, embedding and generation."""

import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.device import DEVICE, TOKENS_A_BATCH, launches, milliseconds, network
from benchmarks.gpu.figures import Row, attempt, check, row, way
from protlm.embedding import in_memory
from protlm.inference.steps import Steps, steps_from
from protlm.performer import Performer
from protlm.performer.segments import Packed
from protlm.sequence.alphabet import PAD

KINDS = {"exact": ("exact", 1), "relu, M=128": ("relu", 128), "softmax, M=128": ("softmax", 128)}


def model() -> Iterator[Row]:
    """Training steps of the 36-layer model: 65,536 tokens, bfloat16, AdamW; some with compiled blocks."""
    failed: list[str] = []
    for causal, length, case in product((False, True), (1024, 8192), KINDS):
        for compiled in (False, True):
            if compiled and (causal or length != 1024 or case.startswith("softmax")):
                continue  # they take long to compile
            name = f"{case}, compiled" if compiled else case
            with attempt(f"{name}, {way(causal)}, L={length}", failed):
                yield from steps_of(name, causal, length, compiled)
            torch.cuda.empty_cache()
    check(failed)


def steps_of(name: str, causal: bool, length: int, compiled: bool) -> Iterator[Row]:
    """The rows of one model."""
    kind, features = KINDS[name.removesuffix(", compiled")]
    torch.cuda.reset_peak_memory_stats()
    step = training_step(network(kind, causal, num_features=features), length, compiled)
    where = {"direction": way(causal), "length": length, "pass": "step"}
    took = milliseconds(step, 1)
    yield row("model", name, "time", took, "ms", **where)
    yield row("model", name, "speed", TOKENS_A_BATCH / took * 1000, "tokens/s", **where)
    yield row("model", name, "memory", torch.cuda.max_memory_allocated() / 2**30, "GiB", **where)
    if length == 1024:
        kernels, waits = launches(step)
        yield row("model", name, "kernels", kernels, **where)
        yield row("model", name, "waits", waits, "", 2, **where)


def training_step(net: Performer, length: int, compiled: bool) -> Callable[[], None]:
    """A step on random tokens of equal lengths."""
    if compiled:
        _ = net.backend_in_use  # chosen now, since torch.compile cannot trace the choice
        for block in net.blocks:
            block.compile(dynamic=True)  # as task.compile does
    tokens = torch.randint(4, 24, (TOKENS_A_BATCH // length, length), device=DEVICE)
    return step_on(net, tokens, torch.ones_like(tokens, dtype=torch.bool))


def step_on(net: Performer, tokens: Tensor, mask: Tensor, packed: Packed | None = None) -> Callable[[], None]:
    """A step on one batch: forward, backward and AdamW."""
    optimizer = torch.optim.AdamW(net.parameters(), fused=True)
    targets = tokens.masked_fill(~mask, -100).flatten()

    def step() -> None:
        with torch.autocast(DEVICE.type, torch.bfloat16):
            logits = net(tokens, mask, packed)
        F.cross_entropy(logits.flatten(0, 1).float(), targets).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def packing() -> Iterator[Row]:
    """Training steps on proteins of similar lengths, padded and packed."""
    failed: list[str] = []
    for case, packed in product(KINDS, (False, True)):
        kind, features = KINDS[case]
        name = "packed" if packed else "padded"
        with attempt(f"{case}, {name}", failed):
            step = step_on(network(kind, positions="rotary", num_features=features), *bucket(packed))
            where: dict[str, Any] = {"pass": "step"}
            yield row("packing", case, f"time, {name}", milliseconds(step, 1), "ms", **where)
        torch.cuda.empty_cache()
    check(failed)


def bucket(packed: bool) -> tuple[Tensor, Tensor, Packed | None]:
    """Tokens, mask and boundaries of a batch as training makes them, of proteins around the median length."""
    ordered = sorted(map(len, proteins(4000)))
    lengths = torch.tensor(ordered[len(ordered) // 2 :][: TOKENS_A_BATCH // ordered[len(ordered) // 2]])
    longest, edges = int(lengths.max()), F.pad(lengths.cumsum(0), (1, 0)).int().to(DEVICE)
    mask = (torch.arange(longest) < lengths[:, None]).to(DEVICE)
    tokens = torch.randint(4, 24, mask.shape, device=DEVICE).masked_fill(~mask, PAD)
    if not packed:
        return tokens, mask, None
    joined = tokens[mask][None]
    return joined, torch.ones_like(joined, dtype=torch.bool), Packed(edges, longest)


def proteins(count: int) -> list[str]:
    """Random proteins with lengths like those of Swiss-Prot (log-normal, median 300)."""
    generator = torch.Generator().manual_seed(0)
    lengths = (torch.randn(count, generator=generator) * 0.6 + math.log(300)).exp().long().clamp(20, 5000)
    letters = "ACDEFGHIKLMNPQRSTVWY"
    return ["".join(letters[i] for i in torch.randint(20, (int(n),), generator=generator)) for n in lengths]


def embedding() -> Iterator[Row]:
    """Residues per second of 2,000 proteins, and of one as long as titin."""
    failed: list[str] = []
    sets = {"2,000 proteins": proteins(2000), "one of 34,350 residues": ["".join(proteins(200))[:34_350]]}
    for kind in ("exact", "relu", "softmax"):
        net = network(kind, positions="rotary").eval()
        packs = [False, True] if net.takes_packed(torch.bfloat16) else [False]
        for name, net.packed_batches in product(sets, packs):
            case = f"{name}, {'packed' if net.packed_batches else 'padded'}"
            with attempt(f"{kind}, {case}", failed):
                speed = residues_per_second(net, sets[name])
                yield row("embedding", kind, f"speed, {case}", speed, "residues/s")
    check(failed)


def residues_per_second(net: Performer, sequences: list[str]) -> float:
    """Of the second of two passes over the proteins."""
    embed = partial(in_memory.embed, net, sequences, 65_536, [-1], "mean", "bfloat16")
    list(embed())
    begin = time.perf_counter()
    list(embed())
    return sum(map(len, sequences)) / (time.perf_counter() - begin)


def generation() -> Iterator[Row]:
    """Milliseconds per token of 16 proteins, after a short and a long prefix, in float32."""
    failed: list[str] = []
    for kind, length in product(("exact", "relu", "softmax"), (64, 4096)):
        net = network(kind, True, layers=12).eval()
        if net.has_step_kernel:
            net.use_backend("triton")  # so that a kernel that differs is a failure
        tokens = torch.randint(4, 24, (16, length), device=DEVICE)
        with attempt(f"{kind}, prefix of {length}", failed), torch.inference_mode():
            _, state = net.step(tokens[:1])
            kinds = {"PyTorch operations": Steps(net, state)}
            if net.has_step_kernel:
                kinds["kernel and graph"] = steps_from(net, state, 16)
            for name, steps in kinds.items():
                steps.start(16)
                took = milliseconds(partial(steps, tokens[:, 0]))
                yield row("generation", kind, f"time per token, {name}", took, "ms", length=length)
    check(failed)
