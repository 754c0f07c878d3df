"""The LightningModule of fine-tuning: heads on a model that is frozen, has adapters, or is trained as a whole.

Legend: r rows of a target, k outputs.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from protlm import checkpoint as checkpoints
from protlm.errors import UserError
from protlm.performer import Performer
from protlm.supervised.calibration import fitted_temperature
from protlm.supervised.features import LAYER
from protlm.supervised.fit_api import METHODS as ALL_METHODS
from protlm.supervised.fit_api import base_path
from protlm.supervised.linear_head import answers
from protlm.supervised.target import training_values
from protlm.supervised.threshold import called_from
from protlm.supervised.tuning.adapters import add_adapters, taken_adapters
from protlm.supervised.tuning.batches import LabelledBatch
from protlm.supervised.tuning.collected import Collected
from protlm.supervised.tuning.data import EVALUATED, LabelledDataModule
from protlm.supervised.tuning.head import POOLINGS, TunedHead
from protlm.supervised.tuning.interpolation import FRACTIONS, Interpolation
from protlm.supervised.tuning.losses import class_weights, loss_of
from protlm.supervised.tuning.outcome import Outcome, score_of, standard_error, widened
from protlm.supervised.tuning.trained import Trained
from protlm.training.base_task import TrainingTask
from protlm.training.factories import checked, takes_parameters
from protlm.training.strategies import FullySharded

METHODS = ALL_METHODS[1:]
"""What is trained: heads on a frozen model, adapters of its projections too, or all of its weights."""


class FineTuningTask(TrainingTask):
    """Trains heads, and a model as `method` says, from the probes of the model.

    Args:
        model: trained by pre-training.
        optimizer: see `TrainingTask`; a callable gets a module with `model` and `heads`.
        schedule, options: see `TrainingTask`.
        base: path of the model, for the folder of the fitted one.
        method: one of `METHODS`.
        rank, alpha, adapter_dropout: of adapters, for the method lora.
        pooling, hidden, dropout: of the network of a head; see `Branch`.
        balanced: rare classes count as much as frequent ones in the loss.
        interpolate: keep the part of the change by training that is best on validation, see `Interpolation`.
    """

    monitored = "valid/score"

    def __init__(
        self,
        model: Performer,
        optimizer: Any,
        schedule: Any = None,
        base: str | None = None,
        method: str = "lora",
        rank: int = 8,
        alpha: float = 16.0,
        adapter_dropout: float = 0.05,
        pooling: str = "attention",
        hidden: int = 64,
        dropout: float = 0.1,
        balanced: bool = False,
        interpolate: bool = True,
        **options: Any,
    ) -> None:
        if method not in METHODS:
            raise UserError(f"task.method {method!r}: expected one of {', '.join(METHODS)}")
        if pooling not in POOLINGS:
            raise UserError(f"task.pooling {pooling!r}: expected one of {', '.join(POOLINGS)}")
        for name, value in {"rank": rank, "hidden": hidden}.items():
            if not isinstance(value, int) or value < 1:
                raise UserError(f"task.{name} {value!r}: expected a positive integer")
        super().__init__(model, optimizer, schedule, **options)
        self.method, self.balanced, self.interpolate, self.kept_fraction = method, balanced, interpolate, 1.0
        self.base = {"path": base and base_path(base), "fingerprint": checkpoints.fingerprint(model)}
        self._adapters = (rank, alpha, adapter_dropout)
        self._branch = {"pooling": pooling, "hidden": hidden, "dropout": dropout}
        self.heads = nn.ModuleList()
        self.strict_loading = False  # checkpoints have no frozen weights
        self.weights: list[Tensor | None] = []
        self.start = -np.inf
        """Score of the probes on the validation part."""
        self.outcome: Outcome | None = None
        """What a test found."""
        self._parts: list[Collected] = []

    @property
    def trained(self) -> nn.Module:
        """Model and heads."""
        return Trained(self.model, self.heads)

    def _new_optimizer(self) -> Optimizer:
        if not getattr(self, "heads", None):  # before there is anything to train, only its options matter
            weight = nn.Linear(1, 1)
            stand_in = weight.parameters() if takes_parameters(self._optimizer) else Trained(None, weight)
            return checked("optimizer", lambda: self._optimizer(stand_in), Optimizer)
        return super()._new_optimizer()

    def setup(self, stage: str) -> None:
        """Fits the probes from which training starts."""
        super().setup(stage)
        if isinstance(self.trainer.strategy, FullySharded):
            raise UserError("trainer=fsdp: fine-tuning does not shard its model; use trainer=ddp")
        if stage != "fit" or self.heads:
            return
        data = self._labelled()
        data.model = self.model.to(self.trainer.strategy.root_device)  # Lightning does so later
        self.print("fitting the probe from which training starts")
        stored = data.store(self.model) if self.method == "head" else None
        self.probe = data.probe(self.model)
        targets = data.labelled.targets
        train, valid = data.split.partition.final.train, data.split.partition.final.valid
        for target, learned in zip(targets, self.probe.learned, strict=True):
            rows = target.of(train)
            last = self.model.config.layers
            head = TunedHead.of(
                learned, training_values(target.take(rows)), self.model.config.width, last, **self._branch
            )
            self.heads.append(head)
            y = torch.from_numpy(head.known(target).y[rows])
            self.weights.append(class_weights(target.kind, y, len(head.classes)) if self.balanced else None)
        self.start = self._score([target.of(valid) for target in targets], self.probe.valid)
        data.blocks = sorted({name for head in self._each() for name in head.blocks if not name.startswith(LAYER)})
        self.layers = stored or sorted({layer for head in self._each() for layer in head.layers})
        self._prepare_model()
        self._between = Interpolation(self.trained)

    def _prepare_model(self) -> None:
        """Freezes what is not trained."""
        if self.method == "full":
            if self.model.head is not None:  # which predicts residues
                self.model.head.requires_grad_(False)
            return
        self.model.requires_grad_(False)
        if self.method == "lora":
            add_adapters(self.model, *self._adapters)

    def on_train_start(self) -> None:
        """Says from what training starts."""
        trained = sum(weight.numel() for weight in self.trained.parameters() if weight.requires_grad)
        self.print(f"{self.method}: {trained:,} weights are trained; score of the probe on validation {self.start:.3f}")

    def outputs(self, batch: LabelledBatch) -> list[Tensor]:
        """Logits of each target: (B, k), or (B, L, k) per residue."""
        if batch.stored is not None:
            layers = {layer: batch.stored[:, number] for number, layer in enumerate(self.layers)}
        else:
            layers = self.model.representations(batch.inputs, set(self.layers), batch.key_mask)
        return [head(layers, batch.residues, batch.blocks) for head in self._each()]

    def loss_of(self, batch: LabelledBatch) -> Tensor:
        """The mean over targets of the loss of each."""
        losses = []
        for head, logits, labels, weight in zip(
            self._each(), self.outputs(batch), self._labels(batch), self.weights, strict=True
        ):
            flat = logits.flatten(0, -2).float()
            own = labels.flatten(0, 1) if head.per_residue else labels
            weight = None if weight is None else weight.to(flat)
            losses.append(loss_of(head.kind, flat, own, weight, float(head.spread[0])))
        return torch.stack(losses).mean()

    def on_validation_epoch_start(self) -> None:
        self._parts = [self._collected()]

    def validation_step(self, batch: LabelledBatch, batch_idx: int) -> None:
        self._collect(batch)

    def on_validation_epoch_end(self) -> None:
        self.log("valid/score", self._validated(), prog_bar=True, rank_zero_only=False)

    def _validated(self) -> float:
        """Calibrates on the validation part, and returns its score."""
        valid = self._labelled().split.partition.final.valid
        rows = [target.of(valid) for target in self._labelled().labelled.targets]
        self._calibrate(rows, logits := self._parts[0].gathered(rows))
        each = [answers(head.kind, values, head.temperature) for head, values in zip(self._each(), logits, strict=True)]
        return self._score(rows, each)

    def on_test_start(self) -> None:
        """Chooses on validation how much of the change by training to keep."""
        scores = {}
        for fraction in FRACTIONS if self.interpolate else ():
            self._between.keep(fraction)
            self.on_validation_epoch_start()
            for batch in self._labelled().val_dataloader()[0]:
                with self.trainer.precision_plugin.forward_context():
                    self._collect(self.transfer_batch_to_device(batch, self.device, 0))
            scores[fraction] = self._validated()
        if scores:
            self.kept_fraction = max(scores, key=lambda fraction: (scores[fraction], fraction))
            self._between.keep(self.kept_fraction)
        self._parts = [self._collected() for _ in EVALUATED]

    def test_step(self, batch: LabelledBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self._collect(batch, dataloader_idx)

    def on_test_epoch_end(self) -> None:
        """Calibrates, compares with the probe on validation, and evaluates the better of the two."""
        data = self._labelled()
        targets, part = data.labelled.targets, data.split.partition.rounds[0]
        rows = [[target.of(one) for target in targets] for one in (part.valid, part.test)]
        valid, test = (part.gathered(own) for part, own in zip(self._parts, rows, strict=True))
        self._calibrate(rows[0], valid)
        found = [
            [answers(head.kind, values, head.temperature) for head, values in zip(self._each(), one, strict=True)]
            for one in (valid, test)
        ]
        score = self._score(rows[0], found[0])
        after = [widened(head, target, own) for head, target, own in zip(self._each(), targets, found[0], strict=True)]
        held = [target.take(own) for target, own in zip(targets, rows[0], strict=True)]
        gains = (self.start, score, standard_error(held, self.probe.valid, after, data.seed))
        self.outcome = Outcome.of(self.method, self.probe, list(self._each()), found[1], *gains, data.seed)
        for name, value in (("valid", {"score": max(score, self.start)}), ("test", self.outcome.metrics)):
            self.results[name] = value
            self.log_dict({f"{name}/{metric}": one for metric, one in value.items()})

    def write(self, folder: str | Path, about: Mapping[str, Any], copy_base: bool = False) -> None:
        """Writes the folder of a predictor, after a test.

        Args:
            folder: must not exist.
            about: the training, for the report.
            copy_base: store the base model in the folder, too.
        """
        assert self.outcome is not None
        adapters = None
        if self.method == "lora":
            adapters = taken_adapters(self.model, self.base["path"])
        predictor = self.outcome.predictor(self.model, self.base, adapters, {**about, "fraction": self.kept_fraction})
        predictor.save(folder, copy_base or (self.method == "full" and self.outcome.kept))
        self.written = str(folder)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["heads"] = [head.described for head in self._each()]
        checkpoint["base"] = self.base["fingerprint"]
        frozen = {f"model.{name}" for name, weight in self.model.named_parameters() if not weight.requires_grad}
        if self.method != "full":
            frozen |= {f"model.{name}" for name, _ in self.model.named_buffers()}
            checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k not in frozen}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if checkpoint.get("base") != self.base["fingerprint"]:
            raise UserError("the checkpoint was made with another base model; resume with the same model")
        if checkpoint["heads"] != [head.described for head in self._each()]:
            raise UserError("the checkpoint's heads differ from those of these labels; resume with the same options")
        super().on_load_checkpoint(checkpoint)

    def _each(self) -> Any:
        return self.heads

    def _labelled(self) -> LabelledDataModule:
        return self._data()

    def _labels(self, batch: LabelledBatch) -> list[Tensor]:
        """Labels of each target in the classes of its head."""
        found = []
        for head, target, labels in zip(self._each(), self._labelled().labelled.targets, batch.labels, strict=True):
            if head.kind == "classification":
                of = torch.from_numpy(head.numbers(target)).to(labels.device)
                labels = torch.where(labels < 0, labels, of[labels.clamp(min=0)])
            found.append(labels)
        return found

    def _collected(self) -> Collected:
        return Collected(self._each(), self._labelled().labelled.targets)

    def _collect(self, batch: LabelledBatch, part: int = 0) -> None:
        assert batch.key is not None
        if batch.key[0, 0] >= 0:
            self._parts[part].add(batch, self.outputs(batch))

    def _calibrate(self, rows: list[np.ndarray], logits: list[np.ndarray]) -> None:
        """Fits the temperature and the threshold of each head to the validation part."""
        targets = self._labelled().labelled.targets
        for head, target, values, own in zip(self._each(), targets, logits, rows, strict=True):
            y = head.known(target).y[own]
            known = y >= 0 if head.kind == "classification" else np.ones(len(y), dtype=bool)
            if not head.classes or not known.any():
                continue
            head.temperature = fitted_temperature(values[known], y[known], head.kind)
            if head.kind == "classification":
                p = answers(head.kind, values[known], head.temperature)
                head.threshold = called_from(p, y[known], head.classes)

    def _score(self, rows: list[np.ndarray], predictions: list[np.ndarray]) -> float:
        """The mean of the targets' scores on the validation part."""
        found = []
        targets = self._labelled().labelled.targets
        for head, target, own, values in zip(self._each(), targets, rows, predictions, strict=True):
            found.append(score_of(target.take(own), widened(head, target, values)))
        return float(np.mean([one for one in found if np.isfinite(one)] or [0.0]))
