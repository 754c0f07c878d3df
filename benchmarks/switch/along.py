"""Evaluation along fine-tuning: the same masked residues before the first step and after given later ones."""

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from benchmarks.tables import replace_json
from protlm.performer import Performer
from protlm.residue_metrics import ResidueMetrics
from protlm.training.datamodule import TremblDataModule
from protlm.training.task import LanguageModelTask

ALONG = "along.json"


class Along(Callback):
    """Measures accuracy and perplexity at given optimizer steps and writes them at once.

    Args:
        path: the JSON file: step -> split -> metrics.
        steps: optimizer steps; 0 is before the first.
        splits: some of valid, test, ood; empty ones are left out.
        limit: number of batches of each split.
    """

    def __init__(self, path: str, steps: Sequence[int], splits: Sequence[str], limit: int) -> None:
        self.path, self.steps, self.splits, self.limit = Path(path), set(steps), tuple(splits), limit

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step == 0:
            self.path.unlink(missing_ok=True)  # from an earlier run in this folder
            self._measure(trainer, pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self._measure(trainer, pl_module)

    def _measure(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, LanguageModelTask)
        if trainer.global_step not in self.steps:
            return
        known = json.loads(self.path.read_text()) if self.path.exists() else {}
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        splits = [split for split in self.splits if data.corpora.count(split)[0]]
        known[str(trainer.global_step)] = {split: measure(pl_module.model, data, split, self.limit) for split in splits}
        replace_json(known, self.path)


def measure(model: Performer, data: TremblDataModule, split: str, limit: int) -> dict[str, float]:
    """Metrics of a model on the first batches of a split, with the same residues masked at each call, as in a test."""
    objective = data.objective.for_evaluation()
    samples = data.batches(data.corpora, split, objective, data.max_length, data.token_budget, data.seed)
    device = next(model.parameters()).device
    metrics, training = ResidueMetrics(data.alphabet.size).to(device), model.training
    model.eval()
    with torch.no_grad():
        for key in islice(samples.plan(0), limit):
            inputs, targets, scored, key_mask = (tensor.to(device) for tensor in samples[key][:4])
            metrics.update(model(inputs, key_mask), targets, scored)
    model.train(training)
    return metrics.with_baseline(data.unigram)
