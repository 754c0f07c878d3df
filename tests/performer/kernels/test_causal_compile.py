"""Causal GPU kernels are compiled for GPUs that need not be there: spills are bounded, and shared memory suffices."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="triton is the optional extra `gpu`")

SHARED = {80: 163, 90: 227, 100: 227}
"""KiB of shared memory that a program can have, by compute capability."""


SPILLED = {("bfloat16", 80): 64, ("bfloat16", 90): 0, ("bfloat16", 100): 128}
"""Bytes a thread may keep in local memory; 256 for float32, whose products take three tf32 ones."""


@pytest.mark.slow
@pytest.mark.parametrize("capability", list(SHARED))
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_registers_and_shared_memory_suffice(capability: int, dtype: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.performer.kernels.compile_causal", "--dtypes", dtype]
    run = subprocess.run(
        [*command, "--capabilities", str(capability)], env=environment, capture_output=True, text=True, check=True
    )
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(rows) == 14
    spilled, shared = SPILLED.get((dtype, capability), 256), SHARED[capability] * 1024
    assert [row for row in rows if row["spills"] > spilled or row["shared"] > shared or row["unwritten"]] == []


@pytest.mark.slow
@pytest.mark.parametrize(("features", "width"), [(32, 16), (32, 20), (100, 20), (256, 32)])
def test_addresses_of_narrow_heads_come_from_registers_that_were_written(features: int, width: int) -> None:
    """ptxas of CUDA 12.8 miscompiles kernels for Hopper with rows of less than 128 bytes."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.performer.kernels.compile_causal", "--dtypes", "bfloat16"]
    command += ["--capabilities", "90", "--features", str(features), "--width", str(width)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(rows) == 14
    assert [row for row in rows if row["unwritten"]] == []
