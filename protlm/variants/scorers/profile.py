"""A profile of the protein's homologs, site by site; for insertions and deletions, their profile HMM."""

from typing import Self

import numpy as np

from protlm.homology.alignment import Alignment
from protlm.homology.hmm import LONGEST, forward_log_odds
from protlm.homology.profile import Profile
from protlm.variants.notation import Variants


class ProfileScorer:
    """The sum of log p(mt at i) - log p(wt at i) over the substitutions of a variant, in nats.

    Insertions and deletions score the difference of the forward log-odds of variant and wild type under the profile
    HMM of the same alignment, also in nats; NaN in proteins that are too long for that.

    Args:
        weights: (L,) float64, by which the terms of each site are multiplied, such as 1 - its relative solvent
            accessibility (Tsishyn et al. 2025, RSALOR).
    """

    name = "profile"
    alignment: Alignment
    profile: Profile

    def __init__(self, weights: np.ndarray | None = None) -> None:
        self.weights = weights
        self._indels: tuple[Variants, np.ndarray] | None = None

    def fit(self, wild_type: str, alignment: Alignment | None = None) -> Self:
        """Fits the profile to an alignment, of the wild type alone if there is none."""
        self.alignment = alignment or Alignment(wild_type, ["query"], [wild_type])
        self.profile, self._indels = Profile(self.alignment), None
        return self

    def score(self, variants: Variants) -> np.ndarray:
        return self.summed(variants, self.profile.log_odds)

    def summed(self, variants: Variants, odds: np.ndarray) -> np.ndarray:
        """Scores (n,) with other log-odds (L, 20) of substitutions; insertions and deletions are computed once."""
        gain = odds[variants.position, variants.mutant] - odds[variants.position, variants.wild_type]
        if self.weights is not None:
            gain *= self.weights[variants.position]
        scores = np.bincount(variants.variant, gain, minlength=len(variants)).astype(float)
        scores[~variants.substitutions] = np.nan
        numbers = sorted(variants.indels)
        if numbers and len(variants.sequence) <= LONGEST:
            if self._indels is None or self._indels[0] is not variants:
                sequences = [variants.sequence, *variants.take(numbers).sequences()]
                own, *others = forward_log_odds(self.alignment, sequences)
                self._indels = variants, np.array(others) - own
            scores[numbers] = self._indels[1]
        return scores
