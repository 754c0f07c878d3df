"""Kernels compile for GPUs that are not here, without spilled registers and within their shared memory."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="Triton is the optional extra gpu")

SHARED = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
"""Bytes of shared memory that a program may have, by target."""

LARGE = ["softmax 128 256 bfloat16 packed", "softmax 128 512 float32 dense"]
CALLS = {
    80: [*LARGE, "relu 64 128 bfloat16 masked"],
    # the assembler miscompiles small tiles for Hopper only
    90: [*LARGE, "relu 64 128 bfloat16 packed", "softmax 60 100 bfloat16 masked", "relu 20 32 bfloat16 dense"],
    100: [*LARGE, "relu 64 128 bfloat16 masked"],
}


@pytest.mark.slow
@pytest.mark.parametrize("target", SHARED)
def test_bidirectional(target):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_DEFAULT_FP_FUSION": "1"}
    command = [sys.executable, "-m", "tests.performer.kernels.ahead_of_time", str(target), *CALLS[target]]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(sum(report["call"] == call for report in reports) >= 5 for call in CALLS[target])
    for report in reports:
        assert report["spilled"] == 0, report
        assert report["unwritten"] == [], report
        assert report["shared"] <= SHARED[target], report
