"""Compiles what the wrappers launch for GPUs that are not here, and reads what the assembler says about it."""

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

SHARED = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
"""Bytes of shared memory that a program may have, by target."""
TYPES = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int32: "*i32",
    torch.uint8: "*u8",
}


def compiled(launch: tuple[Any, tuple[Any, ...], dict[str, Any], dict[str, int]], target: int) -> dict[str, int]:
    """Registers, bytes spilled, bytes of shared memory and matrix instructions of one launch.

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
    report = resources(binary.asm["cubin"])
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
