"""The homologs of one query in one pass over a database.

Legend: L residues of the query, Z proteins of the database.
"""

from dataclasses import dataclass
from typing import NamedTuple

from protlm.homology.hmmer import AMINO, plan7

REPORTED = 10.0
"""HMMER's default E-value of reported targets; their number multiplies the P-values of domains."""


@dataclass(frozen=True)
class Inclusion:
    """What belongs to the alignment.

    Attributes:
        evalue: greatest E-value of a target, and greatest conditional E-value of a domain.
        bits: least score of both, in bits; replaces `evalue`.
    """

    evalue: float = 1e-3
    bits: float | None = None

    def pipeline(self) -> plan7.Pipeline:
        """Reports at least what is included, and all targets up to the E-value `REPORTED`."""
        if self.bits is not None:
            return plan7.Pipeline(AMINO, T=self.bits, domT=self.bits)
        return plan7.Pipeline(AMINO, E=max(REPORTED, self.evalue))


class Domain(NamedTuple):
    """A part of a target and its alignment with the query: P-values, scores in bits, row in A3M format."""

    score: float
    name: str
    row: str
    target_p: float
    domain_p: float
    domain_score: float


class Hits:
    """Collects domains; in memory are those that are included.

    Args:
        length: L.
        inclusion: which domains are included.
        most: greatest number of domains; those of the targets with the best scores.

    Attributes:
        proteins: Z, those searched so far.
    """

    def __init__(self, length: int, inclusion: Inclusion, most: int) -> None:
        self.inclusion = inclusion
        self._length, self._most = length, most
        self._domains: list[Domain] = []
        self._reported: list[float] = []
        self.proteins = 0

    def add(self, found: plan7.TopHits, proteins: int) -> None:
        """Adds what was found in `proteins` of the database.

        P-values do not depend on the size of the database. E-values grow with it, so what is not included now is not
        included later, either.
        """
        self.proteins += proteins
        for hit in found:
            self._reported.append(hit.pvalue)
            if self._includes(hit.pvalue, hit.score, self.proteins):
                self._domains += (self._aligned(hit, domain) for domain in hit.domains)
        if len(self._domains) > 2 * self._most:
            self._domains = self.included()

    def included(self) -> list[Domain]:
        """The domains included for the proteins searched so far, the best targets first."""
        reported = sum(p * self.proteins <= REPORTED for p in self._reported)
        kept = [
            domain
            for domain in self._domains
            if self._includes(domain.target_p, domain.score, self.proteins)
            and self._includes(domain.domain_p, domain.domain_score, reported)
        ]
        return sorted(kept, key=lambda domain: -domain.score)[: self._most]

    def _includes(self, p: float, score: float, comparisons: int) -> bool:
        if self.inclusion.bits is not None:
            return score >= self.inclusion.bits
        return p * comparisons <= self.inclusion.evalue

    def _aligned(self, hit: plan7.Hit, domain: plan7.Domain) -> Domain:
        found = domain.alignment
        row = "-" * (found.hmm_from - 1) + found.target_sequence + "-" * (self._length - found.hmm_to)
        name = f"{hit.name}/{found.target_from}-{found.target_to}"
        return Domain(hit.score, name, row, hit.pvalue, domain.pvalue, domain.score)
