"""A protein language model: how much more probable the variant is to it than the wild type."""

from typing import Self

import numpy as np

from protlm.homology.alignment import Alignment
from protlm.inference.engine import Computer
from protlm.progress import Progress
from protlm.variants.notation import Variants, all_singles
from protlm.variants.score import chosen_method, score_variants
from protlm.variants.score_matrix import matrix_of


class ModelScorer:
    """Masked or wild-type marginals, pseudo-log-likelihood or causal likelihood, in nats; see `protlm.variants.score`.

    Args:
        computer: of the model.
        method: one of `score.METHODS`, by default that of the model's direction.
        progress: called with the numbers of passes done and in total.
    """

    name = "model"

    def __init__(self, computer: Computer, method: str | None = None, progress: Progress | None = None) -> None:
        self.computer, self.method, self.progress = computer, chosen_method(computer.model, method), progress
        self._gains: dict[str, np.ndarray] = {}

    @property
    def notes(self) -> list[str]:
        return [f"method of the model {self.method}"]

    @property
    def additive(self) -> bool:
        """Scores of single substitutions come from one computation and add up."""
        return self.method.endswith("marginals")

    def fit(self, wild_type: str, alignment: Alignment | None = None) -> Self:
        return self

    def score(self, variants: Variants) -> np.ndarray:
        if not self.additive or not len(variants.position):
            return score_variants(self.computer, variants, self.method, self.progress)
        gains = self.gains(variants.sequence)[variants.position, variants.mutant]
        scores = np.bincount(variants.variant, gains, minlength=len(variants)).astype(float)
        scores[~variants.substitutions] = np.nan
        if numbers := sorted(variants.indels):
            scores[numbers] = score_variants(self.computer, variants.take(numbers), self.method, self.progress)
        return scores

    def gains(self, wild_type: str) -> np.ndarray:
        """Scores (L, 20) of all single substitutions, 0 for the wild type; computed once."""
        if wild_type not in self._gains:
            singles = all_singles(wild_type)
            values = score_variants(self.computer, singles, self.method, self.progress)
            self._gains = {wild_type: matrix_of(singles, values)}
        return self._gains[wild_type]
