"""Parts for tests of benchmarks.gpu; they import no PyTorch, so that processes start quickly."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.gpu.figures import Row, row


def good() -> Iterator[Row]:
    yield row("good", "relu", "error", 0.5, limit=1.0)
    yield row("good", "relu", "time", 2.0, "ms", length=8)


def fails() -> Iterator[Row]:
    yield row("fails", "relu", "time", 3.0, "ms")
    raise ValueError("an illegal memory access\nmore")


def dies() -> Iterator[Row]:
    yield row("dies", "relu", "time", 4.0, "ms")
    os._exit(7)


def hangs() -> Iterator[Row]:
    """Together with a process that it started, whose id is its figure."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield row("hangs", "relu", "child", child.pid)
    time.sleep(60)


def wrong() -> Iterator[Row]:
    yield row("wrong", "relu", "error", 2.0, limit=1.0, direction="causal")
    yield row("wrong", "softmax", "error", float("nan"), limit=1.0)


def module() -> Iterator[Row]:
    yield row("module", Path(__file__).name, "torch", int("torch" in sys.modules))
