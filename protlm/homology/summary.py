"""What an alignment holds, in a line or two."""

from dataclasses import dataclass

import numpy as np

from protlm.errors import counted
from protlm.homology.alignment import GAP, Alignment
from protlm.homology.weights import sequence_weights

FEW = 10
"""Effective sequences below which a position is reported as poorly covered."""
_LISTED = 5  # stretches of positions


@dataclass(frozen=True)
class Summary:
    """Of an alignment of N sequences with a query of L residues.

    Attributes:
        sequences: N, the query included.
        effective: the effective number of sequences at 80 % identity; `broad`: at 62 %.
        coverage: (L,) int64, sequences with a residue at each position.
        effective_coverage: (L,) float64, the effective number of these, at 80 % identity.
    """

    sequences: int
    effective: float
    broad: float
    coverage: np.ndarray
    effective_coverage: np.ndarray

    @classmethod
    def of(cls, alignment: Alignment) -> "Summary":
        codes = alignment.codes
        weights = sequence_weights(codes)
        broad = float(sequence_weights(codes, 0.62).sum())
        return cls(len(codes), float(weights.sum()), broad, alignment.coverage, weights @ (codes < GAP))

    def describe(self) -> list[str]:
        """Numbers of sequences, and coverage by position.

        >>> for line in Summary.of(Alignment("MKT", ["query", "a"], ["MKT", "-KW"])).describe():
        ...     print(line)
        2 sequences with the query, 2 effective at 80 % identity, 2 at 62 %
        effective sequences by position: 1 to 2, median 2; fewer than 10 at positions 1-3
        """
        low, median, high = np.quantile(self.effective_coverage, [0, 0.5, 1])
        few = _stretches(np.flatnonzero(self.effective_coverage < FEW) + 1)
        poor = f"; fewer than {FEW} at positions {few}" if few else ""
        return [
            f"{counted(self.sequences, 'sequence')} with the query, {self.effective:,.0f} effective at 80 % identity, "
            f"{self.broad:,.0f} at 62 %",
            f"effective sequences by position: {low:,.0f} to {high:,.0f}, median {median:,.0f}{poor}",
        ]


def _stretches(positions: np.ndarray) -> str:
    """Ascending positions as in "1-23, 286"."""
    parts = [part for part in np.split(positions, np.flatnonzero(np.diff(positions) > 1) + 1) if len(part)]
    shown = [f"{part[0]}-{part[-1]}" if len(part) > 1 else str(part[0]) for part in parts[:_LISTED]]
    return ", ".join(shown + ["..."] * (len(parts) > _LISTED))
