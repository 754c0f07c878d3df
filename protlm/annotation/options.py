"""Options of annotation."""

from dataclasses import dataclass
from pathlib import Path

from protlm.errors import UserError, check_integer

EMBEDDING, HOMOLOGY, BOTH = "embedding", "homology", "both"
SOURCES = (EMBEDDING, HOMOLOGY, BOTH)


@dataclass(frozen=True)
class AnnotateOptions:
    """How labels are transferred.

    Attributes:
        by: "embedding" (nearest neighbours), "homology" (phmmer hits) or "both".
        precision: labels of a lower one are not called, 0 to 1.
        neighbours: of each query that vote for its labels, by each kind of evidence.
        clusters: table of MMseqs2, representative and member, of the reference; by default relatives are searched.
        identity: from which relatives in the reference share a cluster.
        sample: proteins of the reference on which precision is learned.
        layer: of the model that is embedded; -1 is the last.
        seed: of the sample.
        threads: of phmmer; by default one for each core.
        token_budget: see `ProteinModel`.

    Raises:
        UserError: for a value out of range.
    """

    by: str = BOTH
    precision: float = 0.5
    neighbours: int = 10
    clusters: str | Path | None = None
    identity: float = 0.5
    sample: int = 1_000
    layer: int = -1
    seed: int = 0
    threads: int | None = None
    token_budget: int = 16_384

    def __post_init__(self) -> None:
        if self.by not in SOURCES:
            raise UserError(f"by {self.by!r}: expected one of {', '.join(SOURCES)}", "by")
        for name in ("precision", "identity"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} {getattr(self, name):g}: expected a number from 0 to 1", name)
        for name in ("neighbours", "sample", "token_budget"):
            check_integer(name, getattr(self, name), 1)

    @property
    def embeds(self) -> bool:
        """Whether embeddings are needed."""
        return self.by != HOMOLOGY

    @property
    def aligns(self) -> bool:
        """Whether homologs are needed."""
        return self.by != EMBEDDING
