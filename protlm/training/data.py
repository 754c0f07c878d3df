"""What every data module of protlm shares: endless, resumable training batches, dealt to the ranks."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from protlm.batching.samplers import EndlessBatches, Position, as_it_is, leave_signals_to_the_main_process
from protlm.errors import UserError
from protlm.training.packing import AUTO

_ESTIMATE_POOLS = 64
"""Pools of batches planned to estimate the number of batches in an epoch."""


class TrainingData(pl.LightningDataModule):
    """Training batches that never end, and the batches of other splits.

    `trainer.max_steps`, or `trainer.max_epochs` with `protlm.training.epochs`, sets the end of training. A checkpoint
    stores the position in the data, so a resumed run gets exactly the remaining batches.

    Subclasses define `_training_batches`, `_order`, `evaluated_splits` and what is evaluated.

    Args:
        workers: number of processes that make batches; 0 makes them in the main process. "auto" has one on a CUDA
            device, so that batches are ready before the device needs them, and none elsewhere.

    Raises:
        UserError: for another value of `workers`.
    """

    allow_zero_length_dataloader_with_multiple_devices = True  # of a small split
    collate: Any = None
    """Applied to each batch, if not None."""
    earlier: Mapping[str, Any] = MappingProxyType({})
    """What `_order` had for options that older checkpoints lack."""

    def __init__(self, workers: int | str = 0) -> None:
        super().__init__()
        if workers != AUTO and (not isinstance(workers, int) or workers < 0):
            raise UserError(f"data.workers {workers!r}: expected a non-negative integer, or {AUTO}")
        self.workers = workers
        self._sampler: EndlessBatches | None = None
        self._epoch_batches: int | None = None
        self._start: Position | None = None

    @property
    def fingerprints(self) -> list[str]:
        """Of the files with the data."""
        raise NotImplementedError

    @property
    def training_proteins(self) -> int:
        """Number of proteins for training."""
        raise NotImplementedError

    @property
    def validates(self) -> bool:
        """Whether there are proteins for validation."""
        raise NotImplementedError

    def evaluated_splits(self) -> tuple[str, ...]:
        """The splits that `test_dataloader` returns."""
        raise NotImplementedError

    def check_unchanged(self) -> None:
        """Raises a UserError if a file changed while it was read."""

    def _training_batches(self) -> Any:
        """The `Batches` of an endless sequence of epochs."""
        raise NotImplementedError

    def _endless_batches(self) -> Any:
        """The same for training itself, where that differs from an epoch after another."""
        return self._training_batches()

    def _order(self) -> dict[str, Any]:
        """Everything that determines the order of the training batches."""
        raise NotImplementedError

    def epoch_batches(self) -> int:
        """Number of batches in the first pass over the sampled corpus, of all ranks together."""
        count: int = self._epoch_batches or self._training_batches().count()[0]
        self._epoch_batches = count
        return count

    def estimated_epoch_batches(self) -> tuple[int, bool]:
        """The same, estimated for a large corpus, and whether it is exact."""
        return (self._epoch_batches, True) if self._epoch_batches else self._training_batches().count(_ESTIMATE_POOLS)

    def train_dataloader(self) -> DataLoader[Any]:
        samples = self._endless_batches()
        before = self._trained_batches()
        self._sampler = EndlessBatches(samples, *self._rank(), self._start, lambda: self._trained_batches() - before)
        return self._loader(samples, self._sampler)

    def names(self, batch: Any) -> list[str]:
        """Ids of the proteins in a training batch."""
        assert self._sampler is not None
        assert batch.key is not None
        return self._sampler.samples.names(batch.key)

    def state_dict(self) -> dict[str, Any]:
        """The position in the data after the last training batch, the same on all ranks."""
        place = self._start
        if self._sampler is not None and self.trainer is not None:
            place = self._sampler.position()
        return {"place": place, "order": self._order()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues from a stored position, on any number of ranks, unless what determines it has changed."""
        stored, now = self.earlier | state_dict.get("order", {}), self._order()
        if odd := [name for name in now | stored if now.get(name) != stored.get(name)]:
            changes = ", ".join(f"data.{name} {stored.get(name)} is now {now.get(name)}" for name in odd)
            what = "the checkpoint's position in the data does not apply"
            raise UserError(f"{what}: {changes}; resume with the same options")
        if place := state_dict["place"]:
            epoch, cursor, batch = place
            self._start = (epoch, tuple(cursor), batch)

    def _rank(self) -> tuple[int, int]:
        """Rank of this process and number of processes."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _trained_batches(self) -> int:
        if self.trainer is None:
            return 0
        progress: Any = self.trainer.fit_loop.epoch_loop.batch_progress.total
        return progress.processed

    def _loader(self, samples: Any, keys: Any) -> DataLoader[Any]:
        on_gpu = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        workers = int(on_gpu) if isinstance(self.workers, str) else self.workers
        return DataLoader(
            samples,
            batch_size=None,  # a key yields a whole batch
            sampler=keys,
            collate_fn=self.collate or as_it_is,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=on_gpu,  # copied to the device while it computes
            worker_init_fn=leave_signals_to_the_main_process,
        )
