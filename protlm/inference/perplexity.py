"""How surprised a model is by the residues that a protein has.

Legend: L residues of a protein x, x_i its residue i; p are probabilities over the whole vocabulary. Only the twenty
amino acids are counted; other letters are context.

Pseudo-perplexity of a bidirectional model (Salazar et al. 2020, here for each protein):
exp(-1/L sum_i log p(x_i | x with i masked)), one pass for each residue. A unidirectional model has the ordinary one:
exp(-1/L sum_i log p(x_i | x_1 ... x_(i-1))), from one pass; the end is not counted.
"""

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from torch import Tensor

from protlm.batching.masking import Masking
from protlm.errors import UserError, counted
from protlm.files import atomic_output
from protlm.inference.engine import Computer, encoded, framed, windows
from protlm.inference.probabilities import check_bidirectional, log_softmax
from protlm.performer import Performer
from protlm.sequence.alphabet import MASK, STANDARD, TOKENS
from protlm.sequence.fasta import FastaFile, Record

COUNTED = np.isin(np.array(TOKENS), list(STANDARD))
"""(33,) bool: the tokens of the twenty amino acids."""


def pseudo_perplexity(
    model: Performer,
    sequences: Sequence[str],
    exact: bool = True,
    token_budget: int = 16_384,
    precision: str = "float32",
    masking: Masking | None = None,
) -> np.ndarray:
    """Pseudo-perplexities (n,) float64 of n proteins, or perplexities if the model is unidirectional.

    Args:
        model: in evaluation mode.
        sequences: amino acids in one-letter code, capital letters.
        exact: mask one residue at a time; else estimate from one pass, see `unmasked_own`.
        token_budget, precision: see `Computer`.
        masking: what the model was trained with, which matters for the estimate alone; by default BERT's.

    Returns:
        NaN for a protein without any of the twenty amino acids.

    Raises:
        UserError: for a sequence that cannot be encoded.

    >>> from protlm.performer import PerformerConfig
    >>> model = Performer(PerformerConfig(33, 1, layers=1, heads=2, width=8, feed_forward=8)).eval()
    >>> pseudo_perplexity(model, ["MKT", "MKTAYIAK"]).shape
    (2,)
    """
    proteins = [row[1:-1] for row in encoded(model, sequences)]
    return perplexities(Computer(model, token_budget, precision), proteins, exact, masking)


def perplexities(
    computer: Computer,
    proteins: Sequence[np.ndarray],
    exact: bool = True,
    masking: Masking | None = None,
    progress: Callable[[int], None] | None = None,
) -> np.ndarray:
    """The same of tokens (L_i,) uint8 each; `progress` as in `masked_own`."""
    if computer.model.config.causal:
        own = [log_p[:-1] for log_p in following(computer, proteins)]
    elif exact:
        own = masked_own(computer, proteins, progress)
    else:
        own = unmasked_own(computer, proteins, masking or Masking())
    result = np.full(len(proteins), np.nan)
    for i, (tokens, log_p) in enumerate(zip(proteins, own, strict=True)):
        known = log_p[COUNTED[tokens]]
        if not np.isfinite(known).all():
            raise UserError(
                "the model's answers are not finite numbers: its training went wrong; take an earlier checkpoint"
            )
        if len(known):
            result[i] = np.exp(-known.mean())
    return result


def write_perplexities(
    computer: Computer,
    records: Iterable[Record],
    path: Path | None,
    exact: bool = True,
    masking: Masking | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Writes a table of identifier, length and (pseudo-)perplexity, separated by tabs, in the order of the records.

    Args:
        computer: of the model.
        records: any number; some are held at a time.
        path: of the table, which appears when it is complete; None is standard output.
        exact, masking: see `pseudo_perplexity`.
        progress: called with the residues done, and 0, since how many there are is not known beforehand.

    Returns:
        What was computed and what was changed, in lines.

    Raises:
        UserError: for records that cannot be read, or none.
    """
    proteins = residues = without = done = 0

    def count(more: int) -> None:
        nonlocal done
        done += more
        if progress:
            progress(done, 0)

    with ExitStack() as stack:
        file = sys.stdout
        if path:
            file = stack.enter_context(stack.enter_context(atomic_output(path)).open("w"))
        name = "perplexity" if computer.model.config.causal else "pseudo_perplexity"
        for window in windows(records, lambda record: len(record.sequence)):
            rows = [row[1:-1] for row in encoded(computer.model, [record.sequence for record in window])]
            values = perplexities(computer, rows, exact, masking, count).tolist()
            if not proteins:
                print("id", "length", name, sep="\t", file=file)
            for record, value in zip(window, values, strict=True):
                print(record.id, len(record.sequence), f"{value:.4f}", sep="\t", file=file)
                without += math.isnan(value)
            proteins += len(window)
            residues += sum(map(len, rows))
            count(residues - done)
        if not proteins:
            raise UserError("no record has a sequence; expected at least one protein")
    lines = [f"{counted(proteins, 'protein')}, {counted(residues, 'residue')}"]
    if without:
        lines.append(f"{without:,} without any of the twenty amino acids: nan")
    return lines + (records.tally.describe() if isinstance(records, FastaFile) else [])


def masked_own(
    computer: Computer, proteins: Sequence[np.ndarray], progress: Callable[[int], None] | None = None
) -> list[np.ndarray]:
    """log p(x_i | x with i masked) of each residue that is one of the twenty, NaN for others; (L,) float64 each.

    The rows of all proteins, one for each residue, are batched together; `progress` is called with the size of each.
    """
    check_bidirectional(computer.model, "a pseudo-likelihood")
    model = computer.model
    frames = [framed(model, tokens) for tokens in proteins]
    which = np.repeat(np.arange(len(proteins)), [len(tokens) for tokens in proteins])
    places = np.concatenate([np.arange(len(tokens)) for tokens in proteins])
    kept = COUNTED[np.concatenate(proteins)]
    which, places = which[kept], places[kept]

    def read(inputs: Tensor, key_mask: Tensor, batch: np.ndarray) -> np.ndarray:
        each, at = np.arange(len(batch)), places[batch] + 1
        own = inputs[each, at].cpu().numpy()
        inputs = inputs.clone()
        inputs[each, at] = MASK
        return log_softmax(model.logits(model.hidden(inputs, key_mask)[each, at]))[each, own]

    values = np.empty(len(which))
    for batch, log_p in computer([frames[i] for i in which], read):
        values[batch] = log_p
        if progress:
            progress(len(batch))
    result = [np.full(len(tokens), np.nan) for tokens in proteins]
    ends = np.searchsorted(which, np.arange(1, len(proteins)))
    for row, at, own in zip(result, np.split(places, ends), np.split(values, ends), strict=True):
        row[at] = own
    return result


def unmasked_own(computer: Computer, proteins: Sequence[np.ndarray], masking: Masking) -> list[np.ndarray]:
    """An estimate of `masked_own` from one pass for each protein, with nothing masked; NaN for other letters.

    In training, of the residues to predict a share k is shown as it is and a share r is exchanged for one of the twenty
    drawn uniformly. Shown residue t in a context that without it gives q to each amino acid, the best answer is by
    Bayes' rule p(t) = q(t) (k + r/20) / (k q(t) + r/20); solved for what a mask in its place would give,

        q(t) = p(t) (r/20) / (k (1 - p(t)) + r/20).

    It is exact for a model that has learned this rule; one that has not, or sees fewer masks around than in training,
    makes it an approximation. That a single pass holds the masked probabilities is an idea of Kantroo et al. 2024 ("one
    fell swoop", who fit a network to them) and of Gordon et al. 2024, who derive them from k and r.

    Raises:
        UserError: for a masking without exchanged residues, after which p(t) is 1 whatever the context.
    """
    check_bidirectional(computer.model, "a pseudo-likelihood")
    keep, exchanged = masking.keep, masking.random / len(STANDARD)
    if keep and not exchanged:
        raise UserError(
            "a model that was never shown an exchanged residue in training says nothing about those that it sees; "
            "compute the pseudo-perplexity without --one-pass"
        )

    def read(inputs: Tensor, key_mask: Tensor, batch: np.ndarray) -> np.ndarray:
        log_p = log_softmax(computer.model(inputs, key_mask))
        return np.take_along_axis(log_p, inputs.cpu().numpy()[..., None], axis=-1)[..., 0]

    result = [np.empty(0)] * len(proteins)
    for batch, seen in computer([framed(computer.model, tokens) for tokens in proteins], read):
        for i, log_p in zip(batch, seen, strict=True):
            own = log_p[1 : len(proteins[i]) + 1]
            if keep:
                own = own + np.log(exchanged) - np.log(exchanged - keep * np.expm1(own))
            result[i] = np.where(COUNTED[proteins[i]], own, np.nan)
    return result


def following(
    computer: Computer, proteins: Sequence[np.ndarray], progress: Callable[[int], None] | None = None
) -> list[np.ndarray]:
    """log p of each residue and then of the end, given all before it; (L + 1,) float64 each, of a causal model.

    `progress` is called with how many proteins a batch had.
    """

    def read(inputs: Tensor, key_mask: Tensor, batch: np.ndarray) -> np.ndarray:
        log_p = log_softmax(computer.model(inputs[:, :-1], key_mask[:, :-1]))
        return np.take_along_axis(log_p, inputs[:, 1:].cpu().numpy()[..., None], axis=-1)[..., 0]

    result = [np.empty(0)] * len(proteins)
    for batch, own in computer([framed(computer.model, tokens) for tokens in proteins], read):
        for i, log_p in zip(batch, own, strict=True):
            result[i] = log_p[: len(proteins[i]) + 1]
        if progress:
            progress(len(batch))
    return result
