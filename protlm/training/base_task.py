"""What every LightningModule of protlm shares: gradient checks and clipping, optimizer, schedule, checkpoints."""

import ctypes
import platform
import sys
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from protlm.checkpoint import KEY, description
from protlm.errors import UserError
from protlm.performer import Performer, PerformerConfig
from protlm.performer.checkpointing import SELECTIVE
from protlm.training.averaging import start_averages
from protlm.training.checkpoints import BetweenSteps
from protlm.training.epochs import align_progress, plan_epochs
from protlm.training.factories import checked, configured, takes_optimizer, takes_parameters
from protlm.training.gradient_check import GradientCheck
from protlm.training.progress import LOSS, StepProgressBar
from protlm.training.resumed_optimizer import check_callbacks, check_resumed, check_schedule
from protlm.training.strategies import FullySharded

_M_MMAP_THRESHOLD = -3  # of mallopt, malloc.h


class TrainingTask(pl.LightningModule):
    """Trains a `Performer`, or something on top of one; subclasses say what is computed for a batch.

    Args:
        model: network.
        optimizer: returns an optimizer. A subclass of `torch.optim.Optimizer`, or a callable whose first parameter is
            named `params`, gets the parameters to train; any other callable, such as a partial
            `protlm.training.optimizer.adamw`, gets the module to train.
        schedule: learning-rate schedule. A subclass of `torch.optim.lr_scheduler.LRScheduler`, or a callable whose
            first parameter is named `optimizer`, gets the optimizer and returns a scheduler, which takes a step after
            each optimizer step (`ReduceLROnPlateau`: after each validation, with `monitored`). Any other callable
            gets the step and the total number of steps, and returns a factor of the learning rate. None keeps the
            learning rate constant.
        activation_checkpointing: see `Performer`; needs less memory and about a third more time. "selective" keeps the
            results of attention, and needs more memory and less time than true.
        compile: compile the blocks with `torch.compile` for training; not with "selective".
        skip_nonfinite: maximum number of consecutive steps to skip because of a non-finite gradient.
        attention_backend: what computes attention from random features; see `Performer.use_backend`.

    Raises:
        UserError: for an option of the wrong type, or an optimizer that does not take the configured options.
    """

    monitored = "valid/perplexity"
    """The metric that tells how good the model is."""
    _bar_needs_loss = False  # Lightning waits for the device in each step to show it

    def __init__(
        self,
        model: Performer,
        optimizer: Callable[[Any], Optimizer],
        schedule: Callable[..., Any] | None = None,
        activation_checkpointing: bool | str = False,
        compile: bool = False,  # noqa: A002
        skip_nonfinite: int = 0,
        attention_backend: str = "auto",
    ) -> None:
        super().__init__()
        if schedule is not None and not callable(schedule):
            got = type(schedule).__qualname__
            raise UserError(f"schedule: expected a schedule of torch or a function of (step, total), got {got}")
        if not isinstance(activation_checkpointing, bool) and activation_checkpointing != SELECTIVE:
            name = f"task.activation_checkpointing {activation_checkpointing!r}"
            raise UserError(f"{name}: expected true or false, or {SELECTIVE}")
        if not isinstance(compile, bool):
            raise UserError(f"task.compile {compile!r}: expected true or false")
        if compile and activation_checkpointing == SELECTIVE:
            raise UserError(f"task.activation_checkpointing={SELECTIVE} with task.compile=true: choose one of them")
        self.model = model
        try:
            self.model.use_backend(attention_backend)
        except ValueError as error:
            raise UserError(f"task.{error}") from error
        self.model.activation_checkpointing = activation_checkpointing
        if activation_checkpointing:
            return_freed_memory()
        if compile:
            for block in model.blocks:
                block.compile(dynamic=True)  # lengths differ from batch to batch
        self._optimizer, self._schedule = optimizer, schedule
        self._new_optimizer()  # so that a wrong option is refused before the run begins
        self.gradients = GradientCheck(skip_nonfinite)
        self.results: dict[str, dict[str, float]] = {}
        """Split -> metrics, filled by `trainer.test`."""
        self.written: str | None = None
        """The model that a test wrote, if it is not the checkpoint itself."""

    @property
    def trained(self) -> nn.Module:
        """What the optimizer gets."""
        return self.model

    def loss_of(self, batch: Any) -> Tensor:
        """The loss of a batch."""
        raise NotImplementedError

    def setup(self, stage: str) -> None:
        """Plans the epochs."""
        if stage == "fit":
            plan_epochs(self.trainer, self._data())

    def on_fit_start(self) -> None:
        """Says what computes attention, where there is a choice; refuses a backend that cannot."""
        bar = self.trainer.progress_bar_callback
        shown = bar is not None and getattr(bar, "is_enabled", True)
        self._bar_needs_loss = shown and not isinstance(bar, StepProgressBar)
        try:
            used = self.model.backend_in_use
        except ValueError as error:
            raise UserError(f"task.{error}") from error
        if used and self.device.type == "cuda" and self.trainer.is_global_zero:
            print(f"attention: {used}", file=sys.stderr, flush=True)

    def configure_model(self) -> None:
        """Shards the model if the strategy is `FullySharded`."""
        if isinstance(self.trainer.strategy, FullySharded):
            self.trainer.strategy.shard(self.model)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Runs `BetweenSteps` callbacks before Lightning counts the batch as started."""
        if self.trainer.training:
            for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, BetweenSteps):
                    callback.next_batch(self.trainer)
        return batch

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss_of(batch)
        self.log(LOSS, loss, prog_bar=self._bar_needs_loss, batch_size=len(batch.inputs))
        self.gradients.add(loss, batch)
        return loss

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        """Logs the gradient norm over all ranks, skips a non-finite gradient, and clips."""
        weights = [weight for weight in self.trained.parameters() if weight.grad is not None]
        norm = get_total_norm([weight.grad for weight in weights if weight.grad is not None])
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        self.log("train/gradient_norm", norm)
        # on the CPU, since Lightning copies numbers to the device, and waits for it
        self.log("train/learning_rate", torch.as_tensor(optimizer.param_groups[0]["lr"], dtype=torch.float32))
        if not self.gradients.finite(norm, self.trainer):
            optimizer.zero_grad()  # without gradients an optimizer changes nothing
        elif gradient_clip_val and gradient_clip_algorithm == "value":
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif gradient_clip_val:
            clip_grads_with_norm_(weights, gradient_clip_val, norm)
        if self.gradients.limit:
            self.log("train/skipped_steps", torch.tensor(float(self.gradients.skipped)))

    def optimizer_step(self, *args: Any, **options: Any) -> None:
        super().optimizer_step(*args, **options)
        start_averages(self.trainer.callbacks, self)  # type: ignore[attr-defined]

    def _new_optimizer(self) -> Optimizer:
        weights = _trainable(self.trained) if takes_parameters(self._optimizer) else self.trained
        return checked("optimizer", lambda: self._optimizer(weights), Optimizer)

    def configure_optimizers(self) -> Any:
        optimizer = self._new_optimizer()
        schedule, total = self._schedule, max(0, self.trainer.max_steps)
        if schedule is None:
            return optimizer
        if takes_optimizer(schedule):
            scheduler = checked("schedule", lambda: schedule(optimizer), LRScheduler)
        elif not total and getattr(schedule, "decay", "none") != "none":
            raise UserError("a schedule with decay requires trainer.max_steps or max_epochs; or use schedule=constant")
        else:
            scheduler = checked("schedule", lambda: LambdaLR(optimizer, lambda step: schedule(step, total)))
        how: dict[str, Any] = {"scheduler": scheduler, "interval": "step"}
        if isinstance(scheduler, ReduceLROnPlateau):
            # not strict: a run resumed right after a validation has no metrics, and has taken that step before
            frequency = self.trainer.val_check_interval
            how |= {"monitor": self.monitored, "frequency": frequency, "strict": False}
            if not self.trainer.limit_val_batches or not self._data().validates:
                raise UserError("schedule: ReduceLROnPlateau requires validation, but there are no validation proteins")
        return {"optimizer": optimizer, "lr_scheduler": how}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[KEY] = description(self.model.config)
        checkpoint["skipped_steps"] = self.gradients.state()
        checkpoint["schedule"] = configured(self._schedule) if takes_optimizer(self._schedule) else {}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        stored = PerformerConfig.from_dict(checkpoint[KEY]["model"]).to_dict()  # fills in fields that older ones lack
        now = self.model.config.to_dict()
        # start_id follows from the data, and older checkpoints do not have it
        odd = [name for name in now if name != "start_id" and now[name] != stored[name]]
        if odd:
            changes = ", ".join(f"{name} {stored[name]} is now {now[name]}" for name in odd)
            raise UserError(
                f"the checkpoint's model differs from the configured one: {changes}; resume with the same options"
            )
        if (name := type(self._data()).__qualname__) not in checkpoint:
            raise UserError(f"the checkpoint was not made with {name}; resume with the same options")
        self.gradients.load_state(checkpoint.get("skipped_steps", (0, 0)))
        if checkpoint.get("loops") and self.trainer.state.fn == "fit":
            align_progress(checkpoint, self.trainer)
            check_callbacks(checkpoint.get("callbacks", {}), self.trainer.callbacks)  # type: ignore[attr-defined]
            check_schedule(checkpoint.get("schedule", {}), self._schedule)
            if not isinstance(self.trainer.strategy, FullySharded):  # which checks it before it loads it
                made = self.configure_optimizers()
                scheduled = isinstance(made, dict)
                schedulers = [made["lr_scheduler"]["scheduler"]] if scheduled else []
                check_resumed(checkpoint, made["optimizer"] if scheduled else made, schedulers)

    def _data(self) -> Any:
        return self.trainer.datamodule  # type: ignore[attr-defined]


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    return [weight for weight in module.parameters() if weight.requires_grad]


def return_freed_memory() -> None:
    """Makes glibc return freed tensors of 4 MiB and more to the system; does nothing with another C library.

    By default glibc raises that threshold up to 32 MiB as tensors are freed and keeps smaller ones in its heap, where
    live activations prevent the space between them from being reused. Activation checkpointing would save nothing.
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 4 * 2**20)
