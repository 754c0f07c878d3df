"""Amino acids predicted at `<mask>`, and probabilities of all amino acids at every position.

Legend: L residues of a protein, including masks; M its masked positions.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np

from protlm.errors import UserError
from protlm.inference.engine import TOKEN_BUDGET, Computer, check_finite, framed, windows
from protlm.inference.probabilities import check_bidirectional, log_softmax, masked, of_residues
from protlm.inference.probabilities import one_pass as log_p_of_one_pass
from protlm.inference.token_batch import TokenBatch
from protlm.performer import Performer
from protlm.progress import Advance
from protlm.sequence.alphabet import MASK, STANDARD, TOKENS, encode_masked
from protlm.sequence.containers import protein_of, proteins_of


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


def masked_tokens(protein: Any) -> np.ndarray:
    """Tokens (L,) uint8 of one protein with `<mask>`; see `proteins_of`."""
    return encode_masked(protein_of(protein, masked=True))


def predict_masked(model: Performer, proteins: Any, top: int = 5) -> Any:
    """Predicts the amino acids at each `<mask>`: a list for each protein, as `Container.arranged` returns them."""
    container = proteins_of(proteins, masked=True)
    rows = [Protein(container.name(i), encode_masked(text)) for i, text in enumerate(container.sequences)]
    return container.arranged(found for _, found in predict_proteins(Computer(model), rows, top))


def probabilities(
    model: Performer,
    proteins: Any,
    one_pass: bool = False,
    token_budget: int = TOKEN_BUDGET,
    precision: str = "float32",
) -> Any:
    """Probabilities (L, 20) float64 of the amino acids at every position, in the order of `STANDARD`.

    Row i is p(. | x) if i is in M, and p(. | x with i masked as well) otherwise; with `one_pass`, always p(. | x).
    Several proteins have one array each, as `Container.arranged` returns them.

    >>> from protlm.performer import PerformerConfig
    >>> model = Performer(PerformerConfig(33, 1, 1, 2, 8, 8)).eval()
    >>> probabilities(model, "MK<mask>LLI").shape
    (6, 20)
    """
    container, computer = proteins_of(proteins, masked=True), Computer(model, token_budget, precision)
    return container.arranged(
        position_probabilities(computer, encode_masked(sequence), one_pass) for sequence in container.sequences
    )


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
                where = f"{source}, protein {protein.name!r}" if source else protein.name
                raise UserError(f"{where}: no {TOKENS[MASK]}; put one in place of each residue to predict")
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
    if not isinstance(top, Integral) or not 1 <= top <= len(STANDARD):
        raise UserError(f"top {top!r}: expected 1 to {len(STANDARD)}", "top")


def _check_model(model: Performer) -> None:
    check_bidirectional(model, "fill", "; use generate or score")


def _at_masks(computer: Computer, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Probabilities (masks, 20) of each of several proteins, given as tokens (L_i,)."""
    model = computer.model
    masks = [np.flatnonzero(tokens == MASK) for tokens in rows]

    def read(batch: TokenBatch, chosen: np.ndarray) -> list[np.ndarray]:
        counts = [len(masks[i]) for i in chosen]
        columns = np.concatenate([masks[i] for i in chosen]) + 1
        places = batch.positions(np.repeat(np.arange(len(chosen)), counts), columns)
        log_p = log_softmax(batch.logits(model, places))
        check_finite(log_p)
        return np.split(np.exp(of_residues(log_p)), np.cumsum(counts)[:-1])

    results: dict[int, np.ndarray] = {}
    for batch, parts in computer([framed(model, tokens) for tokens in rows], read):
        results.update(zip(batch.tolist(), parts, strict=True))
    return [results[i] for i in range(len(rows))]
