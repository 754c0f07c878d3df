"""Assignment of proteins to splits: by hash of the sequence, by cluster, or by a list of held-out identifiers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import xxhash

from protlm.errors import UserError
from protlm.sequence.alphabets import PROTEIN, Alphabet
from protlm.sequence.formats import LOOKED_AT, recognised
from protlm.sequence.stream import DAMAGED, Source

SPLITS = ("train", "valid", "test", "ood")
"""Split codes are indices into this tuple; `ood` is the out-of-distribution split."""

TRAIN, VALID, TEST, OOD = range(4)


BY = ("cluster", "sequence", "record")
"""What is kept within one split: clusters, equal sequences, or the pieces of a long record."""


def nothing_to_learn(alphabet: Alphabet) -> str:
    """Message about a corpus whose train split has nothing to predict."""
    if alphabet == PROTEIN:
        return (
            "the train split has only unknown and ambiguous residues (X, B, Z), which are never predicted; "
            "expected protein sequences with amino acids"
        )
    return f"the train split has none of the {alphabet.unit}s that are predicted, {alphabet.definite}"


def digests(texts: Sequence[bytes]) -> np.ndarray:
    """XXH3 hashes (n, 2) uint64 of n byte strings, 128 bits each, high half first: the same on every machine.

    >>> [f"{half:016x}" for half in digests([b"MKT"])[0]]
    ['824f4b7216e7f0a0', '9d659fcc2c86db31']
    """
    joined = b"".join(map(xxhash.xxh3_128_digest, texts))
    return np.frombuffer(joined, ">u8").reshape(-1, 2).astype(np.uint64)


@dataclass(frozen=True)
class SplitRule:
    """Assigns each protein a split, independently of its position in the files.

    Args:
        valid: fraction of the proteins (or clusters) in the validation split, 0 to 1.
        test: fraction in the test split.
        clusters: cluster table (representative, tab, member), optionally compressed; None for no clusters.
        whole_clusters: keep each cluster within one of train, valid and test.
        held_out: identifiers of proteins, clusters or records for the `ood` split.
        whole_records: keep the pieces of each long record within one of train, valid and test; not with clusters.
    """

    valid: float = 0.05
    test: float = 0.1
    clusters: str | Path | None = None
    whole_clusters: bool = True
    held_out: frozenset[str] = frozenset()
    whole_records: bool = False

    def __post_init__(self) -> None:
        if self.whole_records and self.clusters:
            raise UserError("clusters: splits are by cluster or by record; give one of them", "clusters")
        if not (self.valid >= 0 and self.test >= 0 and self.valid + self.test < 1):
            fractions = f"valid {self.valid:g}, test {self.test:g}"
            raise UserError(f"{fractions}: expected fractions of at least 0 with a sum below 1", "valid", "test")

    def by_hash(self, high: np.ndarray) -> np.ndarray:
        """Split codes (n,) uint8 from the high halves (n,) uint64 of hashes: below `test`, then `valid`, then train."""
        fraction = high / 2.0**64
        code = np.where(fraction < self.test, TEST, np.where(fraction < self.test + self.valid, VALID, TRAIN))
        return code.astype(np.uint8)


def read_clusters(source: Source, rows: int = 1 << 16) -> Iterator[tuple[list[bytes], list[bytes]]]:
    """Reads members and their representatives, a block at a time, from the two-column table that MMseqs2 writes.

    The file (representative, tab, member) may be compressed (gzip, bzip2, xz, zstandard).
    """
    lines = _lines(source)
    while block := list(islice(lines, rows)):
        members, representatives = [], []
        for number, line in block:
            columns = [column.strip() for column in line.split("\t")]
            if len(columns) != 2 or not all(columns):
                where = f"{source.path}, line {number}"
                raise UserError(f"{where}: {line.strip()[:40]!r}; expected representative, tab, member")
            representatives.append(columns[0].encode())
            members.append(columns[1].encode())
        yield members, representatives


def read_ids(path: str | Path) -> frozenset[str]:
    """Reads identifiers of proteins or clusters, one per line; blank lines and comments after `#` are ignored.

    Of a FASTA file, those are the headers.

    Raises:
        UserError: if there are none.
    """
    ids = frozenset(word for _, line in _lines(Source(path)) if (word := line.split("#")[0].strip()))
    if not ids:
        raise UserError(f"{path}: no identifiers; expected one protein or cluster per line")
    return frozenset(one for one in ids if one.startswith(">")) or ids


def _lines(source: Source) -> Iterator[tuple[int, str]]:
    """Line numbers and non-blank lines of a text file, optionally compressed."""
    try:
        with source, source.text() as text:
            start = text.buffer.peek(LOOKED_AT)[:LOOKED_AT]  # type: ignore[attr-defined]
            if b"\0" in start:
                what, advice = recognised(start) or ("binary data", "")
                raise UserError(f"{source.path}: expected text, found {what}; {advice or 'give another file'}")
            yield from ((number, line) for number, line in enumerate(text, start=1) if line.strip())
    except DAMAGED as error:
        raise UserError(f"{source.path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error
