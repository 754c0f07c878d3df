"""A first pass over a FASTA file: finds all errors and counts everything before anything is computed.

It needs about 50 bytes of memory per record; the identifiers are kept in a file.
"""

import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import xxhash

from protlm.corpus.splits import digests
from protlm.errors import UserError
from protlm.performer import Performer
from protlm.sequence.fasta import none_left
from protlm.sequence.fasta_files import FastaFiles
from protlm.sequence.tally import Tally

WINDOW_TOKENS = 1 << 18
"""Size of a window: consecutive proteins that are sorted by length together, to reduce padding."""


class Names:
    """The identifiers of the proteins, in order: in the FASTA, and as they are stored.

    In the text, which may be mapped from a file, they start at `starts` and end before `ends`, (n,) int64.
    """

    def __init__(self, text: bytes | mmap.mmap, starts: np.ndarray, ends: np.ndarray) -> None:
        self._text, self.starts, self.ends = text, starts, ends
        self.renamed: dict[int, bytes] = {}
        """Index -> new name, for duplicate identifiers."""

    def __len__(self) -> int:
        return len(self.starts)

    def original(self, index: int) -> bytes:
        """The identifier in the FASTA."""
        return self._text[self.starts[index] : self.ends[index]]

    def __getitem__(self, index: int) -> bytes:
        """The name it is stored under; '/' becomes '_', since it would create a group or folder."""
        return self.renamed.get(index) or self.original(index).replace(b"/", b"_")

    def unchanged(self, index: int) -> bytes:
        """The name in a table, where '/' needs no replacement: the identifier, or that of a renamed duplicate."""
        return self.renamed.get(index) or self.original(index)

    def select(self, start: int, stop: int) -> "Names":
        """Those from `start` to before `stop`."""
        part = Names(self._text, self.starts[start:stop], self.ends[start:stop])
        part.renamed = {index - start: name for index, name in self.renamed.items() if start <= index < stop}
        return part

    def changed(self) -> int:
        """Number of identifiers stored under another name."""
        return sum(self[index] != self.original(index) for index in range(len(self)))


@dataclass(frozen=True)
class Proteins:
    """The n proteins of an output, in order."""

    names: Names
    lengths: np.ndarray
    """(n,) int64, in residues."""
    first: np.ndarray
    """(n,) int64, index of the first protein with the same sequence."""

    @property
    def is_distinct(self) -> np.ndarray:
        """(n,) bool: no earlier protein has the same sequence."""
        return self.first == np.arange(len(self.first))


@dataclass
class EmbedSummary:
    """The outcome of `embed_fasta`."""

    proteins: int = 0
    """In the output."""
    residues: int = 0
    computed: int = 0
    """Residues of distinct sequences computed by this run; 0 if the output was complete already."""
    seconds: float = 0.0
    """Spent computing and writing them."""
    computing: float = 0.0
    """Seconds of these in the model."""
    resumed: int = 0
    """Residues of distinct sequences computed by an earlier run."""
    copied: int = 0
    """Proteins with the sequence of an earlier one, which is computed once."""
    renamed: int = 0
    """Identifiers stored under another name, since they contain '/' or are duplicates."""
    left_out: int = 0
    """Records with a duplicate identifier."""
    beyond_positions: int = 0
    """Proteins longer than the model's learned positions."""
    tally: Tally = field(default_factory=Tally)
    complete: bool = False
    """The outputs existed already, made from the same input; nothing was done."""


@dataclass
class Survey:
    """The content of a FASTA file; n proteins, in order."""

    keep: np.ndarray
    """(records,) bool: which records with a sequence become proteins; the others have a duplicate identifier."""
    names: Names
    lengths: np.ndarray
    """(n,) int64, in residues."""
    sequences: np.ndarray
    """(n, 2) uint64, hashes of the sequences."""
    source: dict[str, Any]
    """Name, bytes and checksum of the file."""
    tally: Tally = field(default_factory=Tally)

    def windows(self, begin: int, end: int) -> np.ndarray:
        """(w + 1,) int64: where each window of consecutive proteins begins, and the end."""
        ends = np.concatenate(([0], np.cumsum(self.lengths + 2)))
        edges = [begin]
        while edges[-1] < end:
            full = int(np.searchsorted(ends, ends[edges[-1]] + WINDOW_TOKENS, side="right")) - 1
            edges.append(min(end, max(edges[-1] + 1, full)))
        return np.array(edges)

    def shard(self, part: int, parts: int) -> np.ndarray:
        """The edges of the windows of a shard; shards are consecutive proteins with about equally many residues."""
        ends = np.cumsum(self.lengths + 2)
        owner = (2 * ends - self.lengths - 2) * parts // (2 * ends[-1])
        begin, end = np.searchsorted(owner, (part - 1, part))
        return self.windows(int(begin), int(end))

    def proteins(self, start: int, stop: int) -> Proteins:
        """Those from `start` to before `stop`."""
        sequences = self.sequences[start:stop]
        order = np.lexsort(sequences.T)  # stable: of identical sequences the first comes first
        is_new = np.ones(len(order), dtype=bool)
        is_new[1:] = (sequences[order[1:]] != sequences[order[:-1]]).any(axis=1)
        first = np.empty(len(order), dtype=np.int64)
        first[order] = order[np.maximum.accumulate(np.where(is_new, np.arange(len(order)), 0))]
        return Proteins(self.names.select(start, stop), self.lengths[start:stop], first)


def survey(
    file: FastaFiles,
    folder: Path,
    duplicates: str = "error",
    progress: Callable[[int, int], None] | None = None,
) -> Survey:
    """Reads FASTA files once.

    Args:
        file: not standard input, since it is read again later.
        folder: for an anonymous temporary file.
        duplicates: see `EmbedOptions`; "keep" leaves them as they are.
        progress: called with the bytes read and in total.
    """
    sizes, hashes, lengths, sequences = [], [], [], []
    with TemporaryFile(dir=folder) as spool:
        for chunk in file.chunks():
            if not chunk.sequences:
                continue
            spool.write(chunk.names.replace(b"\n", b""))
            originals = chunk.names.split(b"\n")
            names = chunk.names.replace(b"/", b"_").split(b"\n")
            sizes.append(np.fromiter(map(len, originals), np.int64, len(names)))
            hashes.append(np.fromiter(map(xxhash.xxh3_64_intdigest, names), np.uint64, len(names)))
            lengths.append(chunk.lengths)
            sequences.append(digests(chunk.sequences))
            if progress:
                progress(file.position, file.size)
        if not lengths:
            raise none_left(file.path, file.tally, file.alphabet.record)
        spool.flush()
        text = mmap.mmap(spool.fileno(), 0, access=mmap.ACCESS_READ)  # outlives the file
    ends = np.cumsum(np.concatenate(sizes))
    names = Names(text, ends - np.concatenate(sizes), ends)
    keep = _resolve(file, names, np.concatenate(hashes), duplicates)
    every, digest = np.concatenate(lengths), np.concatenate(sequences)
    if not keep.all():
        names = Names(text, names.starts[keep], names.ends[keep])
        every, digest = every[keep], digest[keep]
    return Survey(keep, names, every, digest, file.describe(), file.tally)


def read_rows(model: Performer, file: FastaFiles, keep: np.ndarray, skip: int) -> Iterator[np.ndarray]:
    """The framed tokens (length + 2,) uint8 of each protein of a FASTA file but the first `skip`; see `Survey.keep`."""
    before = 0
    for chunk in file.chunks():
        kept = np.flatnonzero(keep[before : before + len(chunk.lengths)])
        before += len(chunk.lengths)
        ends = np.cumsum(chunk.lengths)
        for index in kept[skip:].tolist():
            tokens = chunk.tokens[ends[index] - chunk.lengths[index] : ends[index]]
            yield file.alphabet.with_ends(tokens, model.config.start_id)
        skip = max(0, skip - len(kept))


def _resolve(file: FastaFiles, names: Names, hashes: np.ndarray, duplicates: str) -> np.ndarray:
    """(records,) bool, which to keep; renames duplicates if they get a suffix."""
    keep = np.ones(len(names), dtype=bool)
    if duplicates == "keep":
        return keep
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    again = ordered[1:] == ordered[:-1]
    suspects = np.sort(order[np.concatenate(([False], again)) | np.concatenate((again, [False]))])
    seen: dict[bytes, int] = {}
    count: dict[bytes, int] = {}
    given: set[bytes] = set()
    for index in suspects.tolist():
        name = names[index]
        first = seen.setdefault(name, index)
        if first == index:
            continue
        same = names.original(first) == names.original(index)
        if duplicates == "error" or (duplicates == "first" and not same):
            raise UserError(_duplicate(file, names, first, index), "duplicates")
        if duplicates == "first":
            keep[index] = False
            continue
        number = count.get(name, 1) + 1
        while (new := b"%b_%d" % (name, number)) in given or _contains(ordered, new):
            number += 1
        count[name] = number
        given.add(new)
        names.renamed[index] = new
    return keep


def _contains(ordered: np.ndarray, name: bytes) -> bool:
    """Whether the hash of a name is among sorted hashes (n,) uint64."""
    value = np.uint64(xxhash.xxh3_64_intdigest(name))
    position = int(np.searchsorted(ordered, value))
    return position < len(ordered) and ordered[position] == value


def _duplicate(file: FastaFiles, names: Names, first: int, second: int) -> str:
    """The error message; the files are read again for the numbers of the records, which only an error needs."""
    places: list[tuple[str, int]] = []
    again, before = file.again(), 0
    for chunk in again.chunks():
        own = [index - before for index in (first, second) if 0 <= index - before < len(chunk.numbers)]
        places += [(again.path, int(chunk.numbers[index])) for index in own]
        before += len(chunk.numbers)
    (path, number), (path_again, number_again) = places
    where = f"{path}: ", f"records {number:,} and {number_again:,}"
    if path != path_again:
        where = "", f"record {number:,} of {path} and record {number_again:,} of {path_again}"
    one, other = names.original(first).decode(), names.original(second).decode()
    what = f"duplicate identifier {one!r}" if one == other else f"identifiers {one!r} and {other!r} become the same"
    ways = "'suffix' or 'first'" if one == other else "'suffix'"
    return f"{where[0]}{what} ({where[1]}); rename one, or set duplicates to {ways}"
