"""Compiles the causal kernels for GPUs that need not be there, and prints what they take, as JSON lines.

Run by test_causal_compile.py in a process of its own: kernels are either interpreted or compiled.
"""

import argparse
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from protlm.performer.features import named
from protlm.performer.kernels import causal_launch
from protlm.performer.kernels.causal_launch import causal, causal_backward
from protlm.performer.kernels.causal_tiling import Launch, Tiling
from tests.performer.kernels.disassembly import unwritten

TYPES = {
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.float32: "*fp32",
    torch.int32: "*i32",
    torch.bool: "*i1",
}


@dataclass
class Launched:
    """A kernel and the arguments of one launch."""

    kernel: Any
    arguments: dict[str, Any]
    num_warps: int
    num_stages: int

    def source(self) -> ASTSource:
        """What Triton compiles for these arguments."""
        signature, constants, attributes = {}, {}, {}
        for index, parameter in enumerate(self.kernel.params):
            value = self.arguments[parameter.name]
            if parameter.is_constexpr:
                signature[parameter.name], constants[(index,)] = "constexpr", value
            elif isinstance(value, torch.Tensor):
                signature[parameter.name] = TYPES[value.dtype]
                attributes[(index,)] = [["tt.divisibility", 16]]
            elif isinstance(value, int):
                signature[parameter.name] = "i32"
                if not parameter.do_not_specialize and value % 16 == 0:
                    attributes[(index,)] = [["tt.divisibility", 16]]
            else:
                signature[parameter.name] = "fp32"
        return ASTSource(self.kernel, signature, constants, attributes)


def launches(kernel: str, dtype: torch.dtype, features: int, width: int, sizes: Tiling | None) -> Iterator[Launched]:
    """The launches of a forward and a backward pass, none of which is made."""
    found: list[Launched] = []

    def record(self: Any, *arguments: Any, grid: Any, warmup: bool, **named_arguments: Any) -> None:
        names = [parameter.name for parameter in self.params]
        options = {name: named_arguments.pop(name, default) for name, default in (("num_warps", 4), ("num_stages", 3))}
        found.append(Launched(self, dict(zip(names, arguments, strict=False)) | named_arguments, **options))

    run, triton.runtime.JITFunction.run = triton.runtime.JITFunction.run, record
    try:
        feature_map = named(kernel)
        q = k = v = torch.zeros(2, 512, 4, width, dtype=dtype).transpose(1, 2)
        weight = torch.zeros(features, width)
        bias = torch.zeros(features) if feature_map.adaptive else None
        arguments = q, k, v, None, weight, bias, feature_map, 1.0
        results = causal(*arguments, sizes=sizes)
        causal_backward(results.out, results, *arguments, sizes=sizes)
    finally:
        triton.runtime.JITFunction.run = run
    names = set()
    for launch in found:
        key = launch.kernel.__name__, launch.arguments.get("QUERIES")
        if key not in names:
            names.add(key)
            yield launch


def resources(launch: Launched, capability: int) -> dict[str, Any]:
    """Registers, bytes of local memory (spills) and bytes of shared memory of a kernel on sm_<capability>.

    Also `unwritten`: what disassembly.py finds.
    """
    options = {"num_warps": launch.num_warps, "num_stages": launch.num_stages}
    compiled = triton.compile(launch.source(), target=GPUTarget("cuda", capability, 32), options=options)
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        text = subprocess.run(
            [tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    registers, stack, local = (int(re.findall(rf"{name}:(\d+)", text)[-1]) for name in ("REG", "STACK", "LOCAL"))
    found = unwritten(compiled.asm["cubin"]) if capability == 90 else []
    return {"registers": registers, "spills": stack + local, "shared": compiled.metadata.shared, "unwritten": found}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kernels", nargs="+", default=["relu", "softmax"])
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument("--capabilities", nargs="+", type=int, default=[80, 90, 100])
    parser.add_argument("--features", type=int, default=256)
    parser.add_argument("--width", type=int, default=64)
    for name in ("chunk", "group", "tile"):
        parser.add_argument(f"--{name}", type=int)
    parser.add_argument("--warps", type=int)
    parser.add_argument("--only", nargs="+")
    options = parser.parse_args()
    for dtype in options.dtypes:
        sizes = None
        if options.chunk:
            launch = Launch(options.chunk, options.tile, options.warps)
            sizes = Tiling(group=options.group, states=launch, outputs=launch, queries=launch, keys=launch)
        for kernel, capability in product(options.kernels, options.capabilities):
            causal_launch.generation = lambda device, major=capability // 10: major
            for launch in launches(kernel, getattr(torch, dtype), options.features, options.width, sizes):
                name = launch.kernel.__name__ + (" queries" if launch.arguments.get("QUERIES") else "")
                if options.only and name not in options.only:
                    continue
                row = {"kernel": name, "map": kernel, "dtype": dtype, "capability": capability}
                row |= {"features": options.features, "width": options.width, "warps": launch.num_warps}
                row |= {name: launch.arguments.get(name) for name in ("C", "BM", "G")}
                print(json.dumps(row | resources(launch, capability)), flush=True)


if __name__ == "__main__":
    main()
