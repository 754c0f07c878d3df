"""Kernels are compiled for GPUs that need not be there: no register is spilled, and shared memory suffices.

Only the cases below are compiled; SPILLED lists the known exceptions.
"""

import json
import os
import subprocess
import sys
from typing import Any

import pytest

pytest.importorskip("triton", reason="Triton is the optional extra gpu")

SHARED = {80: 163, 90: 227, 100: 227}
"""KiB of shared memory that a program may have, by compute capability times 10."""
CALLS = [
    "softmax 128 256 bfloat16 packed",
    "softmax 128 512 float32 dense",
    "relu 64 256 bfloat16 causal-packed",
    "softmax 64 256 bfloat16 causal-masked",
    "softmax 64 256 float32 causal",
]
NARROW = [
    "relu 16 32 bfloat16 causal",
    "softmax 16 32 bfloat16 causal",
    "relu 20 100 bfloat16 causal",
    "softmax 20 100 bfloat16 causal-masked",
]
"""Compiled for Hopper: ptxas of CUDA 12.8 miscompiles kernels with rows of less than 128 bytes."""
SMALL = [
    "relu 64 128 bfloat16 masked",
    "relu 64 128 bfloat16 packed",
    "softmax 60 100 bfloat16 masked",
    "relu 20 32 bfloat16 dense",
]
"""Bidirectional ones, for the same reason."""
MAPS = ["exp 20 100 bfloat16 causal", "gelu 64 128 bfloat16 masked"]
"""Other maps; kernels of the first accessed wrong addresses on an H200 when its rows had 64 bytes."""
COMMON = [
    "softmax 64 128 bfloat16 masked",
    "softmax 64 256 bfloat16 masked",
    "relu 64 256 bfloat16 masked",
    "relu 64 128 float16 dense",
    "softmax 64 256 bfloat16 causal-packed",
]
"""What models use, with the tiles that need the most registers, and float16."""
WIDE_FLOAT32 = "softmax 128 128 float32 causal"
ONLY = {
    80: ["relu 64 128 bfloat16 masked", "relu 64 256 float32 causal"],  # shared memory is smallest
    90: [*SMALL, *NARROW, *MAPS, *COMMON, "softmax 128 256 bfloat16 causal-masked", WIDE_FLOAT32],
    100: ["relu 64 128 bfloat16 masked", "softmax 64 256 bfloat16 causal-packed", "exp 64 256 bfloat16 causal"],
}
"""In addition."""
SPILLED = {
    (90, WIDE_FLOAT32, "outputs_kernel"): 992,
    (90, WIDE_FLOAT32, "queries_kernel"): 328,
    (90, WIDE_FLOAT32, "keys_kernel"): 568,
}
"""Bytes a thread at most; no tile that was tried spills less.

Each warp holds rows of 128 float32 numbers whole as operands, probably twice for three tf32 products.
"""


def rows(what: str, calls: list[str]) -> list[dict[str, Any]]:
    """What ahead_of_time.py prints."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.performer.kernels.ahead_of_time", what, *calls]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("capability", SHARED)
def test_registers_and_shared_memory_suffice_and_addresses_are_written(capability: int) -> None:
    calls = CALLS + ONLY[capability]
    found = rows(str(capability), calls)
    for call in calls:
        kernels = [row["kernel"] for row in found if row["call"] == call]
        assert len(kernels) >= (5 if "causal" not in call else 7 if "packed" in call else 8)
    for row in found:
        assert row["spills"] <= SPILLED.get((capability, row["call"], row["kernel"]), 0), row
        assert row["shared"] <= SHARED[capability] * 1024, row
        assert row["unwritten"] == [], row


@pytest.mark.slow
def test_a_new_length_compiles_nothing() -> None:
    """The source and the arguments that Triton compiles a kernel for are the same at several lengths.

    Where a long sequence is divided, sums of parts are float32: a second variant of two kernels, not at these lengths.
    """
    calls = ["softmax 64 128 bfloat16 packed", "relu 20 100 float32 masked", "softmax 64 256 bfloat16 causal-packed"]
    found = rows("sources", [*calls, "relu 20 100 float32 causal-masked"])
    assert len(found) >= 25
    for row in found:
        assert len(set(row["sources"])) == 1, row
