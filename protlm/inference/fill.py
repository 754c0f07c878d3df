"""The likeliest residues where a sequence has `<mask>`."""

from dataclasses import dataclass

import numpy as np
import torch

from protlm.errors import UserError
from protlm.performer import Performer
from protlm.sequence.alphabet import INDEX, MASK, SCORED, STANDARD, encode_with_special, with_ends

_STANDARD_TOKENS = np.array([INDEX[letter] for letter in STANDARD])


@dataclass(frozen=True)
class Prediction:
    """The residues of one masked position, likeliest first."""

    position: int
    """1-based, counted in residues."""
    residues: tuple[str, ...]
    probabilities: tuple[float, ...]
    """Of the twenty amino acids, which sum to 1."""


def fill(model: Performer, text: str, top: int = 5) -> list[Prediction]:
    """Predicts the residues at `<mask>`.

    Args:
        model: bidirectional, in evaluation mode.
        text: a sequence with `<mask>` in place of one or more residues.
        top: how many residues for each mask, 1 to 20.

    Raises:
        UserError: for a unidirectional model, a text without `<mask>`, or something outside the alphabet.
    """
    if model.config.causal:
        raise UserError("this model is unidirectional: it sees nothing behind a mask; fill needs a bidirectional one")
    if not 1 <= top <= len(STANDARD):
        raise UserError(f"top {top}: expected 1 to {len(STANDARD)}")
    tokens = encode_with_special(text)
    allowed = SCORED[tokens] | np.isin(tokens, [MASK, *(INDEX[letter] for letter in "XBZ")])
    if not allowed.all():
        raise UserError("expected residues and <mask> only; the ends of the protein are added by fill itself")
    masked = np.flatnonzero(tokens == MASK)
    if not len(masked):
        raise UserError("no <mask> in the sequence; put <mask> in place of each residue to predict, as in MKT<mask>LLI")
    device = next(model.parameters()).device
    with torch.inference_mode():
        logits = model(torch.from_numpy(with_ends(tokens)).long()[None].to(device))[0, 1 + masked]
        probabilities = logits[:, _STANDARD_TOKENS].float().cpu().double().softmax(-1).numpy()
    predictions = []
    for position, row in zip(masked, probabilities, strict=True):
        best = np.argsort(-row, kind="stable")[:top]
        residues = tuple(STANDARD[i] for i in best)
        predictions.append(Prediction(int(position) + 1, residues, tuple(float(row[i]) for i in best)))
    return predictions
