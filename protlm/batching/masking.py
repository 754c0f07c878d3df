"""Training objectives: masked language modelling and next-residue prediction, with an explicit generator."""

from dataclasses import dataclass
from numbers import Real

import numpy as np

from protlm.errors import UserError
from protlm.sequence.alphabets import PROTEIN
from protlm.sequence.letters import Alphabet

IGNORE = -100
"""Target of a position without loss (torch's `ignore_index`)."""


@dataclass(frozen=True)
class Masking:
    """BERT's masking: a fraction of the residues is selected; each selected residue is masked, replaced or kept.

    Special tokens and ambiguous letters (X, B, Z) are never selected.

    Args:
        share: fraction of the residues to select.
        mask: fraction of the selected residues to replace by `<mask>`.
        random: fraction to replace by one of the twenty amino acids (or the letters of another alphabet that are
            predicted), drawn uniformly.
        keep: fraction to keep. The three sum to 1. BERT: 0.8, 0.1, 0.1; the code published with the Performer paper:
            0.1 masked, 0.8 random, 0.1 kept.
    """

    share: float = 0.15
    mask: float = 0.8
    random: float = 0.1
    keep: float = 0.1

    def __post_init__(self) -> None:
        parts = (self.mask, self.random, self.keep)
        for name, value in vars(self).items():
            if not isinstance(value, Real):
                raise UserError(f"masking {name} {value!r}: expected a number", "masking")
        if not (0 < self.share <= 1 and min(parts) >= 0 and abs(sum(parts) - 1) <= 1e-6):
            raise UserError(
                f"masking share {self.share:g} with mask {self.mask:g}, random {self.random:g}, keep {self.keep:g}: "
                "expected 0 < share <= 1 and three non-negative fractions that sum to 1",
                "masking",
            )

    def for_evaluation(self) -> "Masking":
        """The same selection with every selected residue masked, since a kept residue could be copied."""
        return Masking(self.share, 1.0, 0.0, 0.0)

    def __call__(
        self, tokens: np.ndarray, generator: np.random.Generator, alphabet: Alphabet = PROTEIN
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Masks one sequence.

        Args:
            tokens: (L,) integers, special tokens included.
            generator: the only source of randomness.
            alphabet: of the tokens.

        Returns:
            inputs (L,) int64; targets (L,) int64, the token where selected, else IGNORE; scored (L,) bool, true where
            the input is now `<mask>`.
        """
        inputs = tokens.astype(np.int64)
        targets = np.full(len(tokens), IGNORE, dtype=np.int64)
        scored = np.zeros(len(tokens), dtype=bool)
        candidates = np.flatnonzero(alphabet.scored[tokens])
        # random rounding keeps the expected fraction exact even for short proteins
        count = int(self.share * len(candidates) + generator.random())
        chosen = generator.permutation(candidates)[:count]
        targets[chosen] = inputs[chosen]
        uniform = generator.random(count)
        masked = chosen[uniform < self.mask]
        replaced = chosen[(uniform >= self.mask) & (uniform < self.mask + self.random)]
        inputs[masked] = alphabet.mask
        inputs[replaced] = alphabet.drawn[generator.integers(len(alphabet.drawn), size=len(replaced))]
        scored[masked] = True
        return inputs, targets, scored


def next_token(tokens: np.ndarray, alphabet: Alphabet = PROTEIN) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inputs, targets and scored positions of next-token prediction, each one shorter than the tokens (L,).

    The loss covers amino acids (the scored letters of the alphabet) and `<eos>`, since generation has to know when to
    stop; only letters are scored.
    """
    inputs, following = tokens[:-1].astype(np.int64), tokens[1:].astype(np.int64)
    scored = alphabet.scored[following]
    return inputs, np.where(scored | (following == alphabet.eos), following, IGNORE), scored
