"""Similarity of the twenty amino acids by a model's embeddings and predictions, and its agreement with BLOSUM62.

Matrices (20, 20) are in the order of `STANDARD`.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch

from benchmarks.interpret.residue_attention import off_diagonal
from protlm.errors import UserError
from protlm.homology.blosum62 import blosum62_matrix
from protlm.inference.engine import TOKEN_BUDGET, Computer, encoded, windows
from protlm.inference.probabilities import log_softmax, of_letters
from protlm.inference.token_batch import TokenBatch
from protlm.performer import Performer
from protlm.sequence.alphabet import MASK, STANDARD, STANDARD_TOKENS, TOKENS

SHARE = 0.15
"""Share of residues masked at once, as in training."""


class Agreement(NamedTuple):
    """Correlation of two similarities over the 190 pairs of different amino acids; NaN where one does not vary.

    The p-values are those of the one-sided permutation test of Mantel (1967): the fraction of relabellings of the amino
    acids of one matrix, including the identity, with a correlation at least as large.
    """

    pearson: float
    spearman: float
    p_pearson: float
    p_spearman: float


def agreement(
    similarity: np.ndarray, reference: np.ndarray | None = None, permutations: int = 10_000, seed: int = 0
) -> Agreement:
    """Agreement of a similarity with BLOSUM62 or another reference.

    Args:
        similarity: (20, 20), symmetric; the diagonal is ignored.
        reference: (20, 20), symmetric; None for BLOSUM62.
        permutations: number of random relabellings.
        seed: of the relabellings.

    >>> tuple(round(x, 9) for x in agreement(blosum62_matrix() * 2 - 1, permutations=99))
    (1.0, 1.0, 0.01, 0.01)
    """
    from scipy.stats import pearsonr, rankdata, spearmanr

    reference = blosum62_matrix() if reference is None else reference
    x, y = off_diagonal(similarity), off_diagonal(reference)
    if not (np.isfinite(x).all() and np.isfinite(y).all()) or min(np.ptp(x), np.ptp(y)) < 1e-12:
        return Agreement(math.nan, math.nan, math.nan, math.nan)
    rng = np.random.default_rng(seed)
    labels = np.stack([rng.permutation(len(similarity)) for _ in range(permutations)])
    one, other = np.triu_indices(len(similarity), 1)
    chances = []
    for values, target in ((x, y), (rankdata(x), rankdata(y))):
        matrix = np.zeros_like(similarity, dtype=np.float64)
        matrix[one, other] = matrix[other, one] = values - values.mean()
        # relabelling keeps the norms, so inner products have the order of correlations
        products = matrix[labels[:, one], labels[:, other]] @ (target - target.mean())
        true = matrix[one, other] @ (target - target.mean())
        chances.append((1 + int((products >= true - 1e-12 * abs(true)).sum())) / (1 + permutations))
    pearson, spearman = (float(np.asarray(f(x, y)[0])) for f in (pearsonr, spearmanr))
    return Agreement(pearson, spearman, chances[0], chances[1])


def cosine_similarity(vectors: np.ndarray) -> np.ndarray:
    """Cosines (n, n) between vectors (n, D) after subtracting their mean."""
    centred = vectors - vectors.mean(0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True).clip(1e-12)
    return unit @ unit.T


def residue_embedding(model: Performer) -> np.ndarray:
    """The rows (20, D) float64 of the embedding matrix for the twenty amino acids."""
    return model.embedding.weight.detach().cpu().double().numpy()[STANDARD_TOKENS]


def contextual_embedding(model: Performer, sequences: Iterable[str], token_budget: int = TOKEN_BUDGET) -> np.ndarray:
    """The mean output (20, D) float64 of the final LayerNorm over all residues of each type.

    Raises:
        UserError: for a sequence that is empty or has an unknown letter, or if one of the twenty does not occur.
    """
    sums = np.zeros((len(TOKENS), model.config.width + 1))

    def read(batch: TokenBatch, _: np.ndarray) -> np.ndarray:
        hidden = batch.hidden(model).float()
        total = hidden.new_zeros(len(TOKENS), hidden.shape[-1] + 1)
        counted = torch.nn.functional.pad(hidden, (0, 1), value=1.0)
        return total.index_add(0, batch.tokens.flatten(), counted).cpu().numpy()

    for window in windows(sequences, len):
        for _, total in Computer(model, token_budget)(encoded(model, window), read):
            sums += total
    chosen = sums[STANDARD_TOKENS]
    _check_all(chosen[:, -1])
    return chosen[:, :-1] / chosen[:, -1:]


def predicted(
    model: Performer, sequences: Iterable[str], seed: int = 0, token_budget: int = TOKEN_BUDGET
) -> np.ndarray:
    """The mean predicted probability (20, 20) float64 of amino acid b where a protein has a; rows sum to 1.

    A bidirectional model predicts 15 % of the residues of each protein (at least one), masked at once; a causal one
    predicts every residue from those before it. The first of several residues is not scored: it is nearly always the
    start methionine, predictable from its position.

    Args:
        model: in evaluation mode.
        sequences: amino acids in one-letter code.
        seed: of the masks, together with the number of the protein.
        token_budget: maximum number of tokens per batch, padding included.

    Raises:
        UserError: for a sequence that is empty or has an unknown letter, or if one of the twenty is never scored.
    """
    sums, first = np.zeros((len(TOKENS), len(STANDARD) + 1)), 0
    for window in windows(sequences, len):
        rows = encoded(model, window)
        masks = [_scored(len(row), model.config.causal, (seed, first + i)) for i, row in enumerate(rows)]

        def read(batch: TokenBatch, chosen: np.ndarray, masks: list[np.ndarray] = masks) -> np.ndarray:
            each = np.repeat(np.arange(len(chosen)), [len(masks[i]) for i in chosen])
            scored = np.concatenate([masks[i] for i in chosen])
            places = batch.positions(each, scored)
            true = batch.tokens.flatten()[places].cpu().numpy()
            if model.config.causal:
                places = places - 1
            else:
                batch = batch.replaced(places, MASK)
            logits = model.logits(batch.hidden(model)[places])
            p = np.exp(of_letters(log_softmax(logits)))
            total = np.zeros((len(TOKENS), len(STANDARD) + 1))
            np.add.at(total, true, np.concatenate((p, np.ones((len(p), 1))), axis=1))
            return total

        for _, total in Computer(model, token_budget)(rows, read):
            sums += total
        first += len(rows)
    chosen = sums[STANDARD_TOKENS]
    _check_all(chosen[:, -1])
    return chosen[:, :-1] / chosen[:, -1:]


def prediction_similarity(probabilities: np.ndarray) -> np.ndarray:
    """(20, 20), symmetric: mean of log2 p(b|a) / p(b) and log2 p(a|b) / p(a), like BLOSUM's log-odds of aligned pairs.

    Args:
        probabilities: p(b|a) from `predicted`; p(b) is the unweighted mean over the twenty a.
    """
    odds = np.log2(probabilities / probabilities.mean(0))
    return (odds + odds.T) / 2


def _scored(length: int, causal: bool, key: tuple[int, int]) -> np.ndarray:
    """The scored positions of a row of this many tokens, ends included; see `predicted`."""
    first = 1 + (length > 3)
    if causal:
        return np.arange(first, length - 1)
    rng, number = np.random.default_rng(key), length - 1 - first
    chosen = np.flatnonzero(rng.random(number) < SHARE)
    return first + (chosen if len(chosen) else rng.integers(0, number, 1))


def _check_all(counts: np.ndarray) -> None:
    if rare := [letter for letter, count in zip(STANDARD, counts, strict=True) if not count]:
        raise UserError(f"too few proteins: {', '.join(rare)} missing; expected all twenty amino acids")
