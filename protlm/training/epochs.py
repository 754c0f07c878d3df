"""Epochs: one is as many steps as the first pass over the sampled corpus takes.

Training batches never end; later passes, whose number of batches differs a little, continue where the previous one
ended. An epoch of Lightning therefore is a fixed number of steps, the same on all ranks and known in advance.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pytorch_lightning as pl

from protlm.errors import UserError, counted
from protlm.sequence.alphabets import PROTEIN


def resolve_limits(options: Mapping[str, Any], layers: Sequence[Collection[str]]) -> dict[str, Any]:
    """Options of the trainer that have to change because users set others, in files or on the command line.

    `trainer.max_epochs` replaces the number of steps, and `trainer.check_val_every_n_epoch` the interval of validation,
    of the layers below the one in which it is set; with both, the run ends at the limit that comes first.

    Args:
        options: of the trainer.
        layers: names of the options that users set: in configuration files of their own, and on the command line.

    >>> resolve_limits({"max_epochs": 2, "max_steps": 1500}, [[], ["trainer.max_epochs"]])
    {'max_steps': -1}
    >>> resolve_limits({"max_epochs": 2, "max_steps": 1500}, [["trainer.max_epochs"], ["trainer.max_steps"]])
    {}
    """

    def replaces(name: str, other: str) -> bool:
        """Whether `name` was set, and `other` neither beside nor after it."""
        last = max((i for i, layer in enumerate(layers) if f"trainer.{name}" in layer), default=None)
        return last is not None and not any(f"trainer.{other}" in layer for layer in layers[last:])

    changes: dict[str, Any] = {}
    interval, every = options.get("val_check_interval"), options.get("check_val_every_n_epoch")
    if options.get("max_epochs") not in (None, -1) and replaces("max_epochs", "max_steps"):
        changes["max_steps"] = -1
    if every is not None and replaces("check_val_every_n_epoch", "val_check_interval"):
        changes["val_check_interval"] = 1.0
    elif isinstance(interval, float) and every is None:
        changes["check_val_every_n_epoch"] = 1  # a fraction of an epoch
    return {name: value for name, value in changes.items() if value != options.get(name)}


def plan_epochs(trainer: pl.Trainer, data: Any) -> None:
    """Sets the length of an epoch, and the last step, of a trainer whose options are given in epochs.

    Args:
        trainer: not yet training.
        data: one of protlm's data modules.
    """
    every, interval = trainer.check_val_every_n_epoch, trainer.val_check_interval
    if trainer.max_epochs == -1 and every is None and not isinstance(interval, float):
        return
    batches = steps_per_epoch(trainer, data.epoch_batches()) * trainer.accumulate_grad_batches
    if every is not None and isinstance(interval, int) and interval > batches:
        raise UserError(f"trainer.val_check_interval {interval}: an epoch has only {batches:,} batches per device")
    limit = trainer.limit_train_batches
    if isinstance(limit, float):
        trainer.limit_train_batches = max(1, int(batches * limit))
    if trainer.max_epochs and trainer.max_epochs > 0:
        assert isinstance(trainer.limit_train_batches, int)
        total = math.ceil(trainer.limit_train_batches / trainer.accumulate_grad_batches) * trainer.max_epochs
        trainer.fit_loop.epoch_loop.max_steps = total if trainer.max_steps < 0 else min(total, trainer.max_steps)


def align_progress(checkpoint: dict[str, Any], trainer: pl.Trainer) -> None:
    """Sets Lightning's counters in a checkpoint to the place that its step has in the epochs of this trainer.

    Lightning cannot resume at the end of an epoch unless its own callback has written the checkpoint; and an epoch has
    another length on another number of devices.
    """
    loops = checkpoint.get("loops", {}).get("fit_loop", {})
    total = loops.get("epoch_loop.batch_progress", {}).get("total", {})
    # one written by a callback of Lightning within a step is left to Lightning
    if not isinstance(trainer.limit_train_batches, int) or total.get("completed") != total.get("processed"):
        return
    step, accumulate = checkpoint["global_step"], trainer.accumulate_grad_batches
    epoch, batch = divmod(step * accumulate, trainer.limit_train_batches)
    started = epoch + (batch > 0)
    for part in ("total", "current"):
        loops["epoch_progress"][part] |= {"ready": started, "started": started, "processed": epoch, "completed": epoch}
    names = ("ready", "started", "processed", "completed")
    loops["epoch_loop.batch_progress"]["current"] |= dict.fromkeys(names, batch)
    loops["epoch_loop.batch_progress"]["is_last_batch"] = False
    checkpoint["epoch"] = epoch


def steps_per_epoch(trainer: pl.Trainer, batches: int) -> int:
    """Optimizer steps in which all devices together train on a number of batches."""
    return max(1, math.ceil(batches / (trainer.world_size * trainer.accumulate_grad_batches)))


def describe_plan(trainer: pl.Trainer, data: Any) -> str:
    """One line: the training proteins, the steps per epoch and the planned length of the run."""
    batches, exact = data.estimated_epoch_batches()
    epoch = steps_per_epoch(trainer, batches)
    proteins, about = data.training_proteins, "" if exact else "about "
    record = getattr(data, "alphabet", PROTEIN).record
    line = f"training on {proteins:,} {record}s, {about}{counted(epoch, 'step')} per epoch"
    if trainer.max_steps < 0:
        return line
    epochs = f"{trainer.max_steps / epoch:.3g}"
    return f"{line}: {counted(trainer.max_steps, 'step')}, {epochs} epoch{'s' * (epochs != '1')}"
