"""Which protein is trained on and which is kept for testing: by hash of the sequence, by cluster, by list."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import numpy as np

from protlm.errors import UserError
from protlm.sequence.fasta import DAMAGED, decompressed

SPLITS = ("train", "valid", "test", "ood")
"""Split codes are indices into this tuple; `ood` holds what is unlike anything in training."""

TRAIN, VALID, TEST, OOD = range(4)


def digest(data: bytes) -> int:
    """A 64-bit BLAKE2b hash: the same on every machine and in every process."""
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "little")


@dataclass
class SplitRule:
    """Assigns a split to each protein, the same whatever its place in the file.

    Args:
        valid: share of the proteins (or clusters) for validation, 0 to 1.
        test: share for the test split.
        clusters: protein id -> cluster id; empty for none.
        whole_clusters: put each cluster as a whole into one of train, valid, test.
        held_out: ids of proteins or clusters for the `ood` split.
    """

    valid: float = 0.05
    test: float = 0.1
    clusters: dict[str, str] = field(default_factory=dict)
    whole_clusters: bool = True
    held_out: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if not (self.valid >= 0 and self.test >= 0 and self.valid + self.test < 1):
            raise UserError(
                f"shares valid {self.valid:g}, test {self.test:g}: expected numbers from 0 that leave some for training"
            )

    def assign(self, identifier: str, sequence_digest: int) -> int:
        """The split code of one protein; `sequence_digest` is the 64-bit hash of its tokens."""
        cluster = self.clusters.get(identifier)
        if identifier in self.held_out or cluster in self.held_out:
            return OOD
        place = digest(cluster.encode()) if cluster is not None and self.whole_clusters else sequence_digest
        fraction = place / 2**64
        if fraction < self.test:
            return TEST
        return VALID if fraction < self.test + self.valid else TRAIN


def unite_identical(codes: np.ndarray, digests: np.ndarray) -> int:
    """Gives identical sequences one split: `ood` if any of them is held out, else that of the first. In place.

    Clusters and lists name proteins, not sequences: without this a sequence that stands in the file twice, under two
    names, could be on both sides.

    Args:
        codes: (proteins,) uint8 split codes.
        digests: (proteins,) uint64 hashes of the sequences.

    Returns:
        How many proteins changed their split.
    """
    _, first, group = np.unique(digests, return_index=True, return_inverse=True)
    united = codes[first]
    united[group[codes == OOD]] = OOD
    moved = int((united[group] != codes).sum())
    codes[:] = united[group]
    return moved


def read_clusters(path: str | Path) -> dict[str, str]:
    """Member -> representative, from the two-column table (representative, tab, member) that MMseqs2 writes.

    The file may be compressed (gzip, bzip2, xz, zstandard).
    """
    clusters = {}
    for number, line in _lines(path):
        columns = [column.strip() for column in line.split("\t")]
        if len(columns) != 2 or not all(columns):
            raise UserError(f"{path}, line {number}: {line.strip()[:40]!r}; expected representative, tab, member")
        clusters[columns[1]] = columns[0]
    return clusters


def read_ids(path: str | Path) -> frozenset[str]:
    """Ids of proteins or clusters, one a line; empty lines and lines from `#` on do not count."""
    return frozenset(word for _, line in _lines(path) if (word := line.split("#")[0].strip()))


def _lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """Numbers and lines, without blank ones, of a text file that may be compressed."""
    try:
        with Path(path).open("rb") as raw, decompressed(raw) as text:
            yield from ((number, line) for number, line in enumerate(text, start=1) if line.strip())
    except DAMAGED as error:
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
