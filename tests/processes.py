"""Training in processes that have imported everything already, so that a test which kills many takes seconds."""

import multiprocessing
import os
import sys
from collections.abc import Sequence
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["protlm.training.command"])


class TrainingProcess:
    """`python -m protlm.train` on one device in a folder, as a process group with its output in log.txt."""

    def __init__(self, folder: Path, options: Sequence[str]) -> None:
        self._process = CONTEXT.Process(target=_train, args=(folder, options))
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        """The exit code, None while it is running."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int | None:
        """The exit code after at most `timeout` seconds."""
        self._process.join(timeout)
        return self.poll()


def _train(folder: Path, options: Sequence[str]) -> None:
    import torch

    from protlm import train

    os.setsid()
    log = os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(folder)
    torch.set_num_threads(1)
    sys.argv = ["protlm-train", *options]
    train.main()
