"""The likeliest residues where a sequence has `<mask>`, and the probabilities of all residues at every position.

Legend: L residues of a protein, masks included.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from torch import Tensor

from protlm.errors import UserError
from protlm.inference.engine import TOKEN_BUDGET, Computer, framed, windows
from protlm.inference.probabilities import log_softmax, masked, of_residues, one_pass
from protlm.performer import Performer
from protlm.sequence.alphabet import LETTERS, MASK, STANDARD, TOKENS, encode_with_special

TYPED = "sequence"
"""What a protein that has no name is called."""
_MASK = TOKENS[MASK]
_TEXT = frozenset((*LETTERS, _MASK))


@dataclass(frozen=True)
class Prediction:
    """The residues of one masked position, likeliest first."""

    position: int
    """1-based, counted in residues."""
    residues: tuple[str, ...]
    probabilities: tuple[float, ...]
    """Of the twenty amino acids, which sum to 1."""


class Protein(NamedTuple):
    """A protein with masks."""

    name: str
    tokens: np.ndarray
    """(L,) uint8."""


def masked_tokens(text: str) -> np.ndarray:
    """Tokens (L,) uint8 of a protein as a person types it, with or without `<mask>`.

    Raises:
        UserError: for anything but amino acids in one-letter code, which may be small, `<mask>` and white space.
    """
    tokens = encode_with_special(text, [_MASK])
    for position, token in enumerate(map(TOKENS.__getitem__, tokens), start=1):
        if token not in _TEXT:
            raise UserError(
                f"{token!r} at position {position} of the sequence; expected residues and {_MASK} only, without gaps"
            )
    return tokens


def fill(model: Performer, text: str, top: int = 5) -> list[Prediction]:
    """Predicts the residues at `<mask>`.

    Args:
        model: bidirectional, in evaluation mode.
        text: a sequence with `<mask>` in place of one or more residues.
        top: how many residues for each mask, 1 to 20.

    Raises:
        UserError: for a unidirectional model, a text without `<mask>`, or something outside the alphabet.
    """
    ((_, predictions),) = fill_proteins(Computer(model), [Protein(TYPED, masked_tokens(text))], top)
    return predictions


def probabilities(
    model: Performer,
    text: str,
    one_pass: bool = False,
    token_budget: int = TOKEN_BUDGET,
    precision: str = "float32",
) -> np.ndarray:
    """Probabilities (L, 20) float64 of the amino acids at every position, in the order of `STANDARD`.

    With M the masked positions of the text x, row i is p(. | x) if i is in M, else p(. | x with i masked as well).

    Args:
        model: bidirectional, in evaluation mode.
        text: a sequence, with or without `<mask>`.
        one_pass: all rows are p(. | x): one pass of the model instead of up to L + 1.
        token_budget, precision: see `Computer`.

    Raises:
        UserError: as `fill`, and for an empty text.

    >>> from protlm.performer import PerformerConfig
    >>> model = Performer(PerformerConfig(33, 1, 1, 2, 8, 8)).eval()
    >>> probabilities(model, "MK<mask>LLI").shape
    (6, 20)
    """
    tokens = masked_tokens(text)
    if not len(tokens):
        raise UserError("the sequence is empty; expected amino acids in one-letter code")
    return matrix(Computer(model, token_budget, precision), tokens, one_pass)


def matrix(
    computer: Computer, tokens: np.ndarray, in_one_pass: bool = False, progress: Callable[[int], None] | None = None
) -> np.ndarray:
    """As `probabilities`, of tokens (L,) uint8; `progress` is called with how many more positions are done."""
    _check(computer.model)
    log_p = of_residues(_finite(one_pass(computer, tokens)))
    rest = np.zeros(0, dtype=np.int64) if in_one_pass else np.flatnonzero(tokens != MASK)
    if progress:
        progress(len(tokens) - len(rest))
    if len(rest):
        log_p[rest] = of_residues(_finite(masked(computer, tokens, rest, progress)))
    return np.exp(log_p)


def fill_proteins(
    computer: Computer, proteins: Iterable[Protein], top: int = 5, source: str = ""
) -> Iterator[tuple[Protein, list[Prediction]]]:
    """The predictions for each mask of many proteins, in their order.

    Args:
        computer: of a bidirectional model.
        proteins: read as far as they are needed.
        top: how many residues for each mask, 1 to 20.
        source: how messages name the file of the proteins.

    Raises:
        UserError: for a unidirectional model; for a protein without `<mask>`.
    """
    _check(computer.model)
    _check_top(top)
    for window in windows(proteins, lambda protein: len(protein.tokens)):
        for protein in window:
            if MASK not in protein.tokens:
                where = f"{source}, protein {protein.name!r}: " if source else ""
                raise UserError(
                    f"{where}no {_MASK} in the sequence; put {_MASK} in place of each residue to predict, as in "
                    f"MKT{_MASK}LLI"
                )
        for protein, rows in zip(window, _at_masks(computer, [protein.tokens for protein in window]), strict=True):
            places = np.flatnonzero(protein.tokens == MASK)
            yield protein, [_prediction(int(i), row, top) for i, row in zip(places, rows, strict=True)]


def fill_with_matrices(
    computer: Computer,
    proteins: Iterable[Protein],
    keep: Callable[[Protein, np.ndarray], None],
    top: int = 5,
    in_one_pass: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Iterator[tuple[Protein, list[Prediction]]]:
    """As `fill_proteins`, one by one, where none needs a mask; `keep` is given each with its `matrix`."""
    _check_top(top)
    for protein in proteins:
        rows = matrix(computer, protein.tokens, in_one_pass, progress)
        keep(protein, rows)
        yield protein, [_prediction(int(i), rows[i], top) for i in np.flatnonzero(protein.tokens == MASK)]


def _check(model: Performer) -> None:
    if model.config.causal:
        raise UserError(
            "this model is unidirectional: it sees nothing behind a mask; fill needs a bidirectional one, this one can "
            "go on from a beginning (protlm generate) or score whole variants (protlm score)"
        )


def _check_top(top: int) -> None:
    if not 1 <= top <= len(STANDARD):
        raise UserError(f"top {top}: expected 1 to {len(STANDARD)}")


def _finite(log_p: np.ndarray) -> np.ndarray:
    if np.isnan(log_p).any():
        raise UserError("the model's answers are not finite; take another checkpoint")
    return log_p


def _prediction(place: int, p: np.ndarray, top: int) -> Prediction:
    best = np.argsort(-p, kind="stable")[:top]
    return Prediction(place + 1, tuple(STANDARD[i] for i in best), tuple(float(p[i]) for i in best))


def _at_masks(computer: Computer, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Probabilities (masks, 20) of each of several proteins, given as tokens (L_i,)."""
    model = computer.model
    inputs = [framed(model, tokens) for tokens in rows]

    def read(tokens: Tensor, key_mask: Tensor, batch: np.ndarray) -> list[np.ndarray]:
        chosen = tokens == MASK
        log_p = _finite(log_softmax(model.logits(model.hidden(tokens, key_mask)[chosen])))
        return np.split(np.exp(of_residues(log_p)), np.cumsum(chosen.sum(1).cpu().numpy())[:-1])

    results: dict[int, np.ndarray] = {}
    for batch, parts in computer(inputs, read):
        results.update(zip(batch.tolist(), parts, strict=True))
    return [results[i] for i in range(len(rows))]
