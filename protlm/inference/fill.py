"""Amino acids predicted at `<mask>`, and probabilities of all amino acids at every position.

With a model of another alphabet, the same for its letters.

Legend: L residues of a protein, including masks; M its masked positions; A letters, the twenty amino acids of proteins.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np

from protlm.errors import UserError
from protlm.inference.engine import TOKEN_BUDGET, Computer, check_finite, framed, windows
from protlm.inference.probabilities import check_bidirectional, log_softmax, masked, of_letters
from protlm.inference.probabilities import one_pass as log_p_of_one_pass
from protlm.inference.token_batch import TokenBatch
from protlm.performer import Performer
from protlm.progress import Advance
from protlm.sequence.alphabets import alphabet_of
from protlm.sequence.containers import tokens_of
from protlm.sequence.letters import MASK, Alphabet
from protlm.sequence.masked_records import TokenRecord

TOP = 5
"""Default number of letters per mask."""


@dataclass(frozen=True)
class Prediction:
    """The most probable amino acids at one masked position, in descending order."""

    position: int
    """In residues, from 1."""
    residues: tuple[str, ...]
    """Letters of the alphabet; a byte that cannot be printed is as <0x0A>."""
    probabilities: tuple[float, ...]
    """Over the twenty amino acids, or the A letters, so that all of them sum to 1."""


def predict_masked(model: Performer, proteins: Any, top: int | None = None) -> Any:
    """Predicts the amino acids at each `<mask>`: a list for each protein, as `Container.arranged` returns them."""
    container = tokens_of(proteins, alphabet_of(model.config.alphabet), masked=True)
    rows = [TokenRecord(container.name(i), tokens) for i, tokens in enumerate(container.sequences)]
    return container.arranged(found for _, found in predict_proteins(Computer(model), rows, top))


def probabilities(
    model: Performer,
    proteins: Any,
    one_pass: bool = False,
    token_budget: int = TOKEN_BUDGET,
    precision: str = "float32",
) -> Any:
    """Probabilities (L, A) float64 of the amino acids at every position, in the order of `Alphabet.definite`.

    Row i is p(. | x) if i is in M, and p(. | x with i masked as well) otherwise; with `one_pass`, always p(. | x).
    Several proteins have one array each, as `Container.arranged` returns them.

    >>> from protlm.performer import PerformerConfig
    >>> model = Performer(PerformerConfig(33, 1, 1, 2, 8, 8)).eval()
    >>> probabilities(model, "MK<mask>LLI").shape
    (6, 20)
    """
    container = tokens_of(proteins, alphabet_of(model.config.alphabet), masked=True)
    computer = Computer(model, token_budget, precision)
    return container.arranged(position_probabilities(computer, tokens, one_pass) for tokens in container.sequences)


def position_probabilities(
    computer: Computer, tokens: np.ndarray, one_pass: bool = False, progress: Advance | None = None
) -> np.ndarray:
    """As `probabilities`, for tokens (L,); `progress` is called with the number of positions just done."""
    _check_model(computer.model)
    alphabet = alphabet_of(computer.model.config.alphabet)
    log_p = log_p_of_one_pass(computer, tokens)
    rest = np.zeros(0, dtype=np.int64) if one_pass else np.flatnonzero(tokens != alphabet.mask)
    if progress:
        progress(len(tokens) - len(rest))
    if len(rest):
        log_p[rest] = masked(computer, tokens, rest, progress)
    check_finite(log_p)
    return np.exp(of_letters(log_p, alphabet))


def predict_proteins(
    computer: Computer, proteins: Iterable[TokenRecord], top: int | None = None, source: str = ""
) -> Iterator[tuple[TokenRecord, list[Prediction]]]:
    """Predictions at the masks of many proteins, in their order.

    Args:
        computer: of a bidirectional model.
        proteins: of the model's alphabet, consumed lazily.
        top: see `chosen_top`.
        source: file of the proteins, for messages.
    """
    _check_model(computer.model)
    alphabet = alphabet_of(computer.model.config.alphabet)
    top = chosen_top(top, alphabet)
    for window in windows(proteins, lambda protein: len(protein.tokens)):
        for protein in window:
            if alphabet.mask not in protein.tokens:
                where = f"{source}, {alphabet.record} {protein.name!r}" if source else protein.name
                raise UserError(f"{where}: no {MASK}; put one in place of each {alphabet.unit} to predict")
        for protein, p in zip(window, _at_masks(computer, [protein.tokens for protein in window]), strict=True):
            yield protein, most_probable(protein, p, top, alphabet)


def most_probable(protein: TokenRecord, p: np.ndarray, top: int, alphabet: Alphabet) -> list[Prediction]:
    """The predictions at the masks of a protein, from probabilities (masks, A)."""
    letters = [alphabet.tokens[token] for token in alphabet.drawn]
    best = np.argsort(-p, axis=1, kind="stable")[:, :top]
    return [
        Prediction(position + 1, tuple(letters[i] for i in order), tuple(row[order].tolist()))
        for position, row, order in zip(np.flatnonzero(protein.tokens == alphabet.mask).tolist(), p, best, strict=True)
    ]


def chosen_top(top: int | None, alphabet: Alphabet) -> int:
    """Number of letters per mask; by default 5, or all of fewer. A UserError if the alphabet does not have as many."""
    most = len(alphabet.drawn)
    if top is None:
        return min(TOP, most)
    if not isinstance(top, Integral) or not 1 <= top <= most:
        raise UserError(f"top {top!r}: expected 1 to {most}", "top")
    return int(top)


def _check_model(model: Performer) -> None:
    check_bidirectional(model, "fill", "; use generate or score --pseudo-perplexity")


def _at_masks(computer: Computer, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Probabilities (masks, A) of each of several proteins, given as tokens (L_i,)."""
    model, alphabet = computer.model, alphabet_of(computer.model.config.alphabet)
    masks = [np.flatnonzero(tokens == alphabet.mask) for tokens in rows]

    def read(batch: TokenBatch, chosen: np.ndarray) -> list[np.ndarray]:
        counts = [len(masks[i]) for i in chosen]
        columns = np.concatenate([masks[i] for i in chosen]) + 1
        places = batch.positions(np.repeat(np.arange(len(chosen)), counts), columns)
        log_p = log_softmax(batch.logits(model, places))
        check_finite(log_p)
        return np.split(np.exp(of_letters(log_p, alphabet)), np.cumsum(counts)[:-1])

    results: dict[int, np.ndarray] = {}
    for batch, parts in computer([framed(model, tokens) for tokens in rows], read):
        results.update(zip(batch.tolist(), parts, strict=True))
    return [results[i] for i in range(len(rows))]
