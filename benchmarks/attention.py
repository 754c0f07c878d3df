"""Time and memory of attention against length: protlm, exact attention, performer-pytorch, and none (OPT).

    python -m benchmarks.attention            # about 35 minutes
    python -m benchmarks.attention --lengths 512 1024 --repeats 3

B=1, H=8, d=64, M=256. Times are medians; the methods take turns. Memory is the growth of a separate process beyond
inputs, output and gradients. The table has "-" where a call would take longer than --limit or need more memory than
MEMORY.
"""

import argparse
import io
import multiprocessing
import warnings
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measure import PASSES, Function, forward_backward, medians, peak_bytes, positive, program
from benchmarks.tables import check_outputs, replace_csv
from protlm.performer import FavorAttention, PerformerConfig
from protlm.performer.block import Block

HEADS, WIDTH, FEATURES = 8, 64, 256
MEMORY_LENGTHS = [1024, 4096, 16384, 65536]
LENGTHS = [512, 1024, 2048, 4096, 8192, 16384, 32768, 65536]
COLOURS = {
    "protlm softmax": "tab:blue",
    "protlm relu": "tab:cyan",
    "SDPA": "tab:red",
    "performer-pytorch": "tab:orange",
    "OPT": "tab:gray",
}
METHODS = list(COLOURS)
MEMORY = 12e9  # bytes that one call may use
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Case:
    """One cell of the table."""

    method: str
    step: str
    causal: bool
    dtype: str
    length: int

    def inputs(self) -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        shape = (1, HEADS, self.length, WIDTH)
        return [torch.randn(shape, generator=generator).to(DTYPES[self.dtype]) for _ in range(3)]

    def function(self) -> Function:
        if self.method.startswith("protlm"):
            return FavorAttention(WIDTH, FEATURES, self.method.split()[1], causal=self.causal).eval()
        if self.method == "SDPA":
            return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        if self.method == "OPT":
            return lambda q, k, v: v.clone()
        return performer_pytorch(self.causal)

    def too_large(self) -> bool:
        """performer-pytorch stores M x e numbers per position of a causal sequence, three times with gradients."""
        needed = HEADS * self.length * FEATURES * WIDTH * 4 * (3 if "backward" in self.step else 1)
        return self.method == "performer-pytorch" and self.causal and needed > MEMORY


def performer_pytorch(causal: bool) -> Function:
    """The attention of performer-pytorch, without its message about CUDA code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it imports distutils
        from performer_pytorch import FastAttention
    with redirect_stdout(io.StringIO()):
        return FastAttention(WIDTH, FEATURES, causal=causal)


def memory(case: Case, threads: int) -> int:
    """Bytes beyond inputs, output and gradients, measured in this process."""
    torch.set_num_threads(threads)
    small = Case(case.method, case.step, case.causal, case.dtype, 128)
    PASSES[case.step](small.function(), small.inputs())()  # loads libraries
    inputs = case.inputs()
    run = PASSES[case.step](case.function(), inputs)
    results = 4 + 1 if "backward" in case.step else 1  # output, its gradient and those of the inputs
    return max(0, peak_bytes(run) - results * inputs[0].nbytes)


def cases(lengths: list[int], step: str, causal: bool, dtype: str) -> Iterator[list[Case]]:
    for length in lengths:
        yield [Case(method, step, causal, dtype, length) for method in METHODS]


def measure_times(lengths: list[int], repeats: int, limit: float) -> Iterator[dict[str, Any]]:
    """Rows with a time for each method, printed as they are measured."""
    for causal in (False, True):
        for step in PASSES:
            for dtype in DTYPES:
                print(f"\n{'causal' if causal else 'bidirectional'}, {step}, {dtype}: milliseconds")
                print(" " * 7 + "".join(f"{method:>19}" for method in METHODS), flush=True)
                last: dict[str, float] = {}
                for row in cases(lengths, step, causal, dtype):
                    length, runs = row[0].length, {}
                    for case in row:
                        growth = 4 if case.method == "SDPA" else 2
                        if not case.too_large() and last.get(case.method, 0.0) * growth <= limit:
                            runs[case.method] = PASSES[step](case.function(), case.inputs())
                    times = medians(runs, repeats)
                    # a method that was skipped is too slow at the next length, too
                    last = {method: times.get(method, limit) for method in METHODS}
                    cells = (f"{times[m] * 1e3:.1f}" if m in times else "-" for m in METHODS)
                    print(f"{length:>7}" + "".join(f"{cell:>19}" for cell in cells), flush=True)
                    yield {"causal": causal, "pass": step, "dtype": dtype, "length": length, "seconds": times}


def measure_memory(lengths: list[int]) -> Iterator[dict[str, Any]]:
    """Rows with the peak memory of each method in float32; a single call, without a time limit."""
    context = multiprocessing.get_context("spawn")
    for causal in (False, True):
        for step in PASSES:
            print(f"\n{'causal' if causal else 'bidirectional'}, {step}, float32: peak MiB beyond inputs and results")
            print(" " * 7 + "".join(f"{method:>19}" for method in METHODS), flush=True)
            for row in cases(lengths, step, causal, "float32"):
                found = {}
                for case in row:
                    if not case.too_large():
                        with context.Pool(1) as pool:
                            found[case.method] = pool.apply(memory, (case, torch.get_num_threads()))
                cells = (f"{found[m] / 2**20:.0f}" if m in found else "-" for m in METHODS)
                print(f"{row[0].length:>7}" + "".join(f"{cell:>19}" for cell in cells), flush=True)
                yield {"causal": causal, "pass": step, "length": row[0].length, "bytes": found}


def measure_block(lengths: list[int], repeats: int) -> Iterator[dict[str, Any]]:
    """One block of the paper's model (d=512, feed-forward 1024) and its ratio to the same block with OPT."""
    kinds = ["opt", "softmax", "relu", "exact"]
    print("\none block, bidirectional, forward+backward, float32: milliseconds, and ratio to OPT")
    print(" " * 7 + "".join(f"{kind:>19}" for kind in kinds), flush=True)
    for length in lengths:
        x = torch.randn(1, length, HEADS * WIDTH, generator=torch.Generator().manual_seed(0))
        runs = {}
        for kind in kinds[: 4 if length <= 4096 else 3]:
            config = PerformerConfig(
                33, 1, 1, HEADS, HEADS * WIDTH, 1024, attention=kind, num_features=FEATURES, dropout=0.0
            )
            block = Block(config, 0)
            runs[kind] = forward_backward(lambda x, block=block: block(x, None), [x])
        times = medians(runs, repeats)
        cells = (f"{times[k] * 1e3:.0f} ({times[k] / times['opt']:.2f})" if k in times else "-" for k in kinds)
        print(f"{length:>7}" + "".join(f"{cell:>19}" for cell in cells), flush=True)
        yield {"length": length, "seconds": times}


def summary(times: list[dict[str, Any]]) -> None:
    """Prints the main ratios, as far as they were measured."""
    table = {(row["causal"], row["pass"], row["dtype"], row["length"]): row["seconds"] for row in times}

    def ratio(name: str, other: str, causal: bool, step: str, length: int) -> None:
        found = table.get((causal, step, "float32", length), {})
        if other in found:
            print(f"{name:<70}{found[other] / found['protlm softmax']:>7.1f} x")

    print("\nspeed-up of protlm softmax, float32")
    for other in ("SDPA", "performer-pytorch"):
        ratio(f"forward, bidirectional, L=8192, against {other}", other, False, "forward", 8192)
        ratio(f"forward, causal, L=4096, against {other}", other, True, "forward", 4096)
        ratio(f"forward+backward, bidirectional, L=8192, against {other}", other, False, "forward+backward", 8192)
    ratio("forward, causal, L=16384, against SDPA", "SDPA", True, "forward", 16384)
    for length in LENGTHS[:3]:
        ratio(f"forward, bidirectional, L={length}, against SDPA", "SDPA", False, "forward", length)
    narrow = table.get((False, "forward", "bfloat16", 8192))
    if narrow:
        wide = table[False, "forward", "float32", 8192]["protlm softmax"]
        name = "forward, bidirectional, L=8192, bfloat16 against float32"
        print(f"{name:<70}{wide / narrow['protlm softmax']:>7.1f} x")


def draw(times: list[dict[str, Any]], memories: list[dict[str, Any]], path: Path) -> None:
    """Draws time and memory against length on logarithmic axes."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import ScalarFormatter

    figure, axes = plt.subplots(2, 4, figsize=(17, 8), sharex=True, constrained_layout=True)
    panels = [(causal, step) for causal in (False, True) for step in PASSES]
    for column, (causal, step) in enumerate(panels):
        name = f"{'causal' if causal else 'bidirectional'}, {step}"
        top, bottom = axes[0, column], axes[1, column]
        for method in METHODS:
            for dtype, style in (("float32", "o-"), ("bfloat16", "x:")):
                points = [
                    (row["length"], row["seconds"][method] * 1e3)
                    for row in times
                    if (row["causal"], row["pass"], row["dtype"]) == (causal, step, dtype) and method in row["seconds"]
                ]
                label = f"{method}, {dtype}" if column == 0 else None
                if points:
                    top.plot(*zip(*points, strict=True), style, color=COLOURS[method], label=label, markersize=4)
            points = [
                (row["length"], row["bytes"][method] / 2**20)
                for row in memories
                if (row["causal"], row["pass"]) == (causal, step) and row["bytes"].get(method, 0) > 2**18
            ]
            if points:
                bottom.plot(*zip(*points, strict=True), "o-", color=COLOURS[method], markersize=4)
        top.set(title=name, xscale="log", yscale="log", ylabel="ms" if column == 0 else None)
        bottom.set(xscale="log", yscale="log", xlabel="length", ylabel="peak MiB (float32)" if column == 0 else None)
        for axis in (top, bottom):
            axis.grid(alpha=0.3)
            axis.xaxis.set_major_formatter(ScalarFormatter())
            axis.set_xticks(sorted({row["length"] for row in times})[::2])
            axis.minorticks_off()
    figure.legend(loc="outside lower center", ncol=5, fontsize=9)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def write_csv(times: list[dict[str, Any]], memories: list[dict[str, Any]], path: Path) -> None:
    """Writes one measurement per line."""
    found: dict[tuple[Any, ...], list[Any]] = {}
    for r in times:
        for method, value in r["seconds"].items():
            found[r["causal"], r["pass"], r["dtype"], r["length"], method] = [f"{value:.6f}", ""]
    for r in memories:
        for method, value in r["bytes"].items():
            found.setdefault((r["causal"], r["pass"], "float32", r["length"], method), ["", ""])[1] = value
    columns = ("causal", "pass", "dtype", "length", "method", "seconds", "peak_bytes")
    replace_csv((dict(zip(columns, (*key, *values), strict=True)) for key, values in found.items()), path)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attention", description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", type=positive, nargs="+", default=LENGTHS)
    parser.add_argument("--repeats", type=positive, default=5, help="timed calls, after one warm-up call")
    parser.add_argument("--limit", type=float, default=8.0, help="seconds that one call may take")
    parser.add_argument("--figure", type=Path, default=Path("docs/figures/attention.png"))
    parser.add_argument("--csv", type=Path, default=Path("docs/results/attention.csv"))
    parser.add_argument("--block", action="store_true", help="time only one block of a model, and write no files")
    options = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, B=1, H={HEADS}, d={WIDTH}, M={FEATURES}")
    if not options.block:
        check_outputs(options.csv, picture=options.figure)
        times = list(measure_times(options.lengths, options.repeats, options.limit))
        memories = list(measure_memory([length for length in options.lengths if length in MEMORY_LENGTHS]))
        summary(times)
        write_csv(times, memories, options.csv)
        draw(times, memories, options.figure)
        print(f"\nfigure: {options.figure}\ntable: {options.csv}")
    list(measure_block([length for length in options.lengths if 1024 <= length <= 16384], options.repeats))


if __name__ == "__main__":
    program(main)
