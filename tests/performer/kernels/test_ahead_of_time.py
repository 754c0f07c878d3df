"""Kernels compile for GPUs that are not here, without spilled registers and within their shared memory."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="Triton is the optional extra gpu")

SHARED = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024}
"""Bytes of shared memory that a program may have, by target."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "call",
    [
        "softmax 60 100 bfloat16 masked",
        "relu 20 32 bfloat16 dense",
        "softmax 128 256 bfloat16 packed",
        "relu 64 128 bfloat16 packed",
        "softmax 128 512 float32 dense",
    ],
)
@pytest.mark.parametrize("target", SHARED)
def test_bidirectional(call, target):
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"TRITON_DEFAULT_FP_FUSION": "1"}
    command = [sys.executable, "-m", "tests.performer.kernels.ahead_of_time", *call.split(), str(target)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(reports) >= 5
    for report in reports:
        assert report["spilled"] == 0, report
        assert report["unwritten"] == [], report
        assert report["shared"] <= SHARED[target], report
