"""From neighbours to labels with a precision, learned on proteins of the reference without their clusters.

A neighbour of strength x is worth p(x), the fraction of its labels that the query has, as a curve says. It votes with
its odds o = p / (1 - p), and the score of a label is the share of its voters, sum(o of voters) / (1 + sum(o of all)):
of a single neighbour p, of several mostly the opinion of the closest. A second curve turns scores into precision.

Legend: s proteins for calibration, k neighbours.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from protlm.annotation.evidence import Evidence, Votes, votes_of
from protlm.annotation.known_labels import KnownLabels
from protlm.annotation.precision import PrecisionCurve

_CERTAIN = 0.999  # odds are finite


@dataclass(frozen=True)
class Transfer:
    """Transfers the labels of a reference by one or more kinds of evidence.

    Attributes:
        labels: of the reference.
        neighbours: k, the strongest of each kind.
        of_pairs: for each kind, strength of a pair -> fraction of the neighbour's labels that the query has.
        of_labels: score of a label -> fraction of queries that have it.
    """

    labels: KnownLabels
    neighbours: int
    of_pairs: list[PrecisionCurve]
    of_labels: PrecisionCurve | None = None

    @classmethod
    def learned(cls, evidence: Sequence[Evidence], own: np.ndarray, labels: KnownLabels, neighbours: int) -> "Transfer":
        """Learns all curves.

        Args:
            evidence: of each kind, pairs of s proteins of the reference with proteins outside their clusters.
            own: (s,) which proteins they are.
            labels: of the reference.
            neighbours: k.
        """
        curves = []
        for each in (each.strongest(neighbours) for each in evidence):
            pair, label = labels.of(each.target)
            right = labels.have(own[each.query[pair]], label)
            share = np.bincount(pair, right, minlength=len(each.query)) / labels.counts[each.target]
            curves.append(PrecisionCurve(each.strength, share))
        votes = cls(labels, neighbours, curves)(evidence)
        right = labels.have(own[votes.query], votes.label)
        return cls(labels, neighbours, curves, PrecisionCurve(votes.score, right.astype(np.float64)))

    def __call__(self, evidence: Sequence[Evidence]) -> Votes:
        """The labels of the neighbours of each query, with their precision as score."""
        kinds = [each.strongest(self.neighbours) for each in evidence]
        worth = [curve(each.strength) for curve, each in zip(self.of_pairs, kinds, strict=True)]
        pairs = Evidence.joined(
            [Evidence(each.query, each.target, value) for each, value in zip(kinds, worth, strict=True)]
        )
        value = np.minimum(pairs.strength, _CERTAIN)
        odds = value / (1 - value)
        total = 1 + np.bincount(pairs.query, odds)
        votes = votes_of(pairs, odds / total[pairs.query], self.labels)
        return votes if self.of_labels is None else votes.scored(self.of_labels(votes.score))
