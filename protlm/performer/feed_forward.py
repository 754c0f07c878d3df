"""The feed-forward layers of a block.

Legend: D model width, F hidden width.
"""

import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS = ("gelu", "swiglu")


class SwiGLU(nn.Module):
    """silu(a) b of the halves a and b of the last axis (Shazeer 2020)."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., 2 F) -> (..., F)."""
        gate, value = x.chunk(2, -1)
        return F.silu(gate) * value


def feed_forward(width: int, hidden: int, activation: str) -> nn.Sequential:
    """D -> F -> D; "swiglu" has two projections to F, as one matrix."""
    if activation == "swiglu":
        return nn.Sequential(nn.Linear(width, 2 * hidden), SwiGLU(), nn.Linear(hidden, width))
    return nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
