"""A blend of what homologs tell of each site, of pairs of sites, and what a language model tells, if there is one.

The probability of amino acid a at site i is proportional to p_i(a) exp(f_i(a)) m_i(a)^w: p is the profile, f the field
of the query's other residues by pairwise couplings (`homology.couplings`), which is 0 where nothing is known of pairs,
and m the model's masked marginals. They become scores as those of the profile do; substitutions of the same variant
also change each other's fields.

The weight w, from 0 to 1, comes from the homologs themselves: clusters of homologs are dealt to five folds, the profile
of the others is tilted by m^w, and w is the one under which the residues of the fold, weighted as in the profile, are
most probable; it shrinks by N / (N + 10), N being the effective number of homologs. So no measured variant is looked
at; a model that tells nothing of the family, or nothing that the profile does not know, gets w = 0; and the score rises
with the probabilities of either.

Legend: L residues of the wild type, N sequences of the alignment.
"""

from typing import Self

import numpy as np

from protlm.homology.alignment import GAP, Alignment
from protlm.homology.couplings import Couplings
from protlm.homology.profile import Profile, site_factors, substitution_scores
from protlm.homology.weights import sequence_weights
from protlm.variants.notation import Variants
from protlm.variants.scorers.language_model import ModelScorer
from protlm.variants.scorers.profile import ProfileScorer

FOLDS = 5
SIMILAR = 0.62
"""Identity of sequences in the same fold."""
GRID = np.linspace(0, 1, 11)
"""Weights that are tried."""
SHRINKAGE = 10.0
"""Effective number of sequences at which the weight is halved."""


class BlendScorer(ProfileScorer):
    """The sum over the substitutions of a variant of the blended log-odds, in nats; see the top of this file.

    Insertions and deletions score as in `ProfileScorer`, plus w times the model's score.

    Args:
        weights: see `ProfileScorer`.
        model: whose scores of single substitutions come from one computation.
    """

    name = "blend"
    weight = 0.0

    def __init__(self, weights: np.ndarray | None = None, model: ModelScorer | None = None) -> None:
        super().__init__(weights)
        self.model = model if model and model.additive else None
        self._refused = model is not None and self.model is None

    def fit(self, wild_type: str, alignment: Alignment | None = None) -> Self:
        super().fit(wild_type, alignment)
        self.couplings = Couplings(self.alignment)
        log_p = self.profile.log_p + self.couplings.field
        if self.model:
            gains = self.model.gains(wild_type)
            self.weight = weight_of(self.alignment, gains)
            log_p = log_p + self.weight * np.nan_to_num(gains)
        log_p -= np.logaddexp.reduce(log_p, axis=1, keepdims=True)
        self.odds = substitution_scores(log_p, wild_type)
        self.factors = site_factors(log_p) * (1 if self.weights is None else self.weights)
        return self

    def score(self, variants: Variants) -> np.ndarray:
        scores = super().score(variants)
        mutual = self.couplings.interactions(variants.variant, variants.position, variants.mutant, self.factors)
        scores[: len(mutual)] += mutual
        if (numbers := sorted(variants.indels)) and self.model and self.weight:
            scores[numbers] += self.weight * self.model.score(variants.take(numbers))
        return scores

    @property
    def notes(self) -> list[str]:
        if self._refused:
            return ["the model is left out, since a blend requires its marginals"]
        return [f"weight of the model {self.weight:.2f}"] if self.model else []


def weight_of(alignment: Alignment, gains: np.ndarray) -> float:
    """The weight w of a model with log-probabilities `gains` (L, 20), up to a constant for each site.

    Sites with NaN count nothing. 0 if the homologs make fewer than two clusters.
    """
    codes = alignment.codes
    folds = cluster_labels(codes[1:], SIMILAR) % FOLDS
    if not folds.any():
        return 0.0
    weights, gains = sequence_weights(codes)[1:], np.nan_to_num(gains)
    likelihood = np.zeros(len(GRID))
    for fold in np.unique(folds):
        held_out = folds == fold
        log_p = Profile(alignment.select([True, *~held_out])).log_p
        counts = np.stack([weights[held_out] @ (codes[1:][held_out] == letter) for letter in range(GAP)], axis=1)
        for number, weight in enumerate(GRID):
            log_q = log_p + weight * gains
            likelihood[number] += (counts * (log_q - np.logaddexp.reduce(log_q, axis=1, keepdims=True))).sum()
    known = weights.sum()
    return float(GRID[likelihood.argmax()] * known / (known + SHRINKAGE))


def cluster_labels(codes: np.ndarray, identity: float) -> np.ndarray:
    """(N,) int64: clusters by number; a sequence joins the first whose founder shares `identity` of its residues.

    >>> cluster_labels(np.array([[1, 2, 3, 4], [5, 6, 7, 8], [1, 2, 3, 20]]), 0.62).tolist()
    [0, 1, 0]
    """
    labels, founders = np.empty(len(codes), dtype=np.int64), np.empty_like(codes)
    count = 0
    for number, row in enumerate(codes):
        residues = row != GAP
        shared = (founders[:count, residues] == row[residues]).sum(1)
        alike = np.flatnonzero(shared >= identity * max(1, residues.sum()))
        if not len(alike):
            founders[count] = row
            alike, count = np.array([count]), count + 1
        labels[number] = alike[0]
    return labels
