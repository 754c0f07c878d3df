"""What a model expects at each position of a protein.

Legend: L residues of the protein, x_i its residue i, x with i masked: x but for `<mask>` in place of residue i.
"""

from collections.abc import Callable

import numpy as np
from torch import Tensor

from protlm.errors import UserError
from protlm.inference.engine import Computer, framed
from protlm.performer import Performer
from protlm.sequence.alphabet import INDEX, MASK, STANDARD

STANDARD_TOKENS = np.array([INDEX[letter] for letter in STANDARD])


def log_softmax(logits: Tensor) -> np.ndarray:
    """log p (..., 33) float64 over the whole vocabulary, from logits (..., 33)."""
    return logits.float().cpu().double().log_softmax(-1).numpy()


def of_residues(log_p: np.ndarray) -> np.ndarray:
    """log p (..., 20) of the twenty amino acids in the order of `STANDARD`, which sum to 1, from (..., 33)."""
    chosen = log_p[..., STANDARD_TOKENS]
    return chosen - np.logaddexp.reduce(chosen, axis=-1, keepdims=True)


def check_bidirectional(model: Performer, what: str) -> None:
    """Raises a UserError if the model is unidirectional."""
    if model.config.causal:
        raise UserError(
            f"this model is unidirectional: it sees nothing behind a mask; {what} needs a bidirectional one"
        )


def one_pass(computer: Computer, tokens: np.ndarray) -> np.ndarray:
    """log p(. | x) (L, 33) float64 of tokens (L,) uint8, computed once with nothing masked."""
    rows = [framed(computer.model, tokens)]
    ((_, result),) = computer(rows, lambda t, mask, _: log_softmax(computer.model(t, mask)[0, 1:-1]))
    return result


def masked(
    computer: Computer,
    tokens: np.ndarray,
    positions: np.ndarray | None = None,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """log p(. | x with i masked) (n, 33) float64, one pass of the model for each position.

    Args:
        computer: of a bidirectional model.
        tokens: (L,) uint8.
        positions: (n,) 0-based; None for all.
        progress: called after each batch with how many positions it had.
    """
    positions = np.arange(len(tokens)) if positions is None else positions
    row, model = framed(computer.model, tokens), computer.model

    def read(inputs: Tensor, key_mask: Tensor, batch: np.ndarray) -> np.ndarray:
        inputs = inputs.clone()
        each, places = np.arange(len(batch)), positions[batch] + 1
        inputs[each, places] = MASK
        return log_softmax(model.logits(model.hidden(inputs, key_mask)[each, places]))

    result = np.empty((len(positions), model.config.vocab_size))
    for batch, log_p in computer([row] * len(positions), read):
        result[batch] = log_p
        if progress:
            progress(len(batch))
    return result
