"""What is kept of a model's representations: which layers, pooled over a protein or residue by residue.

Legend: B batch, L length with both ends, D width, P poolings, K layers.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from protlm.errors import UserError
from protlm.performer import Performer

POOLS = ("mean", "bos", "max")
"""Mean or maximum over the residues, without the ends; or the first token, which stands before them."""

Kept = tuple[np.ndarray | None, list[np.ndarray]]
"""Pooled (B, P, K, D) float32, if asked for, and for each layer (B, L - 2, D), if asked for."""


def chosen_layers(layers: Sequence[int], depth: int) -> tuple[int, ...]:
    """Layers counted from 0, the embedding, to `depth`, the last, from numbers that may count back from -1, the last.

    Raises:
        UserError: for none, one that is not there, or one given twice.

    >>> chosen_layers([-1, 0, 3], 6)
    (6, 0, 3)
    """
    for layer in layers:
        if not -depth - 1 <= layer <= depth:
            raise UserError(f"layer {layer}: expected 0 (the embedding) to {depth} (the last), or -1 to {-depth - 1}")
    chosen = tuple(layer % (depth + 1) for layer in layers)
    if not chosen or len(set(chosen)) < len(chosen):
        raise UserError(f"layers {', '.join(map(str, layers)) or 'none'}: expected at least one, each once")
    return chosen


def check_pools(pools: Sequence[str]) -> None:
    """Raises a UserError for a pooling that is unknown or given twice."""
    if odd := [pool for pool in pools if pool not in POOLS]:
        raise UserError(f"pooling {odd[0]!r}: expected one of {', '.join(POOLS)}")
    if len(set(pools)) < len(pools):
        raise UserError(f"pooling {', '.join(pools)}: expected each once")


def reader(
    model: Performer, layers: Sequence[int], pools: Sequence[str], rows: torch.dtype | None
) -> Callable[[Tensor, Tensor, np.ndarray], Kept]:
    """A function for `Computer` that keeps what is asked for, on the CPU; pooling happens where the model is.

    Args:
        model: in evaluation mode.
        layers: counted from 0.
        pools: of `POOLS`; none for none.
        rows: dtype of single residues; None for none.
    """

    def read(tokens: Tensor, key_mask: Tensor, batch: np.ndarray) -> Kept:
        found = model.representations(tokens, set(layers), key_mask)
        pooled, single = None, []
        with torch.autocast(tokens.device.type, enabled=False):
            if pools:
                residues = key_mask.clone()
                residues[:, 0] = False
                residues[torch.arange(len(batch)), key_mask.sum(1) - 1] = False
                by_layer = [torch.stack(pool(found[layer].float(), residues, pools), 1) for layer in layers]
                pooled = torch.stack(by_layer, 2).cpu().numpy()
            if rows is not None:
                single = [found[layer][:, 1:-1].to(rows).cpu().numpy() for layer in layers]
        return pooled, single

    return read


def pool(x: Tensor, residues: Tensor, pools: Sequence[str]) -> list[Tensor]:
    """For each pooling (B, D), from representations (B, L, D) and where there are residues (B, L) bool."""
    pooled = []
    for kind in pools:
        if kind == "mean":
            weights = residues.to(x.dtype)
            pooled.append((weights[:, None] @ x)[:, 0] / weights.sum(1, keepdim=True))
        elif kind == "max":
            pooled.append(x.masked_fill(~residues[..., None], -torch.inf).amax(1))
        else:
            pooled.append(x[:, 0])
    return pooled
