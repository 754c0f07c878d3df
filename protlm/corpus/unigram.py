"""The unigram baseline: residues predicted from their frequencies."""

import numpy as np

from protlm.sequence.alphabets import PROTEIN, Alphabet


class Unigram:
    """Predicts residues from their frequencies, with Laplace smoothing (1 added to each count).

    Args:
        counts: (V,) int64, how often each token occurs in the training data.
        alphabet: of the tokens.
    """

    def __init__(self, counts: np.ndarray, alphabet: Alphabet = PROTEIN) -> None:
        self._scored = alphabet.scored
        smoothed = np.where(self._scored, counts + 1.0, 0.0)
        self.probabilities = smoothed / smoothed.sum()

    def accuracy(self, targets: np.ndarray) -> float:
        """Fraction of the targets that are the most frequent residue; `targets` (V,) counts each scored token."""
        return float(targets[self.probabilities.argmax()] / max(1, targets.sum()))

    def perplexity(self, targets: np.ndarray) -> float:
        """exp of the mean negative log-probability; `targets` (V,) counts each scored token."""
        log = np.log(self.probabilities, where=self._scored, out=np.zeros(len(self._scored)))
        return float(np.exp(-(targets * log).sum() / max(1, targets.sum())))
