"""What an alignment tells about each site of the query: amino acid probabilities, and scores of substitutions.

Legend: N sequences, L sites of the query, amino acids a in the order of `STANDARD`.

1. Sequences that cover half of the query have weights w = w0 exp(k (identity - 1)): w0 is 1 / the number of near
   relatives, and identity that of the sequence and the query, so that near homologs count more. The weights are scaled
   to Kish's effective size, (sum w)^2 / sum(w^2 / w0), since unequal weights are worth fewer sequences.
2. N_i is the weight of the sequences with a residue at site i, f_ia the weighted frequency. Pseudocounts follow
   PSI-BLAST (Altschul et al. 1997): p_ia = (N_i f_ia + b g_ia) / (N_i + b), g_ia = sum_c f_ic P(a|c) by BLOSUM62.
3. Scores are KL_i^q log(p_ia / background_a), KL_i = sum_a p_ia log(p_ia / background_a), so that conserved
   sites count more, plus c B(wild type, a), B of BLOSUM62. The wild type has 0.

Without homologs, p_i of the other amino acids is proportional to BLOSUM62's P(a|wild type).
"""

from functools import cached_property

import numpy as np

from protlm.homology.alignment import GAP, Alignment
from protlm.homology.blosum62 import BACKGROUND, blosum62_matrix, substitution_probabilities
from protlm.homology.weights import sequence_weights
from protlm.sequence.alphabet import STANDARD

LEAST_COVERAGE = 0.5
"""Fraction of the query's residues that a sequence must cover."""
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
        weights: (N,) float64, of the sequences; 0 for those that cover too little.
        effective: (L,) float64, N_i: the effective number of sequences with a residue at each site, the query's
            included.
        log_p: (L, 20) float64, log p_ia.
    """

    def __init__(self, alignment: Alignment) -> None:
        codes, self.query = alignment.codes, alignment.query
        self.weights = _weights(codes)
        one_hot = np.stack([self.weights @ (codes == letter) for letter in range(GAP)], axis=1)
        self.effective = one_hot.sum(1)
        known = self.effective[:, None] > 0
        frequencies = np.divide(
            one_hot, self.effective[:, None], out=np.tile(BACKGROUND, (len(codes[0]), 1)), where=known
        )
        pseudo = frequencies @ substitution_probabilities()
        p = (one_hot + PSEUDOCOUNTS * pseudo) / (self.effective[:, None] + PSEUDOCOUNTS)
        self.log_p = np.log(p / p.sum(1, keepdims=True))

    @cached_property
    def conservation(self) -> np.ndarray:
        """(L,) float64: KL_i, the information of each site in nats."""
        return (np.exp(self.log_p) * (self.log_p - np.log(BACKGROUND))).sum(1)

    @cached_property
    def log_odds(self) -> np.ndarray:
        """(L, 20) float64: scores of substitutions; the wild type has 0, where it is one of the twenty."""
        scores = self.conservation[:, None] ** CONSERVATION * (self.log_p - np.log(BACKGROUND))
        matrix = blosum62_matrix()
        for site, letter in enumerate(self.query):
            if (wild_type := STANDARD.find(letter)) >= 0:
                scores[site] += BLOSUM_SHARE * matrix[wild_type]
                scores[site] -= scores[site, wild_type]
        return scores


def _weights(codes: np.ndarray) -> np.ndarray:
    """(N,) float64, see the top of this file."""
    residue = codes < GAP
    kept = residue.mean(1) >= LEAST_COVERAGE
    kept[0] = True
    codes, residue = codes[kept], residue[kept]
    w0 = sequence_weights(codes)
    identity = ((codes == codes[0]) & residue).sum(1) / np.maximum(1, residue.sum(1))
    w = w0 * np.exp(NEARNESS * (identity - 1))
    weights = np.zeros(len(kept))
    weights[kept] = w * w.sum() / (w**2 / w0).sum()
    return weights
