"""Stopping on a signal without loss: Ctrl-C, SIGTERM, and the signals by which SLURM announces the end of a job."""

import os
import re
import signal
import subprocess
import sys
import threading
from typing import Any

import pytorch_lightning as pl
import torch

from protlm.training.checkpoints import BetweenSteps, TrainingCheckpoint

REQUEUE = (signal.SIGUSR1, signal.SIGUSR2)
"""After these the job is put back into SLURM's queue."""


class StopOnSignal(BetweenSteps):
    """Finishes the step, writes a checkpoint to go on from, and ends with 128 + the signal's number.

    A validation that is due is finished too. SIGUSR1 and SIGUSR2, by which SLURM can announce the end of a job, requeue
    it. A second Ctrl-C stops at once.
    """

    def __init__(self) -> None:
        self._signal, self._process = 0, 0
        self._before: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._process = os.getpid()
        if threading.current_thread() is threading.main_thread():
            numbers = (signal.SIGINT, signal.SIGTERM, *REQUEUE)
            self._before = {number: signal.signal(number, self._note) for number in numbers}

    def between_steps(self, trainer: pl.Trainer) -> None:
        # all ranks stop together, since writing a checkpoint takes all of them
        number = torch.tensor(self._signal, device=trainer.strategy.root_device)
        if agreed := int(trainer.strategy.reduce(number, reduce_op="max")) if trainer.world_size > 1 else self._signal:
            self._stop(trainer, agreed)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        while self._before:
            signal.signal(*self._before.popitem())

    def _stop(self, trainer: pl.Trainer, number: int) -> None:
        saved = None
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, TrainingCheckpoint):
                callback.save(trainer)
                saved = callback.path
        if trainer.is_global_zero:
            print(f"stopped at step {trainer.global_step:,}; to go on: ckpt_path={saved}", file=sys.stderr, flush=True)
        try:
            if number in REQUEUE:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)  # by which SLURM ends a job that is being requeued
                before = self._before[number]
                if callable(before):  # of a launcher that knows how to requeue its job, or `leave`
                    before(number, None)
                elif trainer.is_global_zero:
                    requeue()
        finally:
            trainer.strategy.barrier()  # where the end of one process ends all of them, rank 0 must have got that far
        sys.exit(128 + number)

    def _note(self, number: int, frame: object) -> None:
        if os.getpid() != self._process:  # a worker that makes batches
            return
        if self._signal and number == signal.SIGINT:
            sys.exit(128 + number)
        if not self._signal:
            print("stopping behind this step; once more to stop at once", file=sys.stderr, flush=True)
        self._signal = number


def leave(number: int, frame: object = None) -> None:
    """What a signal does where there is nothing to save."""
    if number in REQUEUE and os.environ.get("SLURM_PROCID", "0") == "0":
        requeue()
    sys.exit(128 + number)


def requeue() -> None:
    """Puts the SLURM job of this process back into the queue; does nothing outside SLURM."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    job = f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID')}" if array else os.environ.get("SLURM_JOB_ID", "")
    if not re.fullmatch(r"[0-9_]+", job):
        return
    try:
        subprocess.run(["scontrol", "requeue", job], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"job {job} could not be requeued ({error}); submit it again", file=sys.stderr, flush=True)
