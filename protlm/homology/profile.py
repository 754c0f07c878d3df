"""What an alignment tells about each site of the query: amino acid probabilities, and scores of substitutions.

1. Sequences that cover half of the query, or 50 residues of it, have weights w = w0 exp(k (identity - 1)): w0 is 1 /
   the number of near relatives, and identity that of the sequence and the query, so that near homologs count more.
2. f_ia is the weighted frequency among the sequences with a residue at site i, and N_i their effective number by Kish,
   (sum w)^2 / sum(w^2 / w0), since unequal weights are worth fewer sequences. Pseudocounts follow PSI-BLAST (Altschul
   et al. 1997): p_ia = (N_i f_ia + b g_ia) / (N_i + b), g_ia = sum_c f_ic P(a|c) by BLOSUM62.
3. Scores are KL_i^q log(p_ia / background_a), KL_i = sum_a p_ia log(p_ia / background_a), so that conserved sites count
   more, minus that of the wild type, plus c B(wild type, a), B of BLOSUM62. The wild type has 0.

Without homologs, p_i of the other amino acids is proportional to BLOSUM62's P(a|wild type).

Legend: N sequences, L sites of the query, amino acids a in the order of `STANDARD`.
"""

from functools import cached_property

import numpy as np

from protlm.homology.alignment import GAP, Alignment
from protlm.homology.blosum62 import BACKGROUND, blosum62_matrix, substitution_probabilities
from protlm.homology.weights import sequence_weights
from protlm.sequence.alphabet import STANDARD

LEAST_COVERAGE, LEAST_RESIDUES = 0.5, 50
"""Fraction or number of the query's residues that a sequence must cover, whichever is less: the homologs of a long
protein may share one of its domains only."""
NEARNESS = 3.0
"""k."""
PSEUDOCOUNTS = 10.0
"""b, in sequences."""
CONSERVATION = 0.25
"""q."""
BLOSUM_SHARE = 0.2
"""c, in nats per half bit."""


class Profile:
    """The profile of a family.

    Args:
        alignment: of the query with its homologs; the query alone will do.

    Attributes:
        query: L residues.
        redundancy_weights: (N,) float64, w0 of the sequences; 0 for those that cover too little.
        weights: (N,) float64, w; 0 for the same.
        effective: (L,) float64, N_i: the effective number of sequences with a residue at each site, the query's
            included; 0 where the query alone has one, and that is none of the twenty.
        log_p: (L, 20) float64, log p_ia.
    """

    def __init__(self, alignment: Alignment) -> None:
        codes, self.query = alignment.codes, alignment.query
        kept = covering(codes)
        w0 = sequence_weights(codes[kept])
        w = w0 * _nearness(codes[kept])
        self.redundancy_weights, self.weights = np.zeros(len(codes)), np.zeros(len(codes))
        self.redundancy_weights[kept], self.weights[kept] = w0, w
        residue = codes < GAP
        total = self.weights @ residue
        self.effective = np.divide(total**2, w**2 / w0 @ residue[kept], out=np.zeros(len(total)), where=total > 0)
        self.log_p = log_frequencies(codes, self.weights, self.effective)

    @property
    def conservation(self) -> np.ndarray:
        """(L,) float64: KL_i, the information of each site in nats."""
        return conservation(self.log_p)

    @cached_property
    def log_odds(self) -> np.ndarray:
        """(L, 20) float64: scores of substitutions, see `substitution_scores`."""
        return substitution_scores(self.log_p, self.query)


def covering(codes: np.ndarray) -> np.ndarray:
    """(N,) bool: the sequences that cover enough of the query, and the query itself."""
    kept = (codes < GAP).sum(1) >= min(LEAST_COVERAGE * codes.shape[1], LEAST_RESIDUES)
    kept[0] = True
    return kept


def log_frequencies(codes: np.ndarray, weights: np.ndarray, effective: np.ndarray | None = None) -> np.ndarray:
    """(L, 20) float64: log p_ia with PSI-BLAST's pseudocounts, from codes (N, L) and weights (N,).

    `effective` (L,) is the number N_i of sequences that the frequencies stand for; by default the sum of their weights.
    """
    counts = np.stack([weights @ (codes == letter) for letter in range(GAP)], axis=1)
    total = counts.sum(1, keepdims=True)
    frequencies = np.divide(counts, total, out=np.tile(BACKGROUND, (len(counts), 1)), where=total > 0)
    number = total if effective is None else effective[:, None]
    p = number * frequencies + PSEUDOCOUNTS * frequencies @ substitution_probabilities()
    return np.log(p / p.sum(1, keepdims=True))


def conservation(log_p: np.ndarray) -> np.ndarray:
    """(L,) float64: KL_i of log-probabilities (L, 20), in nats."""
    return (np.exp(log_p) * (log_p - np.log(BACKGROUND))).sum(1)


def site_factors(log_p: np.ndarray) -> np.ndarray:
    """(L,) float64: KL_i^q, by which the log-odds of a site are multiplied."""
    return np.maximum(conservation(log_p), 0) ** CONSERVATION


def substitution_scores(log_p: np.ndarray, query: str) -> np.ndarray:
    """(L, 20) float64: scores of all substitutions; the wild type has 0, where it is one of the twenty.

    Args:
        log_p: (L, 20), of a profile, or of one to which other terms have been added; rows are normalised.
        query: L residues.
    """
    scores = site_factors(log_p)[:, None] * (log_p - np.log(BACKGROUND))
    matrix = blosum62_matrix()
    for site, letter in enumerate(query):
        if (wild_type := STANDARD.find(letter)) >= 0:
            scores[site] += BLOSUM_SHARE * matrix[wild_type] - scores[site, wild_type]
            scores[site, wild_type] = 0
    return scores


def _nearness(codes: np.ndarray) -> np.ndarray:
    """exp(k (identity - 1)), (N,) float64, of sequences and the first of them."""
    residue = codes < GAP
    identity = ((codes == codes[0]) & residue).sum(1) / np.maximum(1, residue.sum(1))
    return np.exp(NEARNESS * (identity - 1))
