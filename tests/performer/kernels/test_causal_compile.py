"""Causal GPU kernels are compiled for GPUs that need not be there: spills are bounded, and shared memory suffices."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="triton is the optional extra `gpu`")

SHARED = {80: 163, 90: 227, 100: 227}
"""KiB of shared memory that a program can have, by compute capability."""

SPILLED = {80: 64, 90: 0, 100: 128}
"""Bytes a thread may keep in local memory with 16 bits; 256 for float32, whose products take three tf32 ones."""

CALLS = ["relu 64 256 bfloat16", "softmax 64 256 bfloat16", "softmax 64 256 float32"]
NARROW = ["relu 16 32 bfloat16", "softmax 16 32 bfloat16", "relu 20 100 bfloat16", "softmax 20 100 bfloat16"]
"""Compiled for Hopper: ptxas of CUDA 12.8 miscompiles kernels with rows of less than 128 bytes. Some spill more."""
ONLY = {80: ["relu 64 256 float32"], 90: NARROW, 100: []}
"""In addition; shared memory is smallest on 80."""


@pytest.mark.slow
@pytest.mark.parametrize("capability", list(SHARED))
def test_registers_and_shared_memory_suffice_and_addresses_are_written(capability: int) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    calls = CALLS + ONLY[capability]
    command = [sys.executable, "-m", "tests.performer.kernels.compile_causal", str(capability), *calls]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    assert [row["call"] for row in rows] == [call for call in calls for _ in range(7)]
    for row in rows:
        limit = 256 if "float32" in row["call"] else SPILLED[capability]
        assert row["call"] in NARROW or row["spills"] <= limit, row
        assert row["shared"] <= SHARED[capability] * 1024, row
        assert row["unwritten"] == [], row
