"""A blend of what homologs tell of each site, of pairs of sites, and what a language model tells, if there is one.

x, the score of a substitution by the homologs, comes from the profile and the field of the query's other residues by
pairwise couplings (`homology.couplings`), which is 0 where nothing is known of pairs; substitutions of the same variant
also change each other's fields. m is the model's masked marginal, log p(mt) - log p(wt). The blend is

    x + r sd(x) / sd(m) m,    r = max(0, Spearman's correlation of x and m),

sd and r over all single substitutions of the protein: a model counts as much as it agrees with the family. So no
measured variant is looked at, a model that knows nothing of the family counts nothing, and the score rises with both.
"""

from typing import Self

import numpy as np

from protlm.correlation import spearman
from protlm.homology.alignment import Alignment
from protlm.homology.couplings import Couplings
from protlm.homology.profile import site_factors, substitution_scores
from protlm.variants.notation import Variants, all_singles
from protlm.variants.scorers.language_model import ModelScorer
from protlm.variants.scorers.profile import ProfileScorer


class BlendScorer:
    """The sum over the substitutions of a variant of the blended scores, in nats; see the top of this file.

    Insertions and deletions score as in `ProfileScorer`, x, plus the model's score with the same factor, but at most
    r |x| of it in either direction: likelihoods have no common scale with marginals. A model that knows positions by
    number may lose 130 nats with the first residue of a protein.

    Args:
        profile: if it is fitted to the alignment already, it stays as it is.
        model: whose scores of single substitutions come from one computation; another is left out.

    Attributes:
        agreement: r; 0 without a model.
    """

    name = "blend"
    couplings: Couplings
    agreement = 0.0

    def __init__(self, profile: ProfileScorer, model: ModelScorer | None = None) -> None:
        self.profile = profile
        self.model = model if model and model.additive else None
        self._left_out = model is not None and self.model is None
        self._factor = 0.0

    def fit(self, wild_type: str, alignment: Alignment | None = None) -> Self:
        if alignment is None or getattr(self.profile, "alignment", None) is not alignment:
            self.profile.fit(wild_type, alignment)
        self.couplings = Couplings(self.profile.alignment, self.profile.profile)
        log_p = self.profile.profile.log_p + self.couplings.field
        log_p -= np.logaddexp.reduce(log_p, axis=1, keepdims=True)
        self._odds = substitution_scores(log_p, wild_type)
        weights = self.profile.weights
        self._site_factors = site_factors(log_p) * (1 if weights is None else weights)
        self.agreement = self._factor = 0.0
        if self.model:
            singles = all_singles(wild_type)
            x, m = self._by_homologs(singles), self.model.score(singles)
            if (r := spearman(x, m)) > 0:  # not NaN
                self.agreement, self._factor = r, r * float(x.std() / m.std())
        return self

    def score(self, variants: Variants) -> np.ndarray:
        scores = self._by_homologs(variants)
        if not self.model or not self._factor:
            return scores
        share = self._factor * self.model.score(variants)
        numbers = sorted(variants.indels)
        most = self.agreement * np.abs(scores[numbers])
        share[numbers] = np.clip(share[numbers], -most, most)
        return scores + share

    def _by_homologs(self, variants: Variants) -> np.ndarray:
        scores = self.profile.summed(variants, self._odds)
        mutual = self.couplings.interactions(variants.variant, variants.position, variants.mutant, self._site_factors)
        scores[: len(mutual)] += mutual
        return scores

    @property
    def notes(self) -> list[str]:
        if self._left_out:
            return ["the model is left out, since a blend requires its marginals"]
        return [f"agreement of the model with the family {self.agreement:.2f}"] if self.model else []
