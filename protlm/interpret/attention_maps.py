"""Attention matrices of any kind of attention, computed from its outputs for one-hot values.

Legend: B batch, H heads, L tokens of a sequence with both ends, e value width.

Attention is linear in its values, so that its output for the values e_j, 1 at key j and 0 elsewhere, is column j of the
attention matrix (Choromanski et al. 2021, appendix on the visualisation of attention). The module's own forward runs on
the queries and keys inside the model: the result is the matrix with which the model computes, for every kind of
attention, including those that never form it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from protlm.errors import UserError
from protlm.inference.engine import encoded, evaluating, warn_beyond_positions
from protlm.performer import Performer

BLOCK_COLUMNS = 512
"""Columns of a matrix computed together."""

Attend = Callable[[Tensor], Tensor]
"""The attention of one layer at its queries and keys: values (B, H, L, e) -> outputs (B, H, L, e)."""


@contextmanager
def watched(model: Performer, layers: Sequence[int], see: Callable[[int, Attend], None]) -> Iterator[None]:
    """A context in which each forward pass calls `see` with the number of a layer, from 1, and its attention.

    The output of the model does not change; `see` may call the attention any number of times.
    """

    def hook(layer: int) -> Callable[..., None]:
        def before(module: torch.nn.Module, inputs: tuple[Tensor, Tensor, Tensor, Tensor | None]) -> None:
            q, k, _, key_mask = inputs
            see(layer, lambda values: module.forward(q, k, values, key_mask))  # not __call__, which would hook again

        return before

    handles = [model.blocks[n - 1].attention.attention.register_forward_pre_hook(hook(n)) for n in layers]  # type: ignore[union-attr]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def chosen_blocks(model: Performer, layers: Sequence[int] | None) -> tuple[int, ...]:
    """Block numbers from 1, given as 1 (the first) to the depth or as -1 (the last) and below; None for all."""
    depth = model.config.layers
    if layers is None:
        return tuple(range(1, depth + 1))
    for layer in layers:
        if not (1 <= layer <= depth or -depth <= layer <= -1):
            raise UserError(f"layer {layer}: expected 1 to {depth}, or -1 (the last) to {-depth}")
    chosen = tuple(layer if layer > 0 else depth + 1 + layer for layer in layers)
    if not chosen or len(set(chosen)) < len(chosen):
        raise UserError(f"layers {', '.join(map(str, layers)) or 'none'}: expected at least one, without duplicates")
    return chosen


def attention_matrices(
    model: Performer, sequence: str, layers: Sequence[int] | None = None, columns: int = BLOCK_COLUMNS
) -> np.ndarray:
    """Attention matrices (layers, H, L, L) float32 of one protein; rows are queries, columns keys.

    L is the number of residues plus 2: the first and last row and column belong to the start token and `<eos>`, which
    receive attention as residues do; without them, rows do not sum to 1. `[..., 1:-1, 1:-1]` is the attention among
    residues. Entries are non-negative unless the features can be negative ("trig", "cos", "identity").

    Args:
        model: evaluates, whatever its mode.
        sequence: amino acids in one-letter code.
        layers: 1 is the first block, -1 the last; None for all.
        columns: number of columns computed together; memory beyond the result is proportional to columns x L.

    Raises:
        UserError: for an empty sequence, a letter without a token, or an unknown layer.

    >>> from protlm.model_api import example
    >>> attention = attention_matrices(example(), "MKTAYIAK")
    >>> attention.shape, bool(abs(attention.sum(-1) - 1).max() < 1e-5)
    ((1, 2, 10, 10), True)
    """
    chosen = chosen_blocks(model, layers)
    (row,) = encoded(model, [sequence])
    weight = next(model.parameters())
    tokens = torch.from_numpy(row).long().to(weight.device)[None]
    length, heads = len(row), model.config.heads
    result = np.empty((len(chosen), heads, length, length), dtype=np.float32)

    def see(layer: int, attend: Attend) -> None:
        for start in range(0, length, columns):
            width = min(columns, length - start)
            values = torch.zeros(1, heads, length, width, dtype=weight.dtype, device=weight.device)
            values[:, :, start : start + width] = torch.eye(width, dtype=weight.dtype, device=weight.device)
            result[chosen.index(layer), :, :, start : start + width] = attend(values)[0].float().cpu().numpy()

    warn_beyond_positions(model, length)
    with evaluating(model), watched(model, chosen, see):
        model.hidden(tokens)
    return result
