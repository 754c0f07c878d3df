"""Fully sharded training: each process holds a shard of the weights, gradients and optimizer state."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.strategies import ModelParallelStrategy
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.optim import Optimizer

from protlm.performer import Performer
from protlm.training.resumed_optimizer import check_resumed


class FullySharded(ModelParallelStrategy):
    """FSDP2 (`torch.distributed.fsdp.fully_shard`) over all processes of all nodes, block by block.

    Runs on GPUs and, unlike Lightning's FSDPStrategy, on CPUs. A checkpoint is a single file in the same format as with
    any other strategy, so a run may resume with a different one. `process_group_backend` None goes by the device.
    """

    def __init__(self, process_group_backend: str | None = None) -> None:
        super().__init__(
            tensor_parallel_size=1, save_distributed_checkpoint=False, process_group_backend=process_group_backend
        )

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def shard(self, model: Performer) -> None:
        """Replaces the parameters by shards, unless that has been done."""
        mesh = self.device_mesh["data_parallel"]
        for module in (*model.blocks, model):
            if not isinstance(module, FSDPModule):
                fully_shard(module, mesh=mesh)

    @contextmanager
    def block_backward_sync(self) -> Generator[None, None, None]:
        """Adds gradients up on each rank, without communication, before the last batch of an accumulated gradient.

        Until then, each rank keeps the gradients of all weights.
        """
        assert self.model is not None
        sharded = [module for module in self.model.modules() if isinstance(module, FSDPModule)]
        for module in sharded:
            module.set_requires_gradient_sync(False, recurse=False)
        try:
            yield
        finally:
            for module in sharded:
                module.set_requires_gradient_sync(True, recurse=False)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """The full state on rank 0, with parameters numbered as by `torch.optim`; empty on other ranks."""
        optimizer = getattr(optimizer, "_optimizer", optimizer)  # Lightning wraps it
        assert self.model is not None
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        named: Any = get_optimizer_state_dict(self.model, optimizer, options=options)
        if self.global_rank != 0:
            return {}
        number = {name: i for i, name in enumerate(self._names(optimizer))}
        groups = [{**group, "params": [number[name] for name in group["params"]]} for group in named["param_groups"]]
        return {"state": {number[name]: state for name, state in named["state"].items()}, "param_groups": groups}

    def load_checkpoint(self, checkpoint_path: str | Path, weights_only: bool | None = None) -> dict[str, Any]:
        """Distributes the weights and optimizer states of a checkpoint; returns its content."""
        assert self.model is not None
        content = torch.load(checkpoint_path, mmap=True, map_location="cpu", weights_only=True)
        options = StateDictOptions(full_state_dict=True)
        set_model_state_dict(self.model, content["state_dict"], options=options)
        if self.optimizers and self.lightning_module and self.lightning_module.trainer.state.fn == "fit":
            check_resumed(content, self.optimizers[0], [one.scheduler for one in self.lr_scheduler_configs])
        for optimizer, stored in zip(self.optimizers, content["optimizer_states"], strict=False):
            names = self._names(optimizer)
            groups = [{**group, "params": [names[i] for i in group["params"]]} for group in stored["param_groups"]]
            state: Any = {"state": {names[i]: state for i, state in stored["state"].items()}, "param_groups": groups}
            set_optimizer_state_dict(self.model, optimizer, state, options=options)
        return content

    def _names(self, optimizer: Optimizer) -> list[str]:
        """Names of the optimizer's parameters in the order in which `torch.optim` numbers them."""
        assert self.model is not None
        names = {weight: name for name, weight in self.model.named_parameters()}
        return [names[weight] for group in optimizer.param_groups for weight in group["params"]]
