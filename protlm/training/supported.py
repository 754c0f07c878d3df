"""Options and callbacks of Lightning that cannot work here, refused before training with what to use instead."""

import re
from collections.abc import Mapping
from typing import Any

from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint
from pytorch_lightning.callbacks.weight_averaging import WeightAveraging
from pytorch_lightning.loggers import Logger

from protlm.errors import UserError
from protlm.training.options import meant

REFUSED = {
    "StochasticWeightAveraging": "it ends the learning-rate schedule; average weights with callbacks=ema",
    "LearningRateFinder": "compare learning rates with -m optimizer.lr=1e-3,3e-3, or search with hydra/sweeper=search",
    "BatchSizeFinder": "set the size of a batch with data.token_budget",
}
"""Callbacks, and what to do instead."""
UNIGRAM = ("accuracy", "perplexity", "unigram_accuracy", "unigram_perplexity")
METRICS = (
    *(f"valid/{name}" for name in UNIGRAM),
    *(f"train/{name}" for name in ("loss", "gradient_norm", "learning_rate", "residues", "skipped_steps")),
    *(f"throughput/{name}" for name in ("tokens_per_second", "flops_per_second")),
)
"""What is logged, and can be monitored, during training."""


def check_options(seed: int, trainer: Mapping[Any, Any]) -> None:
    """Refuses a seed, or options of `Trainer`, that Lightning accepts silently or rejects with a stack trace."""
    if not 0 <= seed < 2**32:
        raise UserError(f"seed {seed}: expected an integer from 0 to 4,294,967,295")
    for name in ("max_steps", "log_every_n_steps", "accumulate_grad_batches"):
        value = trainer.get(name, 1)
        if not isinstance(value, int) or (value < 1 and (name, value) != ("max_steps", -1)):
            raise UserError(f"trainer.{name} {value}: expected a positive integer")
    for name in ("max_epochs", "check_val_every_n_epoch"):
        value = trainer.get(name)
        if value is not None and (not isinstance(value, int) or (value < 1 and (name, value) != ("max_epochs", -1))):
            raise UserError(f"trainer.{name} {value}: expected a positive integer")
    for name in ("val_check_interval", "gradient_clip_val"):
        value = trainer.get(name)
        if isinstance(value, int | float) and (value < 0 or (value == 0 and name == "val_check_interval")):
            raise UserError(f"trainer.{name} {value}: expected a positive number")
    for name in ("enable_progress_bar", "enable_model_summary"):
        if not isinstance(value := trainer.get(name, False), bool):
            raise UserError(f"trainer.{name} {value!r}: expected true or false")
    if str(precision := trainer.get("precision")).startswith("16"):
        raise UserError(f"trainer.precision {precision}: expected bf16-mixed or 32-true")
    limit = trainer.get("max_time")
    if not (limit is None or isinstance(limit, Mapping) or re.fullmatch(r"\d+:\d\d:\d\d:\d\d", str(limit))):
        raise UserError(f"trainer.max_time {limit}: expected DD:HH:MM:SS, such as 00:08:00:00 for eight hours")
    if trainer.get("overfit_batches"):
        raise UserError("trainer.overfit_batches: is not supported; to overfit, train on a corpus of a few proteins")
    if trainer.get("use_distributed_sampler"):
        raise UserError("trainer.use_distributed_sampler: expected false; the data module deals batches to the ranks")
    if re.search("_(spawn|fork|notebook)", strategy := str(trainer.get("strategy"))):
        raise UserError(
            f"trainer.strategy {strategy}: expected ddp, which starts its processes from scratch (trainer=ddp)"
        )


def check_callbacks(callbacks: Mapping[str, Any], sharded: bool = False, metric: str = METRICS[0]) -> None:
    """Refuses callbacks that would stop the run, or spoil its results, later.

    Args:
        callbacks: by their names in the configuration.
        sharded: whether each process holds only a shard of the weights.
        metric: one that the task logs besides `METRICS`.
    """
    for name, callback in callbacks.items():
        where = f"callbacks.{name}".rstrip(".")
        if not isinstance(callback, Callback):
            raise UserError(f"{where}: expected a pytorch_lightning.Callback, got {type(callback).__qualname__}")
        for kind in type(callback).__mro__:
            if kind.__name__ in REFUSED and kind.__module__.startswith("pytorch_lightning"):
                raise UserError(f"{where}: {kind.__name__} is not supported; {REFUSED[kind.__name__]}")
        if isinstance(callback, WeightAveraging) and callback._use_buffers:
            raise UserError(f"{where}: would average the random directions too; set {where}.use_buffers=false")
        if isinstance(callback, WeightAveraging) and sharded:
            raise UserError(f"{where}: weights cannot be averaged with trainer=fsdp; use trainer=ddp")
        monitor = getattr(callback, "monitor", None)
        # third-party callbacks may log more
        own = all(type(one).__module__.startswith(("protlm.", "pytorch_lightning.")) for one in callbacks.values())
        if isinstance(callback, EarlyStopping | ModelCheckpoint) and own and monitor not in (None, metric, *METRICS):
            question = meant(str(monitor), METRICS) or f"expected one of {', '.join(METRICS)}"
            raise UserError(f"{where}.monitor {monitor!r}: is not logged; {question}")


def check_loggers(loggers: Mapping[str, Any]) -> None:
    """Refuses objects that are not loggers of Lightning."""
    for name, logger in loggers.items():
        if not isinstance(logger, Logger):
            where = f"logger.{name}".rstrip(".")
            raise UserError(f"{where}: expected a pytorch_lightning.loggers.Logger, got {type(logger).__qualname__}")
