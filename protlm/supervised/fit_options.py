"""How a probe is fitted and evaluated."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from protlm.errors import UserError
from protlm.inference.engine import TOKEN_BUDGET
from protlm.supervised.partition import FOLDS, METHODS


@dataclass(frozen=True)
class FitOptions:
    """How a probe is fitted and evaluated.

    Attributes:
        split_by: one of `METHODS`; "auto" is the split column, without one "homology", or "random" for variants of one
            protein.
        folds: of cross-validation, without a test part.
        clusters: table of MMseqs2 (representative, tab, member) instead of a search for relatives.
        identity: from which relatives are in the same cluster.
        layers: of the model; by default the middle and the last one.
        relatives: compare test and training proteins by phmmer.
        seed: of folds and bootstrap samples.
        threads: of phmmer; by default one for each core.
        token_budget, precision: see `ProteinModel`.
    """

    split_by: str = "auto"
    folds: int = FOLDS
    clusters: str | Path | None = None
    identity: float = 0.3
    layers: Sequence[int] | None = None
    relatives: bool = True
    seed: int = 0
    threads: int | None = None
    token_budget: int = TOKEN_BUDGET
    precision: str = "float32"

    def __post_init__(self) -> None:
        if self.split_by not in METHODS:
            raise UserError(f"split_by {self.split_by!r}: expected one of {', '.join(METHODS)}", "split_by")
        if self.folds < 2:
            raise UserError(f"folds {self.folds}: expected at least 2", "folds")
        if not 0 < self.identity <= 1:
            raise UserError(f"identity {self.identity:g}: expected a fraction above 0, at most 1", "identity")
        if self.clusters is not None and self.split_by not in ("auto", "homology"):
            raise UserError(f"clusters: requires split_by homology, not {self.split_by}", "clusters")
