"""Compiles what the wrappers launch for GPUs that are not here, and reads what the assembler says about it.

python -m tests.performer.kernels.ahead_of_time TARGET CALL...: one JSON object a line for each launch of bidirectional
attention, forward and backward. A call is "KERNEL WIDTH FEATURES DTYPE FORM"; FORM is dense, masked or packed.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tests.performer.kernels.disassembly import unwritten

TYPES = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int32: "*i32",
    torch.uint8: "*u8",
}


def compiled(launch: tuple[Any, tuple[Any, ...], dict[str, Any], dict[str, int]], target: int) -> dict[str, Any]:
    """Registers, bytes spilled, bytes of shared memory and matrix instructions of one launch, and faults of ptxas.

    Args:
        launch: kernel, arguments by position, compile-time constants by name, and num_warps and num_stages.
        target: compute capability times 10.
    """
    kernel, arguments, constants, options = launch
    names = kernel.arg_names
    signature: dict[str, str] = {}
    constexprs: dict[tuple[int, ...], Any] = {}
    attrs: dict[tuple[int, ...], list[Any]] = {}
    for i, name in enumerate(names):
        value = arguments[i] if i < len(arguments) else constants[name]
        if i >= len(arguments) or value is None:
            signature[name], constexprs[i,] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[name], attrs[i,] = TYPES[value.dtype], [["tt.divisibility", 16]]
        else:
            signature[name] = "i32"
    source = ASTSource(kernel, signature, constexprs, attrs)
    binary = triton.compile(source, target=GPUTarget("cuda", target, 32), options=options)
    report: dict[str, Any] = resources(binary.asm["cubin"])
    report["unwritten"] = unwritten(binary.asm["cubin"]) if target == 90 else []
    ptx = binary.asm["ptx"]
    report["products"] = len(
        re.findall(r"^\s*(?:@\S+ )?(?:wgmma\.mma_async|mma\.sync|tcgen05\.mma)", ptx, re.MULTILINE)
    )
    report["wide"] = len(re.findall(r"wgmma\.mma_async|tcgen05\.mma", ptx))
    return report | {"shared": binary.metadata.shared}


def resources(cubin: bytes) -> dict[str, int]:
    """Registers of a thread, and bytes of its stack, where registers are spilled."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(path)]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    used = {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", report)}
    return {"registers": used["REG"], "spilled": used["STACK"] + used["LOCAL"]}


def bidirectional_launches(
    kernel: str, width: int, features: int, dtype: torch.dtype, form: str, older: bool
) -> list[Any]:
    """What forward and backward would launch for 4 x 8 heads of 512 positions."""
    from protlm.performer.attention import FavorAttention
    from protlm.performer.kernels import bidirectional

    bidirectional._older = lambda device: older
    launches: list[Any] = []

    def record(self: Any, kernel: Any, grid: Any, *arguments: Any, **changed: Any) -> None:
        constants = self.constants(kernel) | changed
        options = {name: constants[name] for name in ("num_warps", "num_stages")}
        known = {name: constants[name] for name in kernel.arg_names[len(arguments) :]}
        launches.append((kernel, arguments, known, options))

    bidirectional._Launcher.__call__ = record  # type: ignore[method-assign]
    batch = 1 if form == "packed" else 4
    q, k, v, grad = (torch.empty(batch, 512, 8, width, dtype=dtype).transpose(1, 2) for _ in range(4))
    packed = (torch.zeros(5, dtype=torch.int32), 512) if form == "packed" else (None, 0)
    key_mask = torch.ones(batch, 512, dtype=torch.bool) if form == "masked" else None
    attention = FavorAttention(width, features, kernel)
    inputs, options = attention._operands(q, k, v, key_mask)
    call = attention.feature_map.redrawn, *packed
    results = bidirectional.forward(inputs, options, *call)
    bidirectional.backward(grad, inputs, options, results, *call)
    return launches


if __name__ == "__main__":
    target = int(sys.argv[1])
    for call in sys.argv[2:]:
        kernel, width, features, dtype, form = call.split()
        sizes = int(width), int(features), getattr(torch, dtype)
        for launch in bidirectional_launches(kernel, *sizes, form, target < 90):
            report = {"call": call, "kernel": launch[0].fn.__name__} | compiled(launch, target)
            print(json.dumps(report), flush=True)
