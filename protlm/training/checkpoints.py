"""Resumable checkpoints, written atomically with the previous one kept, and stopping on a signal without loss."""

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.callbacks import Callback

from protlm.checkpoint import read_lightning
from protlm.errors import UserError
from protlm.files import UnwritableError, atomic_output
from protlm.training.ranks import reduced
from protlm.training.run import is_first

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"
REQUEUE = (signal.SIGUSR1, signal.SIGUSR2)
"""After these signals the job returns to SLURM's queue."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint with `atomic_output`.

    Lightning's own way needs memory for a second copy and space in the folder for temporary files, and a kill can
    leave a truncated checkpoint.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Raises UnwritableError if it cannot be written."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with atomic_output(path) as partial, partial.open("wb") as file:
                torch.save(checkpoint, file)
        except RuntimeError as error:  # torch reports a full disk as a RuntimeError
            raise UnwritableError.of(path, error) from error


class BetweenSteps(Callback):
    """A callback that acts once a step is complete: logged, and validated if a validation was due.

    Lightning has no such hook. `TrainingTask` calls `next_batch` before Lightning starts to count the next step;
    after the last step, `on_train_end` does.
    """

    _step = -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._step = trainer.global_step

    def next_batch(self, trainer: pl.Trainer) -> None:
        """Calls `between_steps`, unless the next batch adds to the gradient of the same step."""
        if trainer.global_step != self._step:
            self._step = trainer.global_step
            self.between_steps(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.next_batch(trainer)

    def between_steps(self, trainer: pl.Trainer) -> None:
        """Called on all ranks after each step."""
        raise NotImplementedError


class TrainingCheckpoint(BetweenSteps):
    """Writes last.ckpt at regular intervals and at the end of training, and keeps the one before as previous.ckpt.

    Whenever the process is killed, at least one of the two is complete. `saved` names the last one known to be.
    """

    def __init__(self, folder: str, every_n_train_steps: int = 500) -> None:
        if not isinstance(every_n_train_steps, int) or every_n_train_steps < 1:
            name = "callbacks.checkpoint.every_n_train_steps"
            raise UserError(f"{name} {every_n_train_steps!r}: expected a positive integer")
        self.folder, self.every_n_train_steps = Path(folder), every_n_train_steps
        self.saved: str | None = None
        self._saved_step = -1

    @property
    def path(self) -> Path:
        return self.folder / LAST

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        if trainer.ckpt_path:
            self.saved = str(trainer.ckpt_path)
            if Path(trainer.ckpt_path).resolve() == self.path.resolve():
                self._saved_step = trainer.global_step

    def between_steps(self, trainer: pl.Trainer) -> None:
        if trainer.global_step % self.every_n_train_steps == 0:
            self.save(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.save(trainer)

    def save(self, trainer: pl.Trainer) -> None:
        """Writes last.ckpt unless it is from this step; has to be called on all ranks."""
        if trainer.global_step == self._saved_step:
            return
        new, problem = self.folder / f".new-{LAST}", None
        try:
            trainer.save_checkpoint(new)
        except UnwritableError as error:
            problem = str(error).replace(str(new), str(self.path))
            trainer.strategy.barrier()  # where the other ranks wait
        if problem := trainer.strategy.broadcast(problem):
            stop_all(trainer, UnwritableError(problem))
        if trainer.is_global_zero:
            if self.path.exists():
                os.replace(self.path, self.folder / PREVIOUS)
            os.replace(new, self.path)
        self.saved, self._saved_step = f"{self.path} (step {trainer.global_step:,})", trainer.global_step


class StopOnSignal(BetweenSteps):
    """Finishes the step, writes a checkpoint, and exits with 128 + the signal number.

    A validation that is due is finished first. After SIGUSR1 and SIGUSR2, with which SLURM announces the end of a job,
    the job is requeued. A second Ctrl-C stops at once.

    Args:
        advice: how to resume; by default the option with the checkpoint.
    """

    def __init__(self, advice: str | None = None) -> None:
        self.advice = advice
        self._signal, self._process = 0, 0
        self._handlers: dict[int, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._process = os.getpid()
        if threading.current_thread() is threading.main_thread():
            numbers = (signal.SIGINT, signal.SIGTERM, *REQUEUE)
            self._handlers = {number: signal.signal(number, self._note) for number in numbers}
        # Lightning would wait for the device before every batch to learn whether rank 0 has got SIGTERM
        loop: Any = trainer.fit_loop.epoch_loop
        loop._broadcast_sigterm_tensor = lambda: None

    def between_steps(self, trainer: pl.Trainer) -> None:
        # all ranks stop together, since writing a checkpoint takes all of them
        agreed = self._signal
        if trainer.world_size > 1:  # full, since torch.tensor copies from the host, for which it waits
            agreed = int(reduced(torch.full((), self._signal, device=trainer.strategy.root_device), "max"))
        if agreed:
            self._stop(trainer, agreed)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        while self._handlers:
            signal.signal(*self._handlers.popitem())

    def _stop(self, trainer: pl.Trainer, number: int) -> None:
        saved = None
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, TrainingCheckpoint):
                callback.save(trainer)
                saved = callback.path
        if trainer.is_global_zero:
            step = f"stopped at step {trainer.global_step:,}"
            print(f"{step}; {self.advice or f'to resume: ckpt_path={saved}'}", file=sys.stderr, flush=True)
        try:
            if number in REQUEUE:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)  # SLURM sends it to a job that is being requeued
                handler = self._handlers[number]
                if callable(handler) and handler is not exit_on_signal:  # of a launcher that requeues its own jobs
                    handler(number, None)
                elif trainer.is_global_zero:
                    requeue()
        finally:
            trainer.strategy.barrier()  # rank 0 has to finish first where the exit of one process ends all of them
        sys.exit(128 + number)

    def _note(self, number: int, frame: object) -> None:
        if os.getpid() != self._process:  # a data loader's worker
            return
        if self._signal and number == signal.SIGINT:
            sys.exit(128 + number)
        if not self._signal:
            print("stopping after this step; press Ctrl-C again to stop at once", file=sys.stderr, flush=True)
        self._signal = number


def exit_on_signal(number: int, frame: object = None) -> None:
    """Signal handler for when there is nothing to save."""
    if number in REQUEUE and os.environ.get("SLURM_PROCID", "0") == "0":
        requeue()
    print(f"stopped by {signal.Signals(number).name}", file=sys.stderr, flush=True)
    sys.exit(128 + number)


def requeue() -> None:
    """Returns the SLURM job of this process to the queue; does nothing outside SLURM."""
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    job = f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID')}" if array else os.environ.get("SLURM_JOB_ID", "")
    if not re.fullmatch(r"[0-9_]+", job):
        return
    try:
        subprocess.run(["scontrol", "requeue", job], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"job {job} could not be requeued ({error}); submit it again", file=sys.stderr, flush=True)


def stop_all(trainer: pl.Trainer, error: UserError) -> NoReturn:
    """Ends the run on all ranks for a reason known to all; only rank 0 raises it."""
    if trainer.is_global_zero:
        raise error
    sys.exit(2)


def resume_point(path: str | None, folder: Path) -> str | None:
    """The checkpoint to resume from, verified to be complete; None to start from scratch.

    Args:
        path: a checkpoint, None, or "auto" for the newest good one in `folder`; damaged ones are reported and skipped.
        folder: the checkpoints of this run.

    Raises:
        UserError: if the checkpoint is unusable; with "auto", if all of them are.
    """
    if path != "auto":
        if path:
            read_lightning(_not_a_folder(Path(path)))
        return path or None
    found = [folder / name for name in (LAST, PREVIOUS, BEST) if (folder / name).exists()]
    errors = []
    for candidate in found:
        try:
            step = read_lightning(candidate)["global_step"]
        except UserError as error:
            errors.append(str(error).removesuffix("; use an earlier one"))
            continue
        if errors and is_first():
            print(f"{'; '.join(errors)}: resuming from {candidate} (step {step:,})", file=sys.stderr)
        return str(candidate)
    if errors:
        raise UserError(f"no usable checkpoint: {'; '.join(errors)}; to start from scratch, leave out ckpt_path")
    return None


def _not_a_folder(path: Path) -> Path:
    if not path.is_dir():
        return path
    if found := next((folder / LAST for folder in (path, path / "checkpoints") if (folder / LAST).is_file()), None):
        raise UserError(f"ckpt_path {path}: is a folder; use its checkpoint {found}")
    if (path / "model.safetensors").is_file():
        raise UserError(f"ckpt_path {path}: is a model, not a checkpoint; to start from its weights, use init={path}")
    raise UserError(f"ckpt_path {path}: is a folder; expected a checkpoint such as RUN/checkpoints/{LAST}, or auto")
