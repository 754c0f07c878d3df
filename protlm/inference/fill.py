"""Amino acids predicted at `<mask>`, and probabilities of all amino acids at every position.

Legend: L residues of a protein, including masks; M its masked positions.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from protlm.errors import UserError
from protlm.inference.engine import TOKEN_BUDGET, Computer, check_finite, framed, windows
from protlm.inference.probabilities import check_bidirectional, log_softmax, masked, of_residues
from protlm.inference.probabilities import one_pass as log_p_of_one_pass
from protlm.performer import Performer
from protlm.progress import Advance
from protlm.sequence.alphabet import LETTERS, MASK, STANDARD, TOKENS, encode_with_special

_MASK = TOKENS[MASK]
_ALLOWED = frozenset((*LETTERS, _MASK))


@dataclass(frozen=True)
class Prediction:
    """The most probable amino acids at one masked position, in descending order."""

    position: int
    """In residues, from 1."""
    residues: tuple[str, ...]
    probabilities: tuple[float, ...]
    """Over the twenty amino acids, so that all twenty sum to 1."""


class Protein(NamedTuple):
    """A protein with masks."""

    name: str
    tokens: np.ndarray
    """(L,) uint8."""


def masked_tokens(text: str) -> np.ndarray:
    """Tokens (L,) uint8 of a protein as typed: letters of either case, `<mask>` and white space."""
    tokens = encode_with_special(text, [_MASK])
    for position, token in enumerate(map(TOKENS.__getitem__, tokens), start=1):
        if token not in _ALLOWED:
            raise UserError(f"{token!r} at position {position} of the sequence; expected amino acids and {_MASK} only")
    return tokens


def predict_masked(model: Performer, text: str, top: int = 5) -> list[Prediction]:
    """Predicts the amino acids at each `<mask>`."""
    ((_, predictions),) = predict_proteins(Computer(model), [Protein("", masked_tokens(text))], top)
    return predictions


def probabilities(
    model: Performer, text: str, one_pass: bool = False, token_budget: int = TOKEN_BUDGET, precision: str = "float32"
) -> np.ndarray:
    """Probabilities (L, 20) float64 of the amino acids at every position, in the order of `STANDARD`.

    Row i is p(. | x) if i is in M, and p(. | x with i masked as well) otherwise; with `one_pass`, always p(. | x).

    >>> from protlm.performer import PerformerConfig
    >>> model = Performer(PerformerConfig(33, 1, 1, 2, 8, 8)).eval()
    >>> probabilities(model, "MK<mask>LLI").shape
    (6, 20)
    """
    tokens = masked_tokens(text)
    if not len(tokens):
        raise UserError("empty sequence; expected amino acids in one-letter code")
    return position_probabilities(Computer(model, token_budget, precision), tokens, one_pass)


def position_probabilities(
    computer: Computer, tokens: np.ndarray, one_pass: bool = False, progress: Advance | None = None
) -> np.ndarray:
    """As `probabilities`, for tokens (L,) uint8; `progress` is called with the number of positions just done."""
    _check_model(computer.model)
    log_p = log_p_of_one_pass(computer, tokens)
    rest = np.zeros(0, dtype=np.int64) if one_pass else np.flatnonzero(tokens != MASK)
    if progress:
        progress(len(tokens) - len(rest))
    if len(rest):
        log_p[rest] = masked(computer, tokens, rest, progress)
    check_finite(log_p)
    return np.exp(of_residues(log_p))


def predict_proteins(
    computer: Computer, proteins: Iterable[Protein], top: int = 5, source: str = ""
) -> Iterator[tuple[Protein, list[Prediction]]]:
    """Predictions at the masks of many proteins, in their order.

    Args:
        computer: of a bidirectional model.
        proteins: consumed lazily.
        top: number of amino acids per mask, 1 to 20.
        source: file of the proteins, for messages.
    """
    _check_model(computer.model)
    check_top(top)
    for window in windows(proteins, lambda protein: len(protein.tokens)):
        for protein in window:
            if MASK not in protein.tokens:
                where = f"{source}, protein {protein.name!r}: " if source else ""
                raise UserError(f"{where}no {_MASK} in the sequence; put one in place of each residue to predict")
        for protein, p in zip(window, _at_masks(computer, [protein.tokens for protein in window]), strict=True):
            yield protein, most_probable(protein, p, top)


def most_probable(protein: Protein, p: np.ndarray, top: int) -> list[Prediction]:
    """The predictions at the masks of a protein, from probabilities (masks, 20)."""
    best = np.argsort(-p, axis=1, kind="stable")[:, :top]
    return [
        Prediction(position + 1, tuple(STANDARD[i] for i in order), tuple(row[order].tolist()))
        for position, row, order in zip(np.flatnonzero(protein.tokens == MASK).tolist(), p, best, strict=True)
    ]


def check_top(top: int) -> None:
    """Raises a UserError for a number of amino acids that is not 1 to 20."""
    if not 1 <= top <= len(STANDARD):
        raise UserError(f"top {top}: expected 1 to {len(STANDARD)}", "top")


def _check_model(model: Performer) -> None:
    check_bidirectional(model, "fill", "; use generate or score")


def _at_masks(computer: Computer, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Probabilities (masks, 20) of each of several proteins, given as tokens (L_i,)."""
    model = computer.model

    def read(tokens: Tensor, key_mask: Tensor, _: np.ndarray) -> list[np.ndarray]:
        chosen = tokens == MASK
        log_p = log_softmax(model.logits(model.hidden(tokens, key_mask)[chosen]))
        check_finite(log_p)
        return np.split(np.exp(of_residues(log_p)), np.cumsum(chosen.sum(1).cpu().numpy())[:-1])

    results: dict[int, np.ndarray] = {}
    for batch, parts in computer([framed(model, tokens) for tokens in rows], read):
        results.update(zip(batch.tolist(), parts, strict=True))
    return [results[i] for i in range(len(rows))]
