"""Pseudo-perplexity and perplexity: how well a model predicts the residues of a protein.

Legend: L residues of a protein x (or letters of another alphabet), x_i its residue i; p is over the whole vocabulary.
Only the twenty amino acids count, or the letters that the alphabet predicts; others serve as context.

Bidirectional models have a pseudo-perplexity (Salazar et al. 2020), one forward pass per residue:
exp(-1/L sum_i log p(x_i | x with i masked)). Causal models have the ordinary perplexity from one pass:
exp(-1/L sum_i log p(x_i | x_1 ... x_(i-1))), without the end-of-sequence token.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from protlm.batching.masking import Masking
from protlm.errors import counted
from protlm.inference.engine import TOKEN_BUDGET, Computer, check_finite, windows
from protlm.inference.probabilities import causal_own, masked_own, unmasked_own
from protlm.inference.sequences import InputSequences
from protlm.performer import Performer
from protlm.progress import Advance
from protlm.sequence.alphabets import PROTEIN, alphabet_of
from protlm.sequence.containers import tokens_of
from protlm.sequence.fasta import none_left
from protlm.tables import write_table


def pseudo_perplexity(
    model: Performer,
    proteins: Any,
    exact: bool = True,
    token_budget: int = TOKEN_BUDGET,
    precision: str = "float32",
    masking: Masking | None = None,
) -> Any:
    """Pseudo-perplexity of each of n proteins, (n,) float64; NaN without any of the twenty amino acids.

    Proteins, or sequences of the model's alphabet, are in any container, see `tokens_of`; results as
    `Container.stacked` returns them, or a Series.

    Args:
        exact: mask one residue at a time; otherwise estimate from one pass, see `unmasked_own`.
        masking: with which the model was trained; used by the estimate. By default BERT's.

    >>> from protlm.performer import PerformerConfig
    >>> model = Performer(PerformerConfig(33, 1, layers=1, heads=2, width=8, feed_forward=8)).eval()
    >>> pseudo_perplexity(model, ["MKT", "MKTAYIAK"]).shape
    (2,)
    """
    container = tokens_of(proteins, alphabet_of(model.config.alphabet))
    values = perplexities(Computer(model, token_budget, precision), container.sequences, exact, masking)
    return values if container.kind == "many" else container.arranged(values.tolist())


def perplexities(
    computer: Computer,
    proteins: Sequence[np.ndarray],
    exact: bool = True,
    masking: Masking | None = None,
    progress: Advance | None = None,
) -> np.ndarray:
    """As `pseudo_perplexity`, for proteins given as tokens (L_i,); `progress` counts masked residues."""
    if not proteins:
        return np.empty(0)
    if computer.model.config.causal:
        own = [log_p[:-1] for log_p in causal_own(computer, proteins)]
    elif exact:
        own = masked_own(computer, proteins, progress)
    else:
        own = unmasked_own(computer, proteins, masking or Masking())
    result, counts = np.full(len(proteins), np.nan), alphabet_of(computer.model.config.alphabet).is_definite
    for i, (tokens, log_p) in enumerate(zip(proteins, own, strict=True)):
        known = log_p[counts[tokens]]
        check_finite(known)
        if len(known):
            result[i] = np.exp(-known.mean())
    return result


def write_perplexities(
    computer: Computer,
    records: InputSequences,
    path: Path | None,
    exact: bool = True,
    masking: Masking | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Writes a table, by default tab-separated: identifier, length, (pseudo-)perplexity of each record, in order.

    Args:
        computer: of the model.
        records: of the model's alphabet, any number; only a few thousand are in memory at a time.
        path: of the table, see `write_table`.
        exact, masking: see `pseudo_perplexity`.
        progress: called with the number of residues done, and 0 for the unknown total.

    Returns:
        Lines that report the results and the changes made to records.

    Raises:
        UserError: if a record cannot be read or there is none.
    """
    proteins = residues = without = done = 0
    alphabet = alphabet_of(computer.model.config.alphabet)

    def count(more: int) -> None:
        nonlocal done
        done += more
        if progress:
            progress(done, 0)

    def rows() -> Iterator[tuple[str, int, str]]:
        nonlocal proteins, residues, without
        for window in windows(records, lambda record: len(record.tokens)):
            tokens = [record.tokens for record in window]
            values = perplexities(computer, tokens, exact, masking, count).tolist()
            for record, value in zip(window, values, strict=True):
                yield record.name, len(record.tokens), f"{value:.4f}"
                without += math.isnan(value)
            proteins += len(window)
            residues += sum(map(len, tokens))
            count(residues - done)
        if not proteins:
            raise none_left("the input", records.tally, alphabet.record)

    name = "perplexity" if computer.model.config.causal else "pseudo_perplexity"
    lines = rows()
    write_table(path, ["id", "length", name], chain([next(lines)], lines), "\t")  # no header before an error
    lines = [f"{counted(proteins, alphabet.record)}, {counted(residues, alphabet.unit)}"]
    if without:
        known = "the twenty amino acids" if alphabet == PROTEIN else alphabet.definite
        lines.append(f"nan for {counted(without, alphabet.record)} without any of {known}")
    return lines + records.lines(alphabet.unit)
