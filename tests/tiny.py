"""A tiny model, with which a training step takes milliseconds."""

import pytest
from hydra._internal.hydra import Hydra

QUICK = ["trainer.accelerator=cpu", "trainer.devices=1", "trainer.enable_progress_bar=false", "callbacks.progress=null"]
TINY = [
    *QUICK,
    "model.layers=1",
    "model.width=16",
    "model.feed_forward=16",
    "model.num_features=8",
    "data.max_length=64",
]
"""Options of `protlm.train`."""
FAST = [*TINY, "callbacks.curve=null", "trainer.limit_val_batches=1", "trainer.limit_test_batches=1"]
"""The same without a figure, evaluated on one batch."""


def run_training(*options: object) -> None:
    """Runs `python -m protlm.train` in this process."""
    from protlm import train

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("sys.argv", ["protlm-train", *map(str, options)])
        # Hydra composes the configuration a first time only to look up hydra.mode, which no test sets
        patched.setattr(Hydra, "get_mode", lambda *_, **__: None)
        train.main()
