"""A process that is rank 0 of two."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from lightning_fabric.utilities.distributed import _InfiniteBarrier
from pytorch_lightning.strategies import DDPStrategy
from torch.testing._internal.distributed.fake_pg import FakeStore


@pytest.fixture
def first_of_two(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Makes this process rank 0 of two, whose exchanges leave values as they are; lists the reductions of gradients."""
    reductions: list[str] = []
    configure, scatter = DDPStrategy.configure_ddp, dist.reduce_scatter_single

    def kept(state: object, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        reductions.append("reduced")
        done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
        done.set_result(bucket.buffer())
        return done

    def configured(self: DDPStrategy) -> None:
        configure(self)
        self.model.register_comm_hook(None, kept)  # a fake group has no futures

    def scattered(*arguments: Any, **options: Any) -> Any:
        reductions.append("reduced")
        return scatter(*arguments, **options)

    place = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "GROUP_RANK": 0}  # as torchrun does
    place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 29500, "TORCHELASTIC_RUN_ID": "none"}
    for name, value in place.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(_InfiniteBarrier, "__enter__", lambda self: self)  # around the preparation of data, by gloo
    monkeypatch.setattr(_InfiniteBarrier, "__exit__", lambda *_: None)
    monkeypatch.setattr(DDPStrategy, "configure_ddp", configured)
    monkeypatch.setattr(dist, "reduce_scatter_single", scattered)
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=2)
    yield reductions
    if dist.is_initialized():
        dist.destroy_process_group()
