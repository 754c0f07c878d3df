"""Progress of training: a bar in a terminal, plain lines elsewhere."""

import math
import sys
import time
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback, RichProgressBar, Timer
from torch import Tensor

from protlm.batching.batches import Batch
from protlm.errors import UserError
from protlm.progress import duration
from protlm.training.ranks import reduced

LOSS = "train/loss"


class StepProgressBar(RichProgressBar):
    """Lightning's rich progress bar, counting steps instead of epochs and without v_num; only in a terminal.

    The training loss is read at most once a second, since reading it waits for the device.
    """

    interval = 1.0
    """Seconds between two readings of the loss."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._loss: dict[str, float] = {}
        self._read = -math.inf

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if not sys.stdout.isatty():
            self.disable()

    @property
    def total_train_batches(self) -> int | float:
        """All batches of the run, including those before it was resumed."""
        if self.trainer.max_steps > 0:
            return self.trainer.max_steps * self.trainer.accumulate_grad_batches
        return super().total_train_batches

    def _get_train_description(self, current_epoch: int) -> str:
        return "training".ljust(len(self.validation_description))

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> Any:
        now, loss = time.monotonic(), trainer.callback_metrics.get(LOSS)
        if loss is not None and now - self._read >= self.interval:
            self._loss, self._read = {LOSS: float(loss)}, now
        shown = {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}
        return {**self._loss, **shown}


class ProgressLines(Callback):
    """Prints a line every `every_n_steps` and at each validation, unless a progress bar shows.

    A line has the step, the mean loss and the throughput since the previous line (without padding and without the time
    spent on validation), the learning rate and the time left.
    """

    def __init__(self, every_n_steps: int = 100) -> None:
        if not isinstance(every_n_steps, int) or every_n_steps < 1:
            name = f"callbacks.lines.every_n_steps {every_n_steps!r}"
            raise UserError(f"{name}: expected a positive integer; callbacks.lines=null prints none")
        self.every_n_steps = every_n_steps
        self._on = False
        self._first = (0, 0.0)  # step and time at which this process started
        self._since = self._paused = 0.0
        self._shown = 0
        self._sums: Tensor | None = None  # loss, batches, tokens

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        bar = trainer.progress_bar_callback
        on = bar is None or not getattr(bar, "is_enabled", True)
        self._on = trainer.strategy.broadcast(on)  # only rank 0 has a bar, and the lines are sums over all ranks
        self._first, self._since = (trainer.global_step, time.monotonic()), time.monotonic()
        self._shown = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if not self._on:
            return
        loss = outputs["loss"].detach() * trainer.accumulate_grad_batches
        sums = torch.stack((loss.float(), torch.ones_like(loss), batch.key_mask.sum()))
        self._sums = sums if self._sums is None else self._sums + sums
        step = trainer.global_step
        due = step % self.every_n_steps == 0 or step in (self._first[0] + 1, trainer.max_steps)
        if step == self._shown or not due:
            return
        loss, batches, tokens = reduced(self._sums).tolist()
        now = time.monotonic()
        parts = [f"loss {loss / batches:.3f}"]
        if (rate := trainer.callback_metrics.get("train/learning_rate")) is not None:
            parts.append(f"learning rate {float(rate):.2e}")
        parts.append(f"{tokens / max(now - self._since, 1e-9):,.0f} tokens/s")
        self._print(trainer, ", ".join([*parts, *self._left(trainer, now)]))
        self._sums, self._since, self._shown = None, now, step

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._paused = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since += time.monotonic() - self._paused
        if self._on and not trainer.sanity_checking:
            names = [name for name in trainer.callback_metrics if name.startswith("valid/") and "unigram" not in name]
            shown = [f"{name.removeprefix('valid/')} {float(trainer.callback_metrics[name]):.4g}" for name in names]
            self._print(trainer, "validation: " + ", ".join(shown))

    def _left(self, trainer: Trainer, now: float) -> list[str]:
        """The time left to the last step, or to trainer.max_time if that comes first."""
        first, started = self._first
        limits = [timer.time_remaining() for timer in trainer.callbacks if isinstance(timer, Timer)]  # type: ignore[attr-defined]
        if trainer.max_steps > 0:
            limits.append((now - started) / (trainer.global_step - first) * (trainer.max_steps - trainer.global_step))
        times = [limit for limit in limits if limit is not None]
        return [f"{duration(max(0, min(times)))} left"] if times else []

    def _print(self, trainer: Trainer, text: str) -> None:
        if trainer.is_global_zero:
            total = f" of {trainer.max_steps:,}" if trainer.max_steps > 0 else ""
            print(f"step {trainer.global_step:,}{total}: {text}", flush=True)
