"""Whether training batches are without padding, where that is left to protlm (`data.packed=auto`), and to what gain."""

import sys
from typing import Any

import torch
from pytorch_lightning import Trainer

from protlm.errors import UserError
from protlm.inference.packing import gains, taken_apart
from protlm.performer import Performer

AUTO = "auto"
_DTYPES = {"bf16": torch.bfloat16, "16": torch.float16, "64": torch.float64}
"""By the start of Lightning's names of precisions; float32 otherwise."""


def packed_by_default(model: Performer, trainer: Trainer) -> bool:
    """Whether a new run packs its batches: on a CUDA device, if attention takes packed batches as they are."""
    return gains(trainer.strategy.root_device) and _takes_packed(model, trainer)


def warn_if_taken_apart(model: Performer, trainer: Trainer) -> None:
    """Says, on the first rank, that attention gains nothing from packed batches."""
    if not _takes_packed(model, trainer) and trainer.is_global_zero:
        print(f"warning: {taken_apart(model, trainer.strategy.root_device)}", file=sys.stderr, flush=True)


def _takes_packed(model: Performer, trainer: Trainer) -> bool:
    """On the device of this rank and in the precision of the run."""
    precision = str(trainer.precision)
    dtype = next((dtype for start, dtype in _DTYPES.items() if precision.startswith(start)), torch.float32)
    try:
        return model.takes_packed(dtype, trainer.strategy.root_device)
    except ValueError as error:  # the backend that was requested cannot compute such attention
        raise UserError(f"task.{error}") from error


def packed_before(checkpoint: dict[str, Any], data: object) -> bool:
    """Whether the run of a checkpoint packed its batches; those of earlier versions say nothing, and padded by default.

    Args:
        checkpoint: the content of a file of Lightning.
        data: the data module, which has the state of one of its class.
    """
    return bool(checkpoint.get(type(data).__qualname__, {}).get("packed", False))
