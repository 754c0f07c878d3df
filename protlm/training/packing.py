"""Whether training batches are without padding, where that is left to protlm (`data.packed=auto`)."""

from typing import Any

import torch
from pytorch_lightning import Trainer

from protlm.inference.packing import gains
from protlm.performer import Performer

AUTO = "auto"
_DTYPES = {"bf16": torch.bfloat16, "16": torch.float16, "64": torch.float64}
"""By the start of Lightning's names of precisions; float32 otherwise."""


def packed_by_default(model: Performer, trainer: Trainer) -> bool:
    """Whether a new run packs its batches: on a CUDA device, if attention takes packed batches as they are."""
    device = trainer.strategy.root_device
    precision = str(trainer.precision)
    dtype = next((dtype for start, dtype in _DTYPES.items() if precision.startswith(start)), torch.float32)
    return gains(device) and model.takes_packed(dtype, device)


def packed_before(checkpoint: dict[str, Any], data: object) -> bool:
    """Whether the run of a checkpoint packed its batches; those of earlier versions say nothing, and padded by default.

    Args:
        checkpoint: the content of a file of Lightning.
        data: the data module, which has the state of one of its class.
    """
    return bool(checkpoint.get(type(data).__qualname__, {}).get("packed", False))
