"""How fast a run trains: tokens and floating-point operations a second, and residues seen in all."""

import time
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from protlm.batching.batches import Batch
from protlm.performer.cost import flops_per_token
from protlm.sequence.alphabet import EOS
from protlm.training.task import LanguageModelTask

_THOUSAND = 1000  # operations are counted in thousands, so that whole numbers hold those of any run


class Throughput(Callback):
    """Logs, every `trainer.log_every_n_steps`, sums over all ranks; padding does not count.

    - throughput/tokens_per_second, and throughput/flops_per_second of the model's arithmetic (`flops_per_token`, three
      times), since the row before, without validations;
    - train/residues, seen since the run began, which goes on after a stop.
    """

    def __init__(self) -> None:
        self._residues = 0  # until this process began
        self._counts: Tensor | None = None  # tokens, residues and operations of this process
        self._before = (0, 0.0)  # tokens and operations at the last row
        self._start = self._paused = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"residues": self._residues + (0 if self._counts is None else int(self._counts[1]))}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._residues = state_dict["residues"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._counts, self._before, self._start = None, (0, 0.0), time.perf_counter()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._paused = time.perf_counter()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._start += time.perf_counter() - self._paused

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, LanguageModelTask)
        tokens, residues = batch.key_mask.sum(), (batch.inputs > EOS).sum()
        work = tokens * (3 * flops_per_token(pl_module.model.config, batch.inputs.shape[1])) // _THOUSAND
        counts: Any = trainer.strategy.reduce(torch.stack((tokens, residues, work)), reduce_op="sum")
        self._counts = total = counts if self._counts is None else self._counts + counts
        if trainer.global_step % trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return
        done = total.tolist()  # waits for the device
        seconds = max(time.perf_counter() - self._start, 1e-9)
        tokens_before, work_before = self._before
        values = {
            "throughput/tokens_per_second": (done[0] - tokens_before) / seconds,
            "throughput/flops_per_second": (done[2] - work_before) * _THOUSAND / seconds,
            "train/residues": float(self._residues + done[1]),
        }
        pl_module.log_dict(values)
        self._before, self._start = (done[0], done[2]), time.perf_counter()
