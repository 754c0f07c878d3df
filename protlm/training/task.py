"""The LightningModule: loss, metrics beside their baseline, optimizer, schedule."""

import functools
import inspect
import math
from collections.abc import Callable, Iterable
from typing import Any

import pytorch_lightning as pl
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from protlm.checkpoint import KEY, description
from protlm.errors import UserError
from protlm.metrics import ResidueMetrics
from protlm.performer import Performer
from protlm.sequence.batching import Batch


class LanguageModelTask(pl.LightningModule):
    """Trains a `Performer` on batches of a data module of this package.

    Args:
        model: the network; its `config.causal` has to agree with the data.
        optimizer: makes an optimizer from parameter groups, such as a partial `torch.optim.AdamW`.
        schedule: makes the learning rate's factor from (step, steps in all); None keeps it constant.
    """

    def __init__(
        self,
        model: Performer,
        optimizer: Callable[[Iterable[Any]], Optimizer],
        schedule: Callable[[int, int], float] | None = None,
    ) -> None:
        super().__init__()
        if isinstance(optimizer, functools.partial):
            try:
                inspect.signature(optimizer.func).bind([], **optimizer.keywords)
            except TypeError as error:
                raise UserError(f"optimizer: {error}") from error
        self.model = model
        self._optimizer, self._schedule = optimizer, schedule
        self.valid = ResidueMetrics()
        self.tests = nn.ModuleList()
        self.results: dict[str, dict[str, float]] = {}
        """Split -> metrics, filled by `trainer.test`."""

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        logits = self.model(batch.inputs, batch.key_mask, batch.segments)
        loss = self.model.loss(logits, batch.targets)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.inputs))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.valid.update(self.model(batch.inputs, batch.key_mask, batch.segments), batch.targets, batch.scored)

    def on_validation_epoch_end(self) -> None:
        for name, value in self._summary(self.valid).items():
            self.log(f"valid/{name}", value, prog_bar=name in ("accuracy", "perplexity"), rank_zero_only=False)
        self.valid.reset()

    def on_test_start(self) -> None:
        self.tests = nn.ModuleList(ResidueMetrics() for _ in self._data().evaluated_splits()).to(self.device)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        metrics: Any = self.tests[dataloader_idx]
        metrics.update(self.model(batch.inputs, batch.key_mask, batch.segments), batch.targets, batch.scored)

    def on_test_epoch_end(self) -> None:
        for split, metrics in zip(self._data().evaluated_splits(), self.tests, strict=True):
            self.results[split] = self._summary(metrics)
            self.log_dict({f"{split}/{name}": value for name, value in self.results[split].items()})

    def configure_optimizers(self) -> Any:
        optimizer = self._optimizer(self.model.parameters())
        factor, steps = self._schedule, self.trainer.estimated_stepping_batches
        if factor is None:
            return optimizer
        if not math.isfinite(steps) and getattr(factor, "decay", "none") != "none":
            raise UserError("a schedule that decays needs trainer.max_steps; or take schedule=constant")
        total = int(steps) if math.isfinite(steps) else 0
        schedule = LambdaLR(optimizer, lambda step: factor(step, total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint[KEY] = description(self.model.config)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        stored = checkpoint[KEY]["model"]
        if stored != (now := self.model.config.to_dict()):
            odd = ", ".join(f"{name} {stored[name]} is now {now[name]}" for name in now if now[name] != stored[name])
            raise UserError(
                f"the checkpoint's model differs from the configured one: {odd}; resume with the same options"
            )

        if (name := type(self._data()).__qualname__) not in checkpoint:
            raise UserError(f"the checkpoint was not made with {name}; resume with the same options")

    def _data(self) -> Any:
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def _summary(self, metrics: Any) -> dict[str, float]:
        return metrics.beside(self._data().unigram)


class Warmup:
    """Factor of the learning rate: rises linearly over the first `steps`, then stays or falls to `floor`.

    Args:
        steps: length of the warm-up; 0 for none.
        decay: "none", "linear" or "cosine", over the steps that are left.
        floor: the factor at the end of a decay.

    >>> [Warmup(steps=2, decay="linear")(step, 6) for step in range(6)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    """

    def __init__(self, steps: int = 0, decay: str = "none", floor: float = 0.0) -> None:
        if decay not in ("none", "linear", "cosine"):
            raise UserError(f"schedule.decay {decay!r}: expected 'none', 'linear' or 'cosine'")
        self.steps, self.decay, self.floor = steps, decay, floor

    def __call__(self, step: int, total: int) -> float:
        """The factor at `step` of `total` optimizer steps."""
        if step < self.steps:
            return (step + 1) / self.steps
        if self.decay == "none":
            return 1.0
        done = min(1.0, (step - self.steps) / max(1, total - self.steps))
        left = 1 - done if self.decay == "linear" else (1 + math.cos(math.pi * done)) / 2
        return self.floor + (1 - self.floor) * left
