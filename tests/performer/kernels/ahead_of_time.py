"""Compiles the kernels for GPUs that need not be there, and prints what they take.

python -m tests.performer.kernels.ahead_of_time CAPABILITY CALL...: one JSON object a line for each kernel of a forward
and a backward pass; with "sources" instead of a capability, nothing is compiled, and each has the hashes of its source
and arguments at several lengths. A call is "KERNEL WIDTH FEATURES DTYPE FORM"; FORM is dense, or what applies of
causal, packed and masked, such as causal-masked. It runs in a process of its own, since kernels are either interpreted
or compiled.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from protlm.performer.attention import FavorAttention
from protlm.performer.features import named
from protlm.performer.kernels import bidirectional, causal_launch
from protlm.performer.kernels.causal_step import causal_step
from protlm.performer.segments import Packed
from tests.performer.kernels.disassembly import unwritten

LENGTHS = [512, 513, 700]
"""Positions of a row; the first is compiled."""
TYPES = {
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.float32: "*fp32",
    torch.int32: "*i32",
    torch.uint8: "*u8",
    torch.bool: "*i1",
}


@dataclass
class Launched:
    """A kernel and the arguments of one launch."""

    kernel: Any
    arguments: dict[str, Any]
    options: dict[str, int]

    @property
    def name(self) -> str:
        """Of the kernel; one computes two things."""
        return self.kernel.__name__ + (" queries" if self.arguments.get("QUERIES") else "")

    def source(self) -> ASTSource:
        """What Triton compiles for these arguments."""
        signature, constants, attributes = {}, {}, {}
        for index, parameter in enumerate(self.kernel.params):
            value = self.arguments[parameter.name]
            if parameter.is_constexpr or value is None:
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


def launches(call: str, length: int) -> Iterator[Launched]:
    """The launches of a forward and a backward pass, each kernel once; none is made."""
    kernel, width, features, dtype, form = call.split()
    found: dict[str, Launched] = {}

    def record(self: Any, *arguments: Any, grid: Any, warmup: bool, **named_arguments: Any) -> None:
        names = [parameter.name for parameter in self.params]
        options = {name: named_arguments.get(name, default) for name, default in (("num_warps", 4), ("num_stages", 3))}
        launched = Launched(self, dict(zip(names, arguments, strict=False)) | named_arguments, options)
        found.setdefault(launched.name, launched)

    run, triton.runtime.JITFunction.run = triton.runtime.JITFunction.run, record
    try:
        sizes = int(width), getattr(torch, dtype), length, "packed" in form, "masked" in form
        (causal_pass if "causal" in form else bidirectional_pass)(kernel, int(features), *sizes)
    finally:
        triton.runtime.JITFunction.run = run
    yield from found.values()


def operands(
    batch: int, heads: int, width: int, dtype: torch.dtype, length: int, packed: bool, masked: bool
) -> tuple[Any, ...]:
    """q, k, v and the gradient of the output, a key mask and the sequences of a packed batch, or None for these."""
    batch = 1 if packed else batch
    q, k, v, grad = (torch.empty(batch, length, heads, width, dtype=dtype).transpose(1, 2) for _ in range(4))
    key_mask = torch.ones(batch, length, dtype=torch.bool) if masked else None
    sequences = Packed(torch.tensor([0, 200, length], dtype=torch.int32), length - 200) if packed else None
    return q, k, v, grad, key_mask, sequences


def bidirectional_pass(kernel: str, features: int, width: int, *sizes: Any) -> None:
    """Of 4 x 8 heads, or 8 of a packed batch."""
    *qkv, grad, key_mask, sequences = operands(4, 8, width, *sizes)
    attention = FavorAttention(width, features, kernel)
    inputs, options = attention._operands(*qkv, key_mask)
    call = attention.feature_map.redrawn, *(sequences or (None, 0))
    results = bidirectional.forward(inputs, options, *call)
    bidirectional.backward(grad, inputs, options, results, *call)


def causal_pass(kernel: str, features: int, width: int, *sizes: Any) -> None:
    """Of 2 x 4 heads, or 4 of a packed batch, and a step."""
    *qkv, grad, key_mask, sequences = operands(2, 4, width, *sizes)
    feature_map = named(kernel)
    bias = torch.zeros(features) if feature_map.adaptive else None
    directions = torch.zeros(features, width), bias, feature_map, 1.0
    results = causal_launch.causal(*qkv, key_mask, *directions, packed=sequences)
    causal_launch.causal_backward(grad, results, *qkv, key_mask, *directions, packed=sequences)
    if sequences is None:
        causal_step(*(x[:, :, :1] for x in qkv), *directions, results.shift, results.sums)


def resources(launch: Launched, capability: int) -> dict[str, Any]:
    """Registers, bytes of local memory (spills) and bytes of shared memory of a kernel on sm_<capability>.

    Also `unwritten`: what disassembly.py finds.
    """
    compiled = triton.compile(launch.source(), target=GPUTarget("cuda", capability, 32), options=launch.options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    registers, stack, local = (int(re.findall(rf"{name}:(\d+)", text)[-1]) for name in ("REG", "STACK", "LOCAL"))
    found = unwritten(compiled.asm["cubin"]) if capability == 90 else []
    return {"registers": registers, "spills": stack + local, "shared": compiled.metadata.shared, "unwritten": found}


if __name__ == "__main__":
    capability = 90 if sys.argv[1] == "sources" else int(sys.argv[1])
    bidirectional._older = lambda device: capability < 90
    causal_launch.generation = lambda device: capability // 10
    for call in sys.argv[2:]:
        if sys.argv[1] == "sources":
            found = [{launch.name: launch.source().hash() for launch in launches(call, length)} for length in LENGTHS]
            for kernel in found[0]:
                print(json.dumps({"call": call, "kernel": kernel, "sources": [one[kernel] for one in found]}))
        else:
            for launch in launches(call, LENGTHS[0]):
                print(json.dumps({"call": call, "kernel": launch.name} | resources(launch, capability)), flush=True)
