"""An annotator: a labelled reference whose labels are transferred to queries that resemble its proteins.

Legend: q queries, n proteins of the reference, s of them for calibration, m pairs, D width.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from protlm.annotation.evidence import Evidence
from protlm.annotation.neighbours import Neighbours
from protlm.annotation.options import AnnotateOptions
from protlm.annotation.reference import Reference
from protlm.annotation.transfer import Transfer
from protlm.homology.relatives import Relatives

REPORTED = (0.9, 0.7, 0.5)
"""Precisions of which `Annotator.described` speaks."""


class Call(NamedTuple):
    """A label of a query.

    Attributes:
        query: its number.
        label: None if no label reaches the precision.
        precision: expected fraction of such labels that are right; NaN without a label.
        reference: number of the closest protein of the reference that has the label; without a label the closest one;
            -1 for none.
    """

    query: int
    label: str | None
    precision: float
    reference: int


class Annotator:
    """Transfers the labels of one column, with precision as learned on the reference itself.

    Args:
        reference: n proteins; those without a label in the column are ignored.
        column: of its labels.
        options: see `AnnotateOptions`.
        sample: (s,) int64, labelled proteins on which precision is learned.
        clusters: (n,) int64. Each protein of the sample is annotated twice, without its cluster and without itself,
            so that curves know remote and close relatives.
        vectors: (n, D) embeddings, if these are used.
        relatives: of the sample with labelled proteins, both numbered by n, if homologs are used.

    Attributes:
        held_out: votes for the sample, with precision as score.
    """

    def __init__(
        self,
        reference: Reference,
        column: str,
        options: AnnotateOptions,
        sample: np.ndarray,
        clusters: np.ndarray,
        vectors: np.ndarray | None = None,
        relatives: Relatives | None = None,
    ) -> None:
        self.reference, self.column, self.options, self.sample = reference, column, options, sample
        self._labels = reference.labels[column]
        self._labelled = np.flatnonzero(self._labels.counts)
        self._lengths = _lengths(reference.sequences)
        self.neighbours = None if vectors is None else Neighbours(vectors[self._labelled])
        without, own = [], clusters[sample]
        near = []
        if self.neighbours is not None and vectors is not None:
            others = clusters[self._labelled]
            without.append(self._nearest(vectors[sample], lambda rows: own[rows, None] == others))
            near.append(self._nearest(vectors[sample], lambda rows: sample[rows, None] == self._labelled))
        if relatives is not None:
            place = np.searchsorted(sample, relatives.query)
            found = homologs(replace(relatives, query=place), self._lengths[sample], self._lengths)
            without.append(found.take(own[found.query] != clusters[found.target]))
            near.append(found.take(sample[found.query] != found.target))
        pairs = [Evidence.joined([one, other.shifted(len(sample))]) for one, other in zip(without, near, strict=True)]
        self.transfer = Transfer.learned(pairs, np.tile(sample, 2), self._labels, options.neighbours)
        self.held_out = self.transfer(without)

    def evidence(
        self, sequences: Sequence[str], vectors: np.ndarray | None = None, relatives: Relatives | None = None
    ) -> list[Evidence]:
        """Neighbours and homologs of queries, as far as they are used.

        Args:
            sequences: (q,).
            vectors: (q, D) embeddings.
            relatives: of the queries with the reference.
        """
        found = []
        if self.neighbours is not None:
            assert vectors is not None
            found.append(self._nearest(vectors))
        if relatives is not None:
            of_labelled = relatives.take(self._labels.counts[relatives.target] > 0)
            found.append(homologs(of_labelled, _lengths(sequences), self._lengths))
        return found

    def _nearest(self, vectors: np.ndarray, left_out: Callable[[np.ndarray], np.ndarray] | None = None) -> Evidence:
        """See `Neighbours.nearest`; the mask is of labelled proteins, targets are numbered by n."""
        assert self.neighbours is not None
        found = self.neighbours.nearest(vectors, self.options.neighbours, left_out)
        return replace(found, target=self._labelled[found.target])

    def distances(self, vectors: np.ndarray | None, calls: Sequence[Call]) -> np.ndarray:
        """(c,) float64: the distance of the embeddings (q, D) of queries to the references of calls; NaN without."""
        found = np.full(len(calls), np.nan)
        if self.neighbours is not None and vectors is not None:
            query, target = np.array([(call.query, call.reference) for call in calls]).reshape(-1, 2).T
            known = np.flatnonzero(target >= 0)
            place = np.searchsorted(self._labelled, target[known])
            found[known] = self.neighbours.distances(vectors[query[known]], place)
        return found

    def calls(self, queries: int, evidence: Sequence[Evidence]) -> Iterator[Call]:
        """Of each query the labels that reach the precision, the most certain first, or a call without a label."""
        votes = self.transfer(evidence)
        closest = np.full(queries, -1)
        for each in evidence:  # homologs, the last, come first
            best = each.strongest(1)
            closest[best.query] = best.target
        order = np.lexsort((votes.label, -votes.score, votes.query))
        order = order[votes.score[order] >= self.options.precision]
        ends = np.searchsorted(votes.query[order], np.arange(queries + 1))
        for query in range(queries):
            own = order[ends[query] : ends[query + 1]].tolist()
            if not own:
                yield Call(query, None, np.nan, int(closest[query]))
            for i in own:
                name = self._labels.names[votes.label[i]]
                yield Call(query, name, float(votes.score[i]), int(votes.target[i]))

    @property
    def described(self) -> str:
        """How many proteins of the sample get a label, without their clusters."""
        found = []
        for precision in REPORTED:
            called = len(np.unique(self.held_out.query[self.held_out.score >= precision]))
            found.append(f"{100 * called / len(self.sample):.0f} % at a precision of {precision:g}")
        proteins = f"{self.column}: of {len(self.sample):,} proteins without their clusters"
        return f"{proteins}, labels are called for {', '.join(found)}"


def homologs(relatives: Relatives, queries: np.ndarray, targets: np.ndarray) -> Evidence:
    """Hits of phmmer as evidence: strength is the score in bits per residue of the shorter protein.

    Args:
        relatives: hits.
        queries, targets: (q,) and (n,) lengths in residues.
    """
    shorter = np.minimum(queries[relatives.query], targets[relatives.target])
    return Evidence(relatives.query, relatives.target, relatives.bits / shorter)


def _lengths(sequences: Sequence[str]) -> np.ndarray:
    return np.array([len(sequence) for sequence in sequences], dtype=np.int64)
