"""Identifiers: how those of records, cluster tables and lists are compared, and what tells that they do not match."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from protlm.corpus.external_sort import Partitions
from protlm.errors import UserError
from protlm.sequence.headers import accession

_EXAMPLES = 3
_SPECIAL = b"|\"'> \t"


def keys(names: Sequence[bytes], whole: bool = False) -> Sequence[bytes]:
    """Identifiers as they are compared: without quotes, '>' and description, and UniProt's reduced to the accession.

    `whole` keeps everything after the first word, for names that may contain spaces.

    >>> keys([b"P69905", b'"sp|P69905|HBA_HUMAN"', b"sp|P69905|HBA_HUMAN Hemoglobin", b"Q1 Myoglobin"])
    [b'P69905', b'P69905', b'P69905', b'Q1']
    >>> keys([b"sp|P69905|HBA_HUMAN Hemoglobin", b"family 1"], whole=True)
    [b'P69905', b'family 1']
    """
    joined = b"\n".join(names)
    if len(joined.translate(None, _SPECIAL)) == len(joined):  # the common case
        return names
    return [_key(name, whole) for name in names]


def _key(name: bytes, whole: bool) -> bytes:
    bare = name.strip()
    for quote in (b'"', b"'"):
        if len(bare) > 2 and bare.startswith(quote) and bare.endswith(quote):
            bare = bare[1:-1]
    words = bare.lstrip(b">").split(None, 1)
    if not words:
        return name
    key = accession(words[0].decode(errors="surrogateescape")).encode(errors="surrogateescape")
    return bare.lstrip(b">") if whole and key == words[0] else key


@dataclass
class Match:
    """How many identifiers of a table or list occur among the records.

    Attributes:
        source: of the identifiers: a path, or the name of an argument.
        names: some of the identifiers.
        total, found: identifiers of the table or list, and those among them that occur.
    """

    source: str
    names: Sequence[bytes] = ()
    total: int = 0
    found: int = 0

    @property
    def poor(self) -> bool:
        """Whether less than half were found, as happens if the identifiers are of another kind."""
        return 2 * self.found < self.total

    def error(self, records: Sequence[bytes]) -> UserError:
        """What to raise for a poor match; `records` are some identifiers of the records."""
        return UserError(
            f"{self.source}: only {self.found:,} of {self.total:,} identifiers occur in the FASTA files; these are "
            f"{_examples(self.names)} there and {_examples(records)} in the files; expected the same identifiers",
            "held_out",
        )


def _examples(names: Sequence[bytes]) -> str:
    shown = ", ".join(repr(name.decode(errors="replace")[:40]) for name in names[:_EXAMPLES])
    return shown + (", ..." if len(names) > _EXAMPLES else "")


def count_duplicates(blocks: Iterable[np.ndarray], folder: Path, partitions: int) -> int:
    """Number of records whose identifier an earlier one has, from the hashes (n,) of identifiers, block by block."""
    table = Partitions(folder, 1, partitions)
    for hashes in blocks:
        table.add(table.by_hash(hashes), hashes)
    return sum(len(hashes) - len(np.unique(hashes)) for (hashes,) in table.sorted([0]))
