"""Evidence for labels: pairs of a query and a labelled protein that resembles it, and the votes for labels from them.

Legend: q queries, n proteins of the reference, m pairs, c votes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from protlm.annotation.known_labels import KnownLabels


@dataclass(frozen=True)
class Evidence:
    """Pairs of a query and a protein of the reference.

    Attributes:
        query, target: (m,) int64.
        strength: (m,) float64, higher for closer pairs.
    """

    query: np.ndarray
    target: np.ndarray
    strength: np.ndarray

    @classmethod
    def joined(cls, parts: "Sequence[Evidence]") -> "Evidence":
        """All pairs of several parts."""
        columns = [(part.query, part.target, part.strength) for part in parts]
        return cls(*map(np.concatenate, zip(*columns, strict=True)))

    def take(self, rows: np.ndarray) -> "Evidence":
        """Some of the pairs, by a mask or numbers."""
        return Evidence(self.query[rows], self.target[rows], self.strength[rows])

    def shifted(self, queries: int) -> "Evidence":
        """The same pairs of queries with numbers that are higher by so many."""
        return replace(self, query=self.query + queries)

    def strongest(self, most: int) -> "Evidence":
        """At most so many pairs per query, the strongest; sorted by query, strongest first.

        >>> pairs = Evidence(np.array([0, 0, 0]), np.array([5, 6, 7]), np.array([0.1, 0.9, 0.5]))
        >>> pairs.strongest(2).target.tolist()
        [6, 7]
        """
        order = np.lexsort((self.target, -self.strength, self.query))
        query = self.query[order]
        rank = np.arange(len(order)) - np.searchsorted(query, query, side="left")
        return self.take(order[rank < most])


@dataclass(frozen=True)
class Votes:
    """Pairs of a query and a label; sorted by query, then label.

    Attributes:
        query, label: (c,) int64.
        score: (c,) float64, 0 to 1.
        target: (c,) int64, the protein of the reference with the label that is most like the query.
    """

    query: np.ndarray
    label: np.ndarray
    score: np.ndarray
    target: np.ndarray

    def scored(self, score: np.ndarray) -> "Votes":
        """The same with other scores."""
        return replace(self, score=score)


def votes_of(evidence: Evidence, weight: np.ndarray, labels: KnownLabels) -> Votes:
    """The labels of the neighbours of each query, scored by the sum of weights of the neighbours that have them.

    Args:
        evidence: pairs; of equally strong ones the first is the target.
        weight: (m,) of each pair.
        labels: of the reference.

    >>> labels = KnownLabels.of_lists([["a"], ["a", "b"]])
    >>> pairs = Evidence(np.array([0, 0]), np.array([0, 1]), np.array([0.2, 0.9]))
    >>> votes = votes_of(pairs, np.array([0.25, 0.5]), labels)
    >>> votes.label.tolist(), votes.score.tolist(), votes.target.tolist()
    ([0, 1], [0.75, 0.5], [1, 1])
    """
    pair, label = labels.of(evidence.target)
    order = np.lexsort((pair, -evidence.strength[pair], label, evidence.query[pair]))
    pair, label = pair[order], label[order]
    query = evidence.query[pair]
    starts = np.append(True, (np.diff(query) != 0) | (np.diff(label) != 0))[: len(pair)]
    best = pair[starts]
    score = np.bincount(np.cumsum(starts) - 1, weight[pair], minlength=len(best))
    return Votes(query[starts], label[starts], score, evidence.target[best])
