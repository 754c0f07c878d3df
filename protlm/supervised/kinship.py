"""How closely proteins for testing are related to those for training: leakage, and the nearest neighbour.

Legend: n proteins.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from protlm.progress import Progress
from protlm.supervised.features import codes_of

if TYPE_CHECKING:
    from protlm.homology.relatives import Relatives

LEAKED = 0.5
"""Identity from which a training protein is said to leak into the test."""
_VARIANTS = 0.8  # mean identity from which proteins of equal length are variants of one protein


def are_variants(sequences: Sequence[str]) -> bool:
    """Whether proteins have the same length and are alike, as the variants of a mutational scan."""
    if len(sequences) < 2 or len(set(map(len, sequences))) > 1:
        return False
    codes = np.stack([codes_of(sequence) for sequence in sequences])
    return bool((codes == codes[0]).mean() > _VARIANTS)


def parent_of(sequences: Sequence[str]) -> str | None:
    """The most frequent residue at each site of variants of one protein; None for other proteins.

    >>> parent_of(["MKTAYIAKQR", "MKTAYIAKQW", "MKTAYIAKQR"])
    'MKTAYIAKQR'
    """
    if not are_variants(sequences):
        return None
    letters = np.array([list(sequence) for sequence in sequences])
    found = []
    for column in letters.T:
        distinct, counts = np.unique(column, return_counts=True)
        found.append(str(distinct[counts.argmax()]))
    return "".join(found)


def is_variant(sequence: str, parent: str) -> bool:
    """Whether a protein is as long as a parent and like it."""
    same = sum(one == other for one, other in zip(sequence, parent, strict=False))
    return len(sequence) == len(parent) and same > _VARIANTS * len(parent)


@dataclass(frozen=True)
class Kinship:
    """Relations between proteins: of variants by Hamming distance, of others by phmmer.

    Attributes:
        sequences: (n,).
        relatives: None for variants.
    """

    sequences: Sequence[str]
    relatives: "Relatives | None" = None

    @classmethod
    def measured(
        cls,
        sequences: Sequence[str],
        queries: np.ndarray | None = None,
        threads: int | None = None,
        progress: Progress | None = None,
    ) -> "Kinship":
        """Compares proteins with phmmer; with `queries` (n,) bool, these with the others, otherwise all with all."""
        if are_variants(sequences):
            return cls(sequences)
        from protlm.homology.relatives import Relatives, find_relatives

        first = np.arange(len(sequences)) if queries is None else np.flatnonzero(queries)
        second = np.arange(len(sequences)) if queries is None else np.flatnonzero(~queries)
        own, others = ([sequences[number] for number in numbers.tolist()] for numbers in (first, second))
        found = find_relatives(own, others, threads, progress)
        pairs = first[found.query], second[found.target]
        return cls(sequences, Relatives(*pairs, found.identity, found.covered, found.bits))

    def nearest(self, test: np.ndarray, train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of each protein in `test`: the nearest in `train`, -1 without one; and the highest identity, 0 without one.

        Args:
            test, train: (n,) bool.
        """
        if self.relatives is None:
            return self._nearest_variants(test, train)
        between = self.relatives.between(test, train)
        return between.best(len(test))[test], between.closest(len(test))[test]

    def _nearest_variants(self, test: np.ndarray, train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        codes = np.stack([codes_of(sequence) for sequence in self.sequences])
        length = codes.shape[1]
        codes = codes[:, (codes != codes[0]).any(axis=0)]
        numbers = np.flatnonzero(train)
        nearest, distance = [], []
        for own in codes[test]:
            differences = (codes[train] != own).sum(axis=1)
            nearest.append(numbers[differences.argmin()])
            distance.append(differences.min())
        return np.array(nearest, dtype=np.int64), 1 - np.array(distance) / length
