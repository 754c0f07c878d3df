"""Compiles the causal kernels for GPUs that need not be there, and prints what they take, as JSON lines.

python -m tests.performer.kernels.compile_causal CAPABILITY CALL...; a call is "KERNEL WIDTH FEATURES DTYPE". Run by
test_causal_compile.py in a process of its own: kernels are either interpreted or compiled.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from protlm.performer.features import named
from protlm.performer.kernels import causal_launch
from protlm.performer.kernels.causal_launch import causal, causal_backward
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


def launches(kernel: str, width: int, features: int, dtype: torch.dtype) -> Iterator[Launched]:
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
        results = causal(*arguments)
        causal_backward(results.out, results, *arguments)
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


if __name__ == "__main__":
    capability = int(sys.argv[1])
    causal_launch.generation = lambda device: capability // 10
    for call in sys.argv[2:]:
        kernel, width, features, dtype = call.split()
        for launch in launches(kernel, int(width), int(features), getattr(torch, dtype)):
            name = launch.kernel.__name__ + (" queries" if launch.arguments.get("QUERIES") else "")
            print(json.dumps({"call": call, "kernel": name} | resources(launch, capability)), flush=True)
