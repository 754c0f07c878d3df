"""Attention matrices of any kind of attention, for `output_attentions`.

Legend: B batch, H heads, L length, d head width.

Attention is linear in its values, so that its output for one-hot values is its matrix (Choromanski et al. 2021,
appendix on the visualisation of attention); protlm/interpret/attention_maps.py has the same for one protein.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from protlm.performer.model import Performer

COLUMNS = 512
"""Columns of a matrix computed together."""
TOLERANCE = 0.05
"""Largest relative difference of the matrices times the values from the outputs; 16-bit arithmetic needs this much."""


@contextmanager
def recorded(model: Performer, record: bool) -> Iterator[list[Tensor]]:
    """A context in which a forward pass appends the matrices (B, H, L, L) of each layer to a list, without gradients.

    Rows are queries, columns keys. Without `record`, the list stays empty.

    Raises:
        ValueError: in training mode, and for attention that is not linear in its values, from the forward pass.
    """
    found: list[Tensor] = []
    if record and model.training:
        raise ValueError("output_attentions: attention matrices are computed in evaluation mode; call model.eval()")

    def after(module: torch.nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        with torch.no_grad():
            found.append(_matrix(module, *inputs))
            difference = (found[-1] @ inputs[2] - output).float().norm()
            if not difference <= TOLERANCE * output.float().norm():
                raise ValueError(
                    f"output_attentions: {type(module).__name__} is not a weighted mean of the values, so it has no "
                    "attention matrix"
                )

    modules: Any = [block.attention.attention for block in model.blocks] if record else []  # type: ignore[union-attr]
    handles = [module.register_forward_hook(after) for module in modules]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _matrix(module: torch.nn.Module, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None) -> Tensor:
    """(B, H, L, L), from the module's own output for the columns of the identity as values."""
    columns = torch.eye(k.shape[2], dtype=v.dtype, device=v.device).split(COLUMNS, 1)
    values = (part.expand(*v.shape[:2], *part.shape) for part in columns)
    return torch.cat([module.forward(q, k, part, key_mask) for part in values], -1)  # not __call__, which has the hook
