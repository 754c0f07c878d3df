"""Attention and the 36-layer model on a CUDA device, against what PyTorch offers; under ten minutes, without a network.

    python -m benchmarks.gpu                       # all parts
    python -m benchmarks.gpu attention model       # some of them

Parts: correctness (kernels against float64), attention (against scaled_dot_product_attention's flash kernels,
FlexAttention, PyTorch operations and, if installed, performer-pytorch and flash-linear-attention), model (training
steps of the 36-layer model), embedding (residues per second), invariance (a protein alone, packed and padded), resume
(through `python -m protlm.train`) and generation. Times are medians of events on the device. Each row of the CSV names
card, driver and versions.
"""

import argparse
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import nullcontext
from datetime import date
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.measure import program
from benchmarks.peers import flash_linear_attention, performer_pytorch
from benchmarks.tables import check_outputs, markdown, write_csv
from protlm.embedding import in_memory
from protlm.errors import UserError
from protlm.inference.steps import Steps, steps_from
from protlm.performer import Performer, PerformerConfig
from protlm.performer.attention import FavorAttention
from protlm.performer.segments import Packed
from protlm.sequence.alphabet import PAD, TOKENS

DEVICE = torch.device("cuda")
TOKENS_A_BATCH = 65_536
RESUMED = ("relu", "softmax")
LENGTHS = (512, 1024, 2048, 8192, 65_536)
Row = dict[str, Any]
ROOT = Path(__file__).parents[1]


def row(part: str, case: str, measure: str, value: float, unit: str, **more: Any) -> Row:
    """One figure: of what, which measure, its value and unit."""
    where = {"direction": "", "length": "", "pass": ""} | more
    return {"part": part, "case": case, **where, "measure": measure, "value": value, "unit": unit}


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
    """Queries, keys, values and a gradient, in the memory order of the model's projections."""
    return [
        torch.randn(batch, length, heads, width, device=DEVICE).to(dtype).transpose(1, 2).requires_grad_(i < 3)
        for i in range(4)
    ]


def relative(found: Tensor, expected: Tensor) -> float:
    """Relative error in the Euclidean norm."""
    found, expected = found.detach().double(), expected.detach().double()
    return float((found - expected).norm() / expected.norm())


def correctness() -> Iterator[Row]:
    """Errors of results and gradients against float64, of the kernels and of PyTorch operations."""
    dtypes = ("float32", "bfloat16", "float16")
    cases = [(kernel, causal, dtype) for kernel in ("softmax", "relu") for causal in (False, True) for dtype in dtypes]
    cases += [(kernel, causal, "bfloat16") for kernel in ("hyperbolic", "gelu", "exp") for causal in (False, True)]
    # the kernels take most of the time to compile, each process some of them, for this and all later parts
    with ProcessPoolExecutor(min(12, os.cpu_count() or 1), get_context("spawn")) as pool:
        for rows in pool.map(errors, cases):
            yield from rows


def errors(case: tuple[str, bool, str]) -> list[Row]:
    """The rows of one kernel, direction and dtype."""
    kernel, causal, name = case
    torch.manual_seed(0)
    dtype = getattr(torch, name)
    q, k, v, grad = tensors(2, 1025, dtype)
    mask = torch.ones(2, 1025, dtype=torch.bool, device=DEVICE)
    mask[1, 700:] = False
    real = mask[:, None, :, None]
    results = {}
    for backend in ("float64", "triton", "eager"):
        module = favor(kernel, 256, causal, "eager" if backend == "float64" else backend)
        kind = torch.float64 if backend == "float64" else dtype
        own = [x.detach().to(kind).requires_grad_() for x in (q, k, v)]
        out = module.to(kind if kind == torch.float64 else torch.float32)(*own, mask)
        results[backend] = out * real, *torch.autograd.grad(out, own, (grad * real).to(out.dtype))
    rows = []
    for backend in ("triton", "eager"):
        pairs = zip(("out", "dq", "dk", "dv"), results[backend], results["float64"], strict=True)
        for what, found, expected in pairs:
            error = relative(found, expected)
            rows.append(
                row("correctness", f"{kernel}, {name}, {backend}", f"error of {what}", error, "", direction=way(causal))
            )
    return rows


def way(causal: bool) -> str:
    """The name of a direction."""
    return "causal" if causal else "bidirectional"


def exact(causal: bool) -> Callable[..., Tensor]:
    """Exact attention by PyTorch."""
    return partial(F.scaled_dot_product_attention, is_causal=causal)


def favor(kernel: str, features: int, causal: bool, backend: str) -> FavorAttention:
    """Attention from random features."""
    attention = FavorAttention(64, features, kernel, causal=causal).to(DEVICE)
    attention.backend = backend
    return attention


def attention() -> Iterator[Row]:
    """Times of one attention call of 65,536 tokens, 8 heads of width 64, bfloat16."""
    for causal in (False, True):
        for length in LENGTHS:
            cases: dict[str, Callable[..., Tensor] | None] = {"exact": exact(causal)}
            for kernel in ("relu", "softmax"):
                for features in (128, 256):
                    cases[f"{kernel}, M={features}"] = favor(kernel, features, causal, "triton")
            if length in (1024, 8192):
                cases["relu, M=128, PyTorch"] = favor("relu", 128, causal, "eager")
                cases["softmax, M=128, PyTorch"] = favor("softmax", 128, causal, "eager")
                cases["performer-pytorch, M=128"] = performer_pytorch(causal, DEVICE)
                cases["relu, M=128, flash-linear-attention"] = flash_linear_attention(causal, DEVICE)
                if not causal:
                    cases["softmax, M=128, FlexAttention"] = favor("softmax", 128, causal, "flex")
            q, k, v, grad = tensors(max(1, TOKENS_A_BATCH // length), length, torch.bfloat16)
            for case, function in cases.items():
                if function is not None:
                    yield from timed(case, function, q, k, v, grad, direction=way(causal), length=length)


def timed(case: str, function: Callable[..., Tensor], *given: Tensor, **where: Any) -> Iterator[Row]:
    """Times and launches of a forward pass, and with a backward pass; a row that says why if it fails."""
    q, k, v, grad = given
    plain = [x.detach() for x in (q, k, v)]
    passes: dict[str, Callable[[], Any]] = {
        "forward": lambda: function(*plain),
        "both": lambda: torch.autograd.grad(function(q, k, v).to(grad.dtype), (q, k, v), grad),
    }
    for name, run in passes.items():
        try:
            yield row("attention", case, "time", milliseconds(run, 0.2), "ms", **where, **{"pass": name})
            if "PyTorch" not in case and "pytorch" not in case:  # these wait for the device, which a graph cannot
                yield row("attention", case, "time in a graph", replayed(run), "ms", **where, **{"pass": name})
            kernels, syncs = launches(run)
            yield row("attention", case, "kernels", kernels, "", **where, **{"pass": name})
            yield row("attention", case, "waits", syncs, "", **where, **{"pass": name})
        except (RuntimeError, ValueError, AssertionError) as error:
            torch.cuda.empty_cache()
            print(f"{case} {where} {name}: {str(error).splitlines()[0][:200]}", file=sys.stderr, flush=True)
            return


def network(kind: str, causal: bool = False, layers: int = 36, **more: Any) -> Performer:
    """The model of conf/model/trembl.yaml without dropout, with random weights."""
    torch.manual_seed(0)
    sizes = {"layers": layers, "heads": 8, "width": 512, "feed_forward": 1024, "max_length": 8192, "dropout": 0.0}
    return Performer(PerformerConfig(len(TOKENS), PAD, attention=kind, causal=causal, **(sizes | more))).to(DEVICE)


def model() -> Iterator[Row]:
    """Training steps of the 36-layer model: 65,536 tokens, bfloat16, AdamW; some with compiled blocks."""
    kinds = {"exact": ("exact", 1), "relu, M=128": ("relu", 128), "softmax, M=128": ("softmax", 128)}
    for causal in (False, True):
        for length in (1024, 8192):
            for case, (kind, features) in kinds.items():
                for compiled in (False, True):
                    if compiled and (causal or length != 1024 or kind == "softmax"):
                        continue  # they take long to compile
                    torch.cuda.empty_cache()
                    torch.cuda.reset_peak_memory_stats()
                    step = training_step(network(kind, causal, num_features=features), length, compiled)
                    where = {"direction": way(causal), "length": length, "pass": "step"}
                    name = f"{case}, compiled" if compiled else case
                    took = milliseconds(step, 1)
                    yield row("model", name, "time", took, "ms", **where)
                    yield row("model", name, "speed", TOKENS_A_BATCH / took * 1000, "tokens/s", **where)
                    yield row("model", name, "memory", torch.cuda.max_memory_allocated() / 2**30, "GiB", **where)
                    if length == 1024:
                        kernels, syncs = launches(step)
                        yield row("model", name, "kernels", kernels, "", **where)
                        yield row("model", name, "waits", syncs, "", **where)


def training_step(net: Performer, length: int, compiled: bool) -> Callable[[], None]:
    """A step on random tokens."""
    if compiled:
        for block in net.blocks:
            block.compile(dynamic=True)  # as task.compile does
    optimizer = torch.optim.AdamW(net.parameters(), fused=True)
    tokens = torch.randint(4, 24, (TOKENS_A_BATCH // length, length), device=DEVICE)
    mask = torch.ones_like(tokens, dtype=torch.bool)

    def step() -> None:
        with torch.autocast("cuda", torch.bfloat16):
            logits = net(tokens, mask)
        F.cross_entropy(logits.flatten(0, 1).float(), tokens.flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def proteins(count: int) -> list[str]:
    """Random proteins with lengths like those of Swiss-Prot (log-normal, median 300)."""
    generator = torch.Generator().manual_seed(0)
    lengths = (torch.randn(count, generator=generator) * 0.6 + math.log(300)).exp().long().clamp(20, 5000)
    letters = "ACDEFGHIKLMNPQRSTVWY"
    return ["".join(letters[i] for i in torch.randint(20, (int(n),), generator=generator)) for n in lengths]


def embedding() -> Iterator[Row]:
    """Residues per second of 2,000 proteins, and of one as long as titin."""
    many, titin = proteins(2000), ["".join(proteins(200))[:34_350]]
    for kind in ("exact", "relu", "softmax"):
        net = network(kind, positions="rotary").eval()
        packs = [False, True] if net.takes_packed(torch.bfloat16) else [False]
        sets = (("2,000 proteins", many), ("one of 34,350 residues", titin))
        for (name, sequences), net.packed_batches in product(sets, packs):
            embed = partial(in_memory.embed, net, sequences, 65_536, [-1], "mean", "bfloat16")
            list(embed())
            begin = time.perf_counter()
            list(embed())
            took = time.perf_counter() - begin
            speed = sum(map(len, sequences)) / took
            batches = "packed" if net.packed_batches else "padded"
            yield row("embedding", kind, f"speed, {name}, {batches}", speed, "residues/s")


def invariance() -> Iterator[Row]:
    """Differences of representations between a protein alone, in a packed batch, and in a padded one."""
    for kind in ("relu", "softmax"):
        for causal in (False, True):
            net = network(kind, causal, layers=6).eval()
            generator = torch.Generator().manual_seed(0)
            parts = [torch.randint(4, 24, (n,), generator=generator).to(DEVICE) for n in (1, 63, 300, 1024)]
            edges = torch.tensor([0, *(len(x) for x in parts)]).cumsum(0).int().to(DEVICE)
            padded = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=PAD)
            for dtype in (torch.float32, torch.bfloat16):
                cast = torch.autocast("cuda", dtype) if dtype != torch.float32 else nullcontext()
                with torch.no_grad(), cast:
                    alone = torch.cat([net.hidden(x[None])[0] for x in parts])
                    packed = net.hidden(torch.cat(parts)[None], segments=Packed(edges, 1024))[0]
                    batch = net.hidden(padded)
                    rows = torch.cat([batch[i, : len(x)] for i, x in enumerate(parts)])
                for name, other in (("packed", packed), ("padded", rows)):
                    case = f"{kind}, {str(dtype).removeprefix('torch.')}"
                    yield row(
                        "invariance", case, f"alone against {name}", relative(other, alone), "", direction=way(causal)
                    )


def resume() -> Iterator[Row]:
    """Whether a run that was stopped and resumed has the same weights, bit for bit, as an uninterrupted one."""
    with ThreadPoolExecutor() as pool:
        for kind, same in zip(RESUMED, pool.map(resumed, RESUMED), strict=True):
            yield row("resume", kind, "same bits", float(same), "")


def resumed(kind: str) -> bool:
    """Trains the demo for 40 steps, and for 20 and then 20 more, and compares the weights."""
    with TemporaryDirectory() as folder:
        corpus = f"{folder}/families.h5"
        tables = [
            "--clusters",
            "data/families.clusters.tsv",
            "--split-by",
            "sequence",
            "--ood",
            "data/families.ood.txt",
        ]
        python("protlm", "prepare", "data/families.fasta.gz", *tables, "-o", corpus)
        states = []
        for name, steps in (("whole", (40,)), ("resumed", (20, 40))):
            for count in steps:
                options = [f"data.corpus={corpus}", f"trainer.max_steps={count}", f"hydra.run.dir={folder}/{name}"]
                options += [f"model/attention={kind}", "trainer.limit_test_batches=2", "ckpt_path=auto"]
                python("protlm.train", "+experiment=demo", *options)
            path = f"{folder}/{name}/checkpoints/last.ckpt"
            states.append(torch.load(path, map_location="cpu", weights_only=False)["state_dict"])
        return all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def python(module: str, *arguments: str) -> None:
    """Runs a module of protlm in the checkout; raises UserError with the last line that it prints if it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise UserError(f"{module}: {(done.stderr.strip() or 'no message').splitlines()[-1]}")


def generation() -> Iterator[Row]:
    """Milliseconds per token of 16 proteins, after a short and a long prefix, by `generate` in float32."""
    for kind in ("exact", "relu", "softmax"):
        net = network(kind, True, layers=12).eval()
        for length in (64, 4096):
            tokens = torch.randint(4, 24, (16, length), device=DEVICE)
            with torch.inference_mode():
                _, state = net.step(tokens[:1])
                kinds = {"PyTorch operations": Steps(net, state)}
                if net.has_step_kernel:
                    kinds["kernel and graph"] = steps_from(net, state, 16)
                for name, steps in kinds.items():
                    steps.start(16)
                    took = milliseconds(partial(steps, tokens[:, 0]))
                    yield row("generation", kind, f"time per token, {name}", took, "ms", length=length)


PARTS = {part.__name__: part for part in (correctness, attention, model, embedding, invariance, resume, generation)}


def environment() -> Row:
    """Card, driver and versions."""
    names = {}
    for name in ("torch", "triton", "protlm"):
        try:
            names[name] = version(name)
        except PackageNotFoundError:
            names[name] = ""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        driver = ""
    return {"card": torch.cuda.get_device_name(DEVICE), "driver": driver, **names, "date": date.today().isoformat()}


def table(rows: list[Row]) -> str:
    """The rows as Markdown."""
    names = ["part", "direction", "length", "pass", "case", "measure", "value", "unit"]
    cells = [[f"{r[n]:.4g}" if isinstance(r[n], float) else r[n] for n in names] for r in rows]
    return markdown(names, cells)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__.partition("\n")[0])
    parser.add_argument("parts", nargs="*", help=f"which of: {', '.join(PARTS)}; default: all")
    parser.add_argument("--output", type=Path, default=Path("docs/results/gpu.csv"), help="CSV file to write")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.parts if name not in PARTS]:
        raise UserError(f"part {unknown[0]!r}: expected one of {', '.join(PARTS)}")
    if not torch.cuda.is_available():
        raise UserError("no CUDA device was found; this benchmark needs one")
    check_outputs(arguments.output)
    where, rows = environment(), []

    def everything() -> Iterator[Row]:
        for name in arguments.parts or PARTS:
            begin = time.monotonic()
            for one in PARTS[name]():
                rows.append(one)
                yield one | where
            print(f"{name}: {time.monotonic() - begin:.0f} s", file=sys.stderr, flush=True)

    try:
        write_csv(everything(), arguments.output)
    finally:
        print(table(rows))


if __name__ == "__main__":
    program(main)
