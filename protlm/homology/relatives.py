"""Relatives within a set of proteins, by phmmer; clusters of relatives.

Legend: q queries, t targets, m pairs.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from protlm.homology.hmmer import AMINO, LONGEST, digital, easel, plan7, sequence_hmm
from protlm.homology.search import CELLS, cores
from protlm.progress import Progress

EVALUE = 1e-3
COVERED = 0.5
"""Fraction of the shorter protein that an alignment must cover to say that two proteins are relatives."""


@dataclass(frozen=True)
class Relatives:
    """Pairs of a query and a target that phmmer aligns.

    Attributes:
        query, target: (m,) int64.
        identity: (m,) float64, identical residues per aligned pair, of the best domain.
        covered: (m,) float64, aligned residues of the shorter protein, as a fraction.
        bits: (m,) float64, score of the target.
    """

    query: np.ndarray
    target: np.ndarray
    identity: np.ndarray
    covered: np.ndarray
    bits: np.ndarray

    def closest(self, queries: int) -> np.ndarray:
        """(q,) float64: the highest identity of each query to a target with sufficient coverage; 0 without one."""
        found = np.zeros(queries)
        own = self.covered >= COVERED
        np.maximum.at(found, self.query[own], self.identity[own])
        return found

    def best(self, queries: int) -> np.ndarray:
        """(q,) int64: the target with the highest score of each query; -1 without one."""
        found = np.full(queries, -1)
        order = np.argsort(self.bits, kind="stable")
        found[self.query[order]] = self.target[order]
        return found

    def between(self, queries: np.ndarray, targets: np.ndarray) -> "Relatives":
        """The pairs of some queries (q,) bool with some targets (t,) bool, numbered as before."""
        return self.take(queries[self.query] & targets[self.target])

    def take(self, pairs: np.ndarray) -> "Relatives":
        """Some of the pairs, by a mask (m,)."""
        return Relatives(*(array[pairs] for array in (self.query, self.target, self.identity, self.covered, self.bits)))


def find_relatives(
    queries: Sequence[str],
    targets: Sequence[str],
    threads: int | None = None,
    progress: Progress | None = None,
    among: Sequence[Sequence[int]] | None = None,
) -> Relatives:
    """Compares each query with all targets by phmmer, at an E-value of 0.001; a pair of equal sequences counts, too.

    Args:
        queries: (q,) normalised sequences.
        targets: (t,).
        threads: by default one for each core.
        progress: called with the queries done, and q.
        among: (q,) numbers of the targets to compare each query with, instead of all; E-values remain those of all.
    """
    known = [number for number, target in enumerate(targets) if len(target) <= LONGEST]
    sequences = {
        number: easel.DigitalSequence(AMINO, name=str(number).encode(), sequence=digital(targets[number].encode()))
        for number in known
    }
    block = easel.DigitalSequenceBlock(AMINO, sequences.values())
    longest = max(map(len, block), default=0)

    def compare(number: int) -> list[tuple[int, int, float, float, float]]:
        query = queries[number]
        if len(query) > LONGEST or (among is not None and not len(among[number])):
            return []
        compared = block
        if among is not None:
            own = [sequences[target] for target in among[number] if target in sequences]
            compared = easel.DigitalSequenceBlock(AMINO, own)
        if len(query) * longest > CELLS:
            compared = easel.DigitalSequenceBlock(AMINO, [one for one in compared if len(one) * len(query) <= CELLS])
        found = plan7.Pipeline(AMINO, E=EVALUE, Z=len(known)).search_hmm(sequence_hmm(query), compared)
        return [(number, *_pair(hit, query, targets)) for hit in found if hit.included]

    pairs: list[tuple[int, int, float, float, float]] = []
    with ThreadPoolExecutor(threads or cores()) as pool:
        for done, own in enumerate(pool.map(compare, range(len(queries))), start=1):
            pairs += own
            if progress:
                progress(done, len(queries))
    columns = list(zip(*pairs, strict=True)) or [()] * 5
    kinds = (np.int64, np.int64, np.float64, np.float64, np.float64)
    return Relatives(*(np.array(column, dtype=kind) for column, kind in zip(columns, kinds, strict=True)))


def _pair(hit: plan7.Hit, query: str, targets: Sequence[str]) -> tuple[int, float, float, float]:
    target = int(hit.name)
    alignment = hit.best_domain.alignment
    pairs = [
        (one, other)
        for one, other in zip(alignment.hmm_sequence.upper(), alignment.target_sequence.upper(), strict=True)
        if one.isalpha() and other.isalpha()
    ]
    same = sum(one == other for one, other in pairs)
    return target, same / len(pairs), len(pairs) / min(len(query), len(targets[target])), float(hit.score)


def clusters_of(relatives: Relatives, proteins: int, identity: float) -> np.ndarray:
    """(n,) int64: the cluster of each protein; relatives of at least this identity share one (single linkage).

    >>> pair = Relatives(np.array([0]), np.array([2]), np.array([0.4]), np.array([0.9]), np.array([80.0]))
    >>> clusters_of(pair, 3, 0.3).tolist(), clusters_of(pair, 3, 0.5).tolist()
    ([0, 1, 0], [0, 1, 2])
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    own = (relatives.identity >= identity) & (relatives.covered >= COVERED)
    edges = coo_array((np.ones(own.sum()), (relatives.query[own], relatives.target[own])), shape=(proteins, proteins))
    return connected_components(edges, directed=False)[1].astype(np.int64)
