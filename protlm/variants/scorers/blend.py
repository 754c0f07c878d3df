"""A blend of a profile and a language model, weighted by what the homologs themselves say about the model.

The model tilts the profile: q_i(a) is proportional to p_i(a) (m_i(a) / b(a))^w, where p_i is the profile at site i, m_i
the model's probabilities there and b the amino acids' background. The weight w, from 0 to 1, is the one under which
held-out homologs are most probable: clusters of homologs are dealt to five folds, the profile of the others is tilted,
and the residues of the fold count, weighted as in the profile. So no measured variant is looked at; a model that says
nothing about the family, or nothing that the profile does not know, gets w = 0, and the score rises with both parts.

Legend: L residues of the wild type, N sequences of the alignment.
"""

from typing import Self

import numpy as np

from protlm.homology.alignment import GAP, Alignment
from protlm.homology.blosum62 import BACKGROUND
from protlm.homology.profile import Profile
from protlm.homology.weights import sequence_weights
from protlm.variants.notation import Variants
from protlm.variants.scorers.language_model import ModelScorer
from protlm.variants.scorers.profile import ProfileScorer

FOLDS = 5
SIMILAR = 0.62
"""Identity of sequences in the same fold."""
GRID = np.linspace(0, 1, 41)
"""Weights that are tried."""


class BlendScorer:
    """The score of the profile plus w times that of the model, in nats; see the top of this file for w."""

    name = "blend"
    weight: float

    def __init__(self, profile: ProfileScorer, model: ModelScorer) -> None:
        self.profile, self.model = profile, model

    def fit(self, wild_type: str, alignment: Alignment | None = None) -> Self:
        self.profile.fit(wild_type, alignment)
        self.model.fit(wild_type, alignment)
        self.weight = weight_of(self.profile.alignment, self.model.gains(wild_type))
        return self

    def score(self, variants: Variants) -> np.ndarray:
        scores = self.profile.score(variants)
        return scores + self.weight * self.model.score(variants) if self.weight else scores

    @property
    def notes(self) -> list[str]:
        return [f"weight of the model {self.weight:.2f}"]


def weight_of(alignment: Alignment, gains: np.ndarray) -> float:
    """The weight w of a model with scores `gains` (L, 20) of all single substitutions; sites with NaN count nothing.

    0 if the homologs make fewer than two clusters.
    """
    codes = alignment.codes
    folds = cluster_labels(codes[1:], SIMILAR) % FOLDS
    if len(folds) < 2 or not folds.any():
        return 0.0
    weights = sequence_weights(codes)[1:]
    tilt = np.nan_to_num(gains) - np.log(BACKGROUND)
    likelihood = np.zeros(len(GRID))
    for fold in np.unique(folds):
        held_out = folds == fold
        log_p = Profile(alignment.select([True, *~held_out])).log_p
        counts = np.stack([weights[held_out] @ (codes[1:][held_out] == letter) for letter in range(GAP)], axis=1)
        for number, weight in enumerate(GRID):
            log_q = log_p + weight * tilt
            likelihood[number] += (counts * (log_q - np.logaddexp.reduce(log_q, axis=1, keepdims=True))).sum()
    return float(GRID[likelihood.argmax()])


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
