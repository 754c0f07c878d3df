"""Options of the search for homologs."""

import math
from dataclasses import dataclass

from protlm.errors import UserError


@dataclass(frozen=True)
class SearchOptions:
    """How homologs are searched for.

    Attributes:
        iterations: maximum number of passes over the database. One is a search as by phmmer; the search ends early when
            a pass finds the same domains as the one before.
        evalue: maximum E-value of targets that are included, and conditional E-value of their domains.
        bits_per_residue: minimum score of targets and domains that are included, as a multiple of the query's length;
            replaces `evalue`.
        most: maximum number of domains; those of the targets with the best scores are kept.

    Raises:
        UserError: for a value out of range.
    """

    iterations: int = 3
    evalue: float = 1e-3
    bits_per_residue: float | None = None
    most: int = 20_000

    def __post_init__(self) -> None:
        for name in ("iterations", "most"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} {getattr(self, name)}: expected at least 1", name)
        for name in ("evalue", "bits_per_residue"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UserError(f"{name} {value:g}: expected a number above 0", name)
