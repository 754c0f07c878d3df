"""Checkpoints to go on from: written whole or not at all, the one before kept, the newest good one found."""

import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.callbacks import Callback

from protlm.checkpoint import read_lightning
from protlm.errors import UserError
from protlm.files import UnwritableError, atomic_output
from protlm.training.launch import is_first

LAST, PREVIOUS, BEST = "last.ckpt", "previous.ckpt", "best.ckpt"


class WholeFiles(TorchCheckpointIO):
    """Writes a checkpoint with `atomic_output`.

    Lightning's own way holds it in memory once more, and copies it from the folder for temporary files, which may be
    too small; a kill can cut the copy short.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Raises UnwritableError if there is no room."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with atomic_output(path) as partial, partial.open("wb") as file:
                torch.save(checkpoint, file)
        except RuntimeError as error:  # torch reports a full disk as a RuntimeError
            raise UnwritableError.of(path, error) from error


class BetweenSteps(Callback):
    """Does something when a step is over and done with: logged, and validated if that was due.

    Lightning has no hook there. `LanguageModelTask` calls `next_batch` before Lightning begins to count the next step;
    behind the last one `on_train_end` is that place.
    """

    _step = -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._step = trainer.global_step

    def next_batch(self, trainer: pl.Trainer) -> None:
        """Calls `between_steps` unless the batch belongs to the step before, whose gradient it adds to."""
        if trainer.global_step != self._step:
            self._step = trainer.global_step
            self.between_steps(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.next_batch(trainer)

    def between_steps(self, trainer: pl.Trainer) -> None:
        """On all ranks, behind each step."""
        raise NotImplementedError


class TrainingCheckpoint(BetweenSteps):
    """Writes last.ckpt every so many steps and at the end, and keeps the one before as previous.ckpt.

    A kill at any moment leaves at least one of the two whole.

    Args:
        folder: where to write.
        every_n_train_steps: optimizer steps between two checkpoints.

    Attributes:
        saved: the last one that this process knows to be whole; None before the first.
    """

    def __init__(self, folder: str, every_n_train_steps: int = 500) -> None:
        if not isinstance(every_n_train_steps, int) or every_n_train_steps < 1:
            raise UserError(
                f"callbacks.checkpoint.every_n_train_steps {every_n_train_steps!r}: expected a whole number from 1"
            )
        self.folder, self.every_n_train_steps = Path(folder), every_n_train_steps
        self.saved: str | None = None
        self._saved_step = -1

    @property
    def path(self) -> Path:
        """Of the newest checkpoint."""
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
        """Writes last.ckpt now, unless it is of this step; all ranks have to call it together.

        Raises:
            UnwritableError: if there is no room for it.
        """
        if trainer.global_step == self._saved_step:
            return
        new, problem = self.folder / f".new-{LAST}", None
        try:
            trainer.save_checkpoint(new)
        except UnwritableError as error:
            problem = str(error).replace(str(new), str(self.path))
            trainer.strategy.barrier()  # at which the other ranks wait
        if problem := trainer.strategy.broadcast(problem):
            stop_all(trainer, UnwritableError(problem))
        if trainer.is_global_zero:
            if self.path.exists():
                os.replace(self.path, self.folder / PREVIOUS)
            os.replace(new, self.path)
        self.saved, self._saved_step = f"{self.path} (step {trainer.global_step:,})", trainer.global_step


def stop_all(trainer: pl.Trainer, error: UserError) -> NoReturn:
    """Ends the run for a reason that all ranks know of; only rank 0 raises it."""
    if trainer.is_global_zero:
        raise error
    sys.exit(2)


def resume_point(path: str | None, folder: Path) -> str | None:
    """The checkpoint to go on from, read and found whole; None to begin anew.

    Args:
        path: a checkpoint, None, or "auto" for the newest good one in `folder`; one that is passed over is said.
        folder: of this run's checkpoints.

    Raises:
        UserError: if the checkpoint, or with "auto" each of them, is unusable.
    """
    if path != "auto":
        if path:
            read_lightning(path)
        return path
    found = [folder / name for name in (LAST, PREVIOUS, BEST) if (folder / name).exists()]
    errors = []
    for candidate in found:
        try:
            step = read_lightning(candidate)["global_step"]
        except UserError as error:
            errors.append(str(error).removesuffix("; use an earlier one"))
            continue
        if errors and is_first():
            print(f"{'; '.join(errors)}: going on from {candidate} (step {step:,})", file=sys.stderr)
        return str(candidate)
    if errors:
        raise UserError(f"no usable checkpoint to go on from: {'; '.join(errors)}; leave out ckpt_path to begin anew")
    return None
