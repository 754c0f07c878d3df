"""The LightningModule: loss, metrics beside their baseline, optimizer, schedule."""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from protlm.batching.batches import Batch
from protlm.checkpoint import KEY, description
from protlm.errors import UserError
from protlm.metrics import ResidueMetrics
from protlm.performer import Performer, PerformerConfig
from protlm.training.checkpoints import BetweenSteps
from protlm.training.finite import FiniteSteps
from protlm.training.memory import return_freed_memory
from protlm.training.strategies import FullySharded


class LanguageModelTask(pl.LightningModule):
    """Trains a `Performer` on batches of a data module of this package.

    Args:
        model: the network; its `config.causal` has to agree with the data.
        optimizer: makes an optimizer from the model, such as a partial `protlm.training.optimizer.adamw`.
        schedule: makes the learning rate's factor from (step, steps in all); None keeps it constant.
        activation_checkpointing: see `Performer`; for less memory and a third more time.
        compile: compile the blocks with `torch.compile` for training.
        skip_nonfinite: so many steps in a row may be left out because a gradient is not finite; with one more, the run
            stops.
    """

    def __init__(
        self,
        model: Performer,
        optimizer: Callable[[Performer], Optimizer],
        schedule: Callable[[int, int], float] | None = None,
        activation_checkpointing: bool = False,
        compile: bool = False,  # noqa: A002
        skip_nonfinite: int = 0,
    ) -> None:
        super().__init__()
        if isinstance(optimizer, functools.partial):
            try:
                inspect.signature(optimizer.func).bind(model, **optimizer.keywords)
            except TypeError as error:
                raise UserError(f"optimizer: {error}") from error
        for name, value in (("activation_checkpointing", activation_checkpointing), ("compile", compile)):
            if not isinstance(value, bool):
                raise UserError(f"task.{name} {value!r}: expected true or false")
        self.model = model
        self.model.activation_checkpointing = activation_checkpointing
        if activation_checkpointing:
            return_freed_memory()
        if compile:
            for block in model.blocks:
                block.compile(dynamic=True)  # lengths differ from batch to batch
        self._optimizer, self._schedule = optimizer, schedule
        self.finite = FiniteSteps(skip_nonfinite)
        self.valid = ResidueMetrics()
        self.tests = nn.ModuleList()
        self.results: dict[str, dict[str, float]] = {}
        """Split -> metrics, filled by `trainer.test`."""

    def setup(self, stage: str) -> None:
        """Refuses data with longer sequences than the model's attention takes."""
        longest = self.model.config.longest
        if longest is not None and self._data().max_length > longest:
            raise UserError(
                f"data.max_length {self._data().max_length}: attention {self.model.config.attention_name} takes at "
                f"most model.max_length tokens, {longest}; set both to the same"
            )

    def configure_model(self) -> None:
        """Lets the strategy shard the model, if it is one that does."""
        if isinstance(self.trainer.strategy, FullySharded):
            self.trainer.strategy.shard(self.model)

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Says that a step is over, before Lightning begins to count the next one."""
        if self.trainer.training:
            for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
                if isinstance(callback, BetweenSteps):
                    callback.next_batch(self.trainer)
        return batch

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        logits = self.model(batch.inputs, batch.key_mask, batch.segments)
        loss = self.model.loss(logits, batch.targets)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.inputs))
        self.finite.note(loss, batch)
        return loss

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Logs the norm of the gradient of all ranks, clips it, and looks whether it is finite."""
        weights = [weight for weight in self.model.parameters() if weight.grad is not None]
        norm = get_total_norm([weight.grad for weight in weights if weight.grad is not None])
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        self.log("train/gradient_norm", norm)
        self.log("train/learning_rate", optimizer.param_groups[0]["lr"])
        if not self.finite.check(norm, self.trainer):
            optimizer.zero_grad()  # an optimizer without gradients changes nothing
        elif gradient_clip_val and gradient_clip_algorithm == "value":
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif gradient_clip_val:
            clip_grads_with_norm_(weights, gradient_clip_val, norm)
        if self.finite.limit:
            self.log("train/skipped_steps", float(self.finite.skipped))

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
        optimizer = self._optimizer(self.model)
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
        checkpoint["skipped_steps"] = self.finite.state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        stored = PerformerConfig.from_dict(checkpoint[KEY]["model"]).to_dict()  # with what older ones lack
        now = self.model.config.to_dict()
        # the first token is told with the data, and older checkpoints do not have it
        odd = [name for name in now if name != "start_id" and now[name] != stored[name]]
        if odd:
            changes = ", ".join(f"{name} {stored[name]} is now {now[name]}" for name in odd)
            raise UserError(
                f"the checkpoint's model differs from the configured one: {changes}; resume with the same options"
            )
        if (name := type(self._data()).__qualname__) not in checkpoint:
            raise UserError(f"the checkpoint was not made with {name}; resume with the same options")
        self.finite.go_on(checkpoint.get("skipped_steps", (0, 0)))

    def _data(self) -> Any:
        return self.trainer.datamodule  # type: ignore[attr-defined]

    def _summary(self, metrics: Any) -> dict[str, float]:
        return metrics.beside(self._data().unigram)
