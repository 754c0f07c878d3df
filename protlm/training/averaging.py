"""Averaged weights before their first update."""

import itertools
from collections.abc import Iterable

import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.callbacks.weight_averaging import WeightAveraging


@torch.no_grad()
def start_averages(callbacks: Iterable[Callback], module: LightningModule) -> None:
    """Sets averages that have had no update, as before `update_starting_at_step`, to the current weights.

    Lightning keeps the initial weights in them, and would validate and save those.
    """
    for callback in callbacks:
        average = callback._average_model if isinstance(callback, WeightAveraging) else None
        if average is not None and callback._latest_update_step == 0 and not average.n_averaged:  # type: ignore[attr-defined]
            kept = itertools.chain(average.module.parameters(), average.module.buffers())
            now = itertools.chain(module.parameters(), module.buffers())
            for one, other in zip(kept, now, strict=True):
                one.copy_(other)
