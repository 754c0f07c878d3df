"""The LightningModule of distillation."""

import sys
from typing import Any

import torch
from torch import Tensor, nn

from protlm.batching.batches import Batch
from protlm.checkpoint import fingerprint, load
from protlm.distillation.low_rank import Adapters
from protlm.distillation.matching import attention_errors, divergence, hidden_errors
from protlm.distillation.stages import ADAPTERS, FEATURES, Stages, check_tuning
from protlm.distillation.student import check_teacher
from protlm.errors import UserError
from protlm.performer import Performer
from protlm.performer.projection import whole_number
from protlm.training.base_task import TrainingTask
from protlm.training.strategies import FullySharded


class DistillationTask(TrainingTask):
    """Trains a student with linear attention to match a frozen teacher with exact attention.

    Three stages, each of which may have no steps:

        match    the learned features alone, so that the attention of each layer, at the teacher's queries and keys, has
                 the teacher's outputs
        distil   all weights, so that representations of all layers and, with a language-model head, logits match
        tune     all weights, or low-rank adapters of the projections, for the task of pre-training: masked or next
                 residues

    Every other step of the first two stages sees proteins without masks. LoLCATs (Zhang et al. 2024) and RADLADS
    (Goldstein et al. 2025) have similar stages.

    Args:
        model: the student; see `student_of`.
        optimizer, schedule, options: see `TrainingTask`.
        teacher: path of the teacher's model.
        match, tune: first and last steps of `trainer.max_steps`, for these stages.
        tune_method: "full", or "lora" for low-rank adapters in the last stage; checkpoints have them merged.
        rank, alpha: of adapters; see `Adapters`.
        logits: weight of the KL divergence of logits beside the relative errors of representations.
    """

    monitored = "valid/error"

    def __init__(
        self,
        model: Performer,
        optimizer: Any,
        schedule: Any = None,
        teacher: str = "",
        match: int = 1000,
        tune: int = 0,
        tune_method: str = "full",
        rank: int = 8,
        alpha: float = 16.0,
        logits: float = 1.0,
        **options: Any,
    ) -> None:
        if tune and model.head is None:
            raise UserError(
                "task.tune: the teacher has no language-model head, so there is nothing to tune; set it to 0"
            )
        check_tuning(tune, tune_method)
        whole_number("task.rank", rank, 1)
        super().__init__(model, optimizer, schedule, **options)
        self.adapters = Adapters(model, rank, alpha) if tune_method == "lora" else None
        self._given = (match, tune)
        self.stages: Stages | None = None
        self._logits = logits if model.head is not None else 0.0
        taught = load(teacher).eval().requires_grad_(False)
        check_teacher(taught, teacher)
        self._teacher = (taught,)  # no submodule: checkpoints do not have it
        self._fingerprint = fingerprint(taught)
        self._sums: list[Tensor] = []

    @property
    def teacher(self) -> Performer:
        """The frozen teacher."""
        return self._teacher[0]

    @property
    def trained(self) -> nn.Module:
        return self.model if getattr(self, "adapters", None) is None else self

    def setup(self, stage: str) -> None:
        super().setup(stage)
        if isinstance(self.trainer.strategy, FullySharded):
            raise UserError("trainer=fsdp: a student is not sharded; use trainer=ddp")
        if stage == "fit":
            self.stages = Stages.of(self.trainer.max_steps, *self._given)  # type: ignore[arg-type]
        self.teacher.to(self.trainer.strategy.root_device)
        data = self._data()
        if data.objective.causal != self.model.config.causal:
            raise UserError(f"data.causal: expected {str(self.model.config.causal).lower()}, as the teacher is")
        if data.batches.start != self.model.config.start_id:
            raise UserError("data: begins proteins with another token than the teacher does; use data=distillation")

    def on_fit_start(self) -> None:
        super().on_fit_start()
        if self.trainer.is_global_zero and self.stages is not None:
            plan = ", ".join(f"{name} {count:,}" for name, count in self.stages._asdict().items() if count)
            print(f"steps: {plan}", file=sys.stderr, flush=True)

    def loss_of(self, batch: Batch) -> Tensor:
        """The loss of the stage of this step."""
        step = self.trainer.global_step
        assert self.stages is not None
        stage = self.stages.place(step)[0]
        if stage == "tune":
            if self.adapters is not None:
                self.model.requires_grad_(False)
                self.adapters.activate()
            logits = self.model(batch.inputs, batch.key_mask, batch.segments)
            return self.model.loss(logits, batch.targets)
        tokens = batch.inputs if step % 2 else self._proteins(batch)
        if stage == "match":
            loss = attention_errors(self.teacher, self.model, tokens, batch.key_mask).mean()
            return loss if loss.requires_grad else loss + self._nothing()
        taught, learned = self._represented(tokens, batch.key_mask)
        loss = hidden_errors(taught, learned, batch.key_mask).mean()
        if not self._logits:
            return loss
        last = len(self.model.blocks)
        with torch.no_grad():
            target = self.teacher.logits(taught[last])
        return loss + self._logits * divergence(target, self.model.logits(learned[last]), batch.key_mask)

    def _nothing(self) -> Tensor:
        """0 with a gradient, for proteins so short that no key is far."""
        features = (weight for name, weight in self.model.named_parameters() if FEATURES in name)
        return sum(weight.sum() for weight in features) * torch.zeros((), device=self.device)  # type: ignore[return-value]

    def _proteins(self, batch: Batch) -> Tensor:
        """The tokens (B, L) of a batch without masks."""
        if self.model.config.causal:  # whose targets are the next tokens
            return batch.inputs
        return torch.where(batch.targets >= 0, batch.targets, batch.inputs)

    def _represented(self, tokens: Tensor, key_mask: Tensor) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """Representations of all layers by the teacher and by the student."""
        layers = range(len(self.model.blocks) + 1)
        with torch.no_grad():
            taught = self.teacher.representations(tokens, layers, key_mask)
        return taught, self.model.representations(tokens, layers, key_mask)

    def on_validation_epoch_start(self) -> None:
        self._sums = []

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        both = self._represented(self._proteins(batch), batch.key_mask)
        self._sums.append(hidden_errors(*both, batch.key_mask).sqrt())

    def on_validation_epoch_end(self) -> None:
        values = self._summary()
        for name, value in values.items():
            self.log(f"valid/{name}", value, prog_bar=name == "error", rank_zero_only=False)

    def on_test_epoch_start(self) -> None:
        self._sums = []

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        self.results["test"] = self._summary()
        self.log_dict({f"test/{name}": value for name, value in self.results["test"].items()})

    def _summary(self) -> dict[str, float]:
        """Mean error of proteins at the last layer and at each layer: roots of relative errors, over all ranks."""
        errors = torch.cat(self._sums, 1) if self._sums else torch.zeros(len(self.model.blocks), 0, device=self.device)
        both = torch.cat((errors.sum(1), errors.new_tensor([errors.shape[1]])))
        total: Any = self.trainer.strategy.reduce(both, reduce_op="sum")
        each = (total[:-1] / total[-1].clamp(min=1)).tolist()
        return {"error": each[-1], **{f"error_{layer}": value for layer, value in enumerate(each, start=1)}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["teacher"] = self._fingerprint
        if self.adapters is not None:
            self.adapters.store(checkpoint, ADAPTERS)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if checkpoint.get("teacher") != self._fingerprint:
            raise UserError("the checkpoint was made with another teacher; resume with the same one")
        super().on_load_checkpoint(checkpoint)
        if self.adapters is not None:
            self.adapters.restore(checkpoint)
