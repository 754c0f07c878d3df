"""Attention matrices of any kind of attention, recovered from its outputs for one-hot values.

Legend: B batch, H heads, L tokens of a sequence with both ends, e value width.

Attention is linear in its values, so what it gives for the values e_j, which are 1 at key j and 0 elsewhere, is column
j of its matrix (Choromanski et al. 2021, appendix on the visualisation of attention). The module's own forward is
called at the queries and keys that it gets within the model, so the matrix is that which the model computes with,
whatever the kind of attention, and also where the matrix is never formed.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from protlm.errors import UserError
from protlm.inference.engine import encoded
from protlm.performer import Performer

COLUMNS = 512
"""Columns of a matrix that are computed at once."""

Attend = Callable[[Tensor], Tensor]
"""One layer's attention at its queries and keys: values (B, H, L, e) -> (B, H, L, e)."""


@contextmanager
def watched(model: Performer, layers: Sequence[int], see: Callable[[int, Attend], None]) -> Iterator[None]:
    """Within it, each forward of the model calls `see` with the number of a layer and its attention to any values.

    What the model computes does not change.

    Args:
        model: in evaluation mode.
        layers: numbers from 1, the first block, to the number of blocks.
        see: called while the layer runs; its function may be called any number of times.
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
    """Blocks counted from 1, from numbers that may count back from -1, the last; all for None.

    Raises:
        UserError: for none, one that is not there, or one given twice.
    """
    depth = model.config.layers
    if layers is None:
        return tuple(range(1, depth + 1))
    for layer in layers:
        if not (1 <= layer <= depth or -depth <= layer <= -1):
            raise UserError(f"layer {layer}: expected 1 (the first with attention) to {depth}, or -1 to {-depth}")
    chosen = tuple(layer if layer > 0 else depth + 1 + layer for layer in layers)
    if not chosen or len(set(chosen)) < len(chosen):
        raise UserError(f"layers {', '.join(map(str, layers)) or 'none'}: expected at least one, each once")
    return chosen


@torch.inference_mode()
def attention_matrices(
    model: Performer, sequence: str, layers: Sequence[int] | None = None, columns: int = COLUMNS
) -> np.ndarray:
    """The attention (layers, H, L, L) float32 that a model pays within one protein: rows are queries, columns keys.

    L is the number of residues and 2: the first token (`<cls>`) and `<eos>` are kept as the first and the last row and
    column, since the model attends to them as to residues, and rows sum to 1 only with them. `[..., 1:-1, 1:-1]` is
    that among residues. Entries are at least 0 but for features that may be negative ("trig", "cos", "identity").

    Args:
        model: in evaluation mode.
        sequence: amino acids in one-letter code.
        layers: 1 is the first block, -1 the last; None for all.
        columns: how many are computed at once; beyond the result, memory grows with columns x L.

    Raises:
        UserError: for a sequence that is empty or has a letter without a token, or an unknown layer.

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

    with watched(model, chosen, see):
        model.hidden(tokens)
    return result
