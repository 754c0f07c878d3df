"""A model's predictions at each position of a protein, and the probabilities of the protein's own residues.

The same for sequences of other alphabets; tokens are those of the model's alphabet.

Legend: L residues of a protein x, x_i its residue i; "x with i masked" is x with `<mask>` in place of residue i; V
tokens of the alphabet, 33 of proteins, and A letters that are predicted, 20 of proteins. All logarithms are natural,
and probabilities are over all V tokens unless stated otherwise.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from torch import Tensor

from protlm.batching.masking import Masking
from protlm.errors import UserError
from protlm.inference.engine import Computer, framed
from protlm.inference.token_batch import TokenBatch
from protlm.performer import Performer
from protlm.progress import Advance
from protlm.sequence.alphabets import PROTEIN, alphabet_of
from protlm.sequence.letters import Alphabet


def log_softmax(logits: Tensor) -> np.ndarray:
    """log p (..., V) float64 over the whole vocabulary, from logits (..., V)."""
    return logits.float().cpu().double().log_softmax(-1).numpy()


def of_letters(log_p: np.ndarray, alphabet: Alphabet = PROTEIN) -> np.ndarray:
    """log p (..., A) over the letters that are predicted, in the order of `definite`, renormalised, from (..., V)."""
    chosen = log_p[..., alphabet.drawn]
    return chosen - np.logaddexp.reduce(chosen, axis=-1, keepdims=True)


def check_bidirectional(model: Performer, what: str, instead: str = "") -> None:
    """Raises a UserError if the model is causal."""
    if model.config.causal:
        why = f"a causal one cannot see {alphabet_of(model.config.alphabet).unit}s after a mask"
        raise UserError(f"{what} requires a bidirectional model: {why}{instead}")


def one_pass(computer: Computer, tokens: np.ndarray) -> np.ndarray:
    """log p(. | x) (L, V) float64 of one protein, tokens (L,), with nothing masked."""
    rows = [framed(computer.model, tokens)]
    ((_, result),) = computer(rows, lambda batch, _: log_softmax(batch.logits(computer.model)[1:-1]))
    return result


def masked(
    computer: Computer, tokens: np.ndarray, positions: np.ndarray | None = None, progress: Advance | None = None
) -> np.ndarray:
    """log p(. | x with i masked) (n, V) float64 of one protein; one forward pass per position (n,), by default all."""
    positions = np.arange(len(tokens)) if positions is None else positions
    result = np.empty((len(positions), computer.model.config.vocab_size))
    for batch, log_p in _masked_one_by_one(computer, [tokens], np.zeros_like(positions), positions, progress):
        result[batch] = log_p
    return result


def masked_own(computer: Computer, proteins: Sequence[np.ndarray], report: Advance | None = None) -> list[np.ndarray]:
    """log p(x_i | x with i masked) of each residue, (L,) float64 per protein; NaN where x_i is not predicted.

    All positions of all proteins are batched together.
    """
    check_bidirectional(computer.model, "a pseudo-likelihood")
    tokens = np.concatenate(proteins)
    which = np.repeat(np.arange(len(proteins)), [len(protein) for protein in proteins])
    positions = np.concatenate([np.arange(len(protein)) for protein in proteins])
    known = np.flatnonzero(alphabet_of(computer.model.config.alphabet).is_definite[tokens])
    result = np.full(len(tokens), np.nan)
    for batch, log_p in _masked_one_by_one(computer, proteins, which[known], positions[known], report):
        result[known[batch]] = _of_tokens(log_p, tokens[known[batch]])
    return np.split(result, np.cumsum([len(protein) for protein in proteins])[:-1])


def unmasked_own(computer: Computer, proteins: Sequence[np.ndarray], masking: Masking) -> list[np.ndarray]:
    """An estimate of `masked_own` from one forward pass per protein with nothing masked.

    In training, a fraction k of the residues to predict is shown unchanged and a fraction r is replaced by one of the
    twenty, drawn uniformly. If the context alone gives q to each amino acid, then by Bayes' rule the best prediction
    for the shown residue t is p(t) = q(t) (k + r/20) / (k q(t) + r/20). Solved for the prediction at a mask,

        q(t) = p(t) (r/20) / (k (1 - p(t)) + r/20).

    This is exact for a model that has learned the rule, and an approximation otherwise, also because fewer positions
    are masked than in training. Kantroo et al. 2024 ("one fell swoop") predict masked probabilities from one pass with
    a fitted network; Gordon et al. 2024 derive them from k and r.

    Raises:
        UserError: for a masking that replaces no residues: then p(t) is 1 whatever the context.
    """
    check_bidirectional(computer.model, "a pseudo-likelihood")
    alphabet = alphabet_of(computer.model.config.alphabet)
    keep, exchanged = masking.keep, masking.random / len(alphabet.drawn)
    if keep and not exchanged:
        raise UserError(
            "one_pass requires a model that was trained with randomly replaced residues (masking.random above 0): "
            "others copy the residues that they see; mask one residue at a time",
            "one_pass",
        )

    def read(batch: TokenBatch, _: np.ndarray) -> list[np.ndarray]:
        log_p = log_softmax(batch.logits(computer.model))
        return batch.split(_of_tokens(log_p, batch.tokens.flatten().cpu().numpy()), 1)

    result = [np.empty(0)] * len(proteins)
    for batch, seen in computer([framed(computer.model, tokens) for tokens in proteins], read):
        for i, own in zip(batch, seen, strict=True):
            if keep:
                own = own + np.log(exchanged) - np.log(exchanged - keep * np.expm1(own))
            result[i] = np.where(alphabet.is_definite[proteins[i]], own, np.nan)
    return result


def causal_own(computer: Computer, proteins: Sequence[np.ndarray], report: Advance | None = None) -> list[np.ndarray]:
    """log p(x_i | x_1 ... x_(i-1)) of each residue and of `<eos>`, (L + 1,) float64 per protein, of a causal model."""
    rows = [framed(computer.model, tokens) for tokens in proteins]

    def read(batch: TokenBatch, chosen: np.ndarray) -> list[np.ndarray]:
        log_p = batch.split(log_softmax(batch.logits(computer.model)))
        return [_of_tokens(one, rows[i][1:]) for i, one in zip(chosen, log_p, strict=True)]

    result = [np.empty(0)] * len(proteins)
    for batch, own in computer([row[:-1] for row in rows], read):  # nothing is predicted from `<eos>`
        for i, log_p in zip(batch, own, strict=True):
            result[i] = log_p
        if report:
            report(len(batch))
    return result


def _masked_one_by_one(
    computer: Computer,
    proteins: Sequence[np.ndarray],
    which: np.ndarray,
    positions: np.ndarray,
    progress: Advance | None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches of (indices, log p (batch, V)) for n rows: protein which[k] with positions[k] masked."""
    model = computer.model
    frames, mask = [framed(model, tokens) for tokens in proteins], alphabet_of(model.config.alphabet).mask

    def read(batch: TokenBatch, chosen: np.ndarray) -> np.ndarray:
        places = batch.positions(np.arange(len(chosen)), positions[chosen] + 1)
        return log_softmax(batch.replaced(places, mask).logits(model, places))

    for batch, log_p in computer([frames[i] for i in which], read):
        yield batch, log_p
        if progress:
            progress(len(batch))


def _of_tokens(log_p: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """log p (...) of given tokens (...), from (..., V)."""
    return np.take_along_axis(log_p, tokens[..., None], axis=-1)[..., 0]
