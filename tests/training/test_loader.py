"""How batches reach the device: made ahead by a worker, in pinned memory, on a GPU."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data._utils.pin_memory import pin_memory

from protlm.batching.batches import Batch
from protlm.errors import UserError
from protlm.inference.packing import pack
from protlm.performer.segments import Packed
from protlm.supervised.tuning.data import LabelledDataModule
from protlm.training.datamodule import TremblDataModule


@pytest.mark.parametrize(
    ("device", "workers", "expected"),
    [("cuda", "auto", (True, 1)), ("cuda", 0, (True, 0)), ("cpu", "auto", (False, 0)), ("cpu", 2, (False, 2))],
)
def test_a_gpu_gets_pinned_batches_from_a_worker(device, workers, expected, corpus_path: Path) -> None:
    data = TremblDataModule(str(corpus_path), workers=workers)
    trainer: Any = SimpleNamespace(
        strategy=SimpleNamespace(root_device=torch.device(device)),
        global_rank=0,
        world_size=1,
        fit_loop=SimpleNamespace(
            epoch_loop=SimpleNamespace(batch_progress=SimpleNamespace(total=SimpleNamespace(processed=0)))
        ),
    )
    data.trainer = trainer
    for loader in (data.train_dataloader(), *data.val_dataloader(), *data.test_dataloader()):
        assert (loader.pin_memory, loader.num_workers) == expected
        assert loader.persistent_workers == (loader.num_workers > 0)


def test_without_a_trainer_batches_are_made_in_this_process(corpus_path: Path) -> None:
    loader = TremblDataModule(str(corpus_path), workers="auto").train_dataloader()
    assert (loader.pin_memory, loader.num_workers) == (False, 0)


@pytest.mark.parametrize("packed", [False, True])
def test_pinning_keeps_what_a_batch_is(packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tensor is pinned, also the boundaries of packed sequences; the key stays an array."""
    pinned: list[Tensor] = []

    def copied(tensor: Tensor, *_: Any) -> Tensor:
        pinned.append(tensor.clone())
        return pinned[-1]

    monkeypatch.setattr(Tensor, "pin_memory", copied)
    tokens = torch.tensor([[5, 6, 7], [8, 1, 1]])
    batch = Batch(tokens, tokens, tokens > 4, tokens > 1, None, np.array([[0, 1], [0, 2]]))
    batch = pack(batch) if packed else batch
    found = pin_memory(batch)
    assert type(found) is Batch
    assert found.key is batch.key
    flat = [*found[:4], found.segments.cu_seqlens] if packed else [*found[:4]]
    assert [id(tensor) for tensor in flat] == [id(tensor) for tensor in pinned]
    assert all(torch.equal(one, other) for one, other in zip(found[:4], batch[:4], strict=True))
    if packed:
        assert type(found.segments) is Packed
        assert (found.segments.cu_seqlens.tolist(), found.segments.max_length) == ([0, 3, 4], 3)


@pytest.mark.parametrize("workers", [-1, 1.5, "many", None])
@pytest.mark.parametrize("module", [TremblDataModule, LabelledDataModule])
def test_invalid_numbers_of_workers_are_refused(module: Any, workers: Any, corpus_path: Path) -> None:
    with pytest.raises(UserError, match=f"data.workers {workers!r}: expected a non-negative integer, or auto"):
        module(str(corpus_path), workers=workers)
