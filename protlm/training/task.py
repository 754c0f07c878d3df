"""The LightningModule of pre-training: masked language modelling or next-token prediction, with its baseline."""

import sys
from functools import wraps
from typing import Any

from torch import Tensor, nn

from protlm.batching.batches import Batch
from protlm.errors import UserError
from protlm.residue_metrics import ResidueMetrics
from protlm.sequence.alphabets import alphabet_of, name_of
from protlm.training.base_task import TrainingTask


class LanguageModelTask(TrainingTask):
    """Trains a `Performer` on batches of one of protlm's data modules; its `config.causal` has to agree with the data.

    Arguments as for `TrainingTask`.
    """

    @wraps(TrainingTask.__init__)  # so that its options are known by name
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.valid = self._metrics()
        self.tests = nn.ModuleList()

    def _metrics(self) -> ResidueMetrics:
        return ResidueMetrics(alphabet_of(self.model.config.alphabet).size)

    def setup(self, stage: str) -> None:
        """Plans the epochs; refuses data of another alphabet, or with longer sequences than attention accepts."""
        super().setup(stage)
        own = alphabet_of(self.model.config.alphabet)
        given = getattr(self._data(), "alphabet", own)  # data of a user need not have one
        if given != own:
            raise UserError(f"data: alphabet {name_of(given)}; expected that of the model, {name_of(own)}")
        longest = self.model.config.longest
        if longest is not None and self._data().max_length > longest:
            raise UserError(
                f"data.max_length {self._data().max_length}: attention {self.model.config.attention_label} takes at "
                f"most model.max_length tokens, {longest}; set both to the same"
            )
        if stage == "fit":
            self._warn_beyond_positions()

    def _warn_beyond_positions(self) -> None:
        learned, longest = self.model.config.max_length, self._data().max_length
        if self.model.config.learned_positions and longest > learned and self.trainer.is_global_zero:
            print(
                f"warning: data.max_length {longest:,} is more than the {learned:,} positions that the model learns "
                "(model.max_length); positions beyond are extrapolated",
                file=sys.stderr,
                flush=True,
            )

    def loss_of(self, batch: Batch) -> Tensor:
        """Mean cross-entropy in nats over the targets."""
        return self.model.loss(self.model(batch.inputs, batch.key_mask, batch.segments), batch.targets)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self.valid.update(self.model(batch.inputs, batch.key_mask, batch.segments), batch.targets, batch.scored)

    def on_validation_epoch_end(self) -> None:
        for name, value in self._summary(self.valid).items():
            self.log(f"valid/{name}", value, prog_bar=name in ("accuracy", "perplexity"), rank_zero_only=False)
        self.valid.reset()

    def on_test_start(self) -> None:
        self.tests = nn.ModuleList(self._metrics() for _ in self._data().evaluated_splits()).to(self.device)

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        metrics: Any = self.tests[dataloader_idx]
        metrics.update(self.model(batch.inputs, batch.key_mask, batch.segments), batch.targets, batch.scored)

    def on_test_epoch_end(self) -> None:
        for split, metrics in zip(self._data().evaluated_splits(), self.tests, strict=True):
            self.results[split] = self._summary(metrics)
            self.log_dict({f"{split}/{name}": value for name, value in self.results[split].items()})

    def _summary(self, metrics: Any) -> dict[str, float]:
        return metrics.with_baseline(self._data().unigram)
