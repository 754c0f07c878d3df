"""A first look at a FASTA file: all mistakes are found, and all is counted, before anything is computed.

Memory grows by about 50 bytes a record; the identifiers lie in a file.
"""

import mmap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import xxhash

from protlm.corpus.external_sort import groups
from protlm.corpus.splits import digests
from protlm.errors import UserError
from protlm.sequence.fasta import FastaFile
from protlm.sequence.tally import Tally

WINDOW = 1 << 18
"""Tokens of a window: records that are sorted by length together, so that little is padding."""


class Names:
    """The identifiers of the proteins, in order: those of the FASTA, and those that they are stored under.

    Args:
        text: the identifiers one behind the other, maybe mapped from a file.
        starts, ends: (n,) int64, where each of them lies.
    """

    def __init__(self, text: bytes | mmap.mmap, starts: np.ndarray, ends: np.ndarray) -> None:
        self._text, self.starts, self.ends = text, starts, ends
        self.renamed: dict[int, bytes] = {}
        """Index -> another name, for identifiers that occur twice."""

    def __len__(self) -> int:
        return len(self.starts)

    def original(self, index: int) -> bytes:
        """The identifier as it is in the FASTA."""
        return self._text[self.starts[index] : self.ends[index]]

    def __getitem__(self, index: int) -> bytes:
        """The name it is stored under: '/' is '_', since it would be a folder."""
        return self.renamed.get(index) or self.original(index).replace(b"/", b"_")

    def select(self, start: int, stop: int) -> "Names":
        """Those from `start` to before `stop`."""
        part = Names(self._text, self.starts[start:stop], self.ends[start:stop])
        part.renamed = {index - start: name for index, name in self.renamed.items() if start <= index < stop}
        return part

    def changed(self) -> int:
        """How many are stored under another name."""
        return sum(self[index] != self.original(index) for index in range(len(self)))


@dataclass
class Survey:
    """What a FASTA file holds; n proteins, in order."""

    keep: np.ndarray
    """(records,) bool: which records with a sequence become proteins; the others have the identifier of an earlier."""
    names: Names
    lengths: np.ndarray
    """(n,) int64, in residues."""
    sequences: np.ndarray
    """(n, 2) uint64, hashes of the sequences."""
    source: dict[str, Any]
    """Name, bytes and checksum of the file."""
    tally: Tally = field(default_factory=Tally)

    def windows(self, begin: int, end: int) -> np.ndarray:
        """(w + 1,) int64: where each window of some consecutive proteins begins, and the end."""
        ends = np.concatenate(([0], np.cumsum(self.lengths + 2)))
        edges = [begin]
        while edges[-1] < end:
            full = int(np.searchsorted(ends, ends[edges[-1]] + WINDOW, side="right")) - 1
            edges.append(min(end, max(edges[-1] + 1, full)))
        return np.array(edges)

    def shard(self, part: int, parts: int) -> np.ndarray:
        """The edges of the windows of one of several shards: consecutive proteins, about as many residues in each."""
        ends = np.cumsum(self.lengths + 2)
        owner = (2 * ends - self.lengths - 2) * parts // (2 * ends[-1])
        begin, end = np.searchsorted(owner, (part - 1, part))
        return self.windows(int(begin), int(end))

    def first_of_identical(self, start: int, stop: int) -> np.ndarray:
        """(stop - start,) int64, counted from `start`: for each protein the first of them with the same sequence."""
        high, low = self.sequences[start:stop].T
        order = np.lexsort((low, high))
        begins = groups(high[order], low[order])
        first = np.empty(stop - start, dtype=np.int64)
        first[order] = order[np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))]
        return first


def survey(
    file: FastaFile,
    folder: Path,
    duplicates: str = "error",
    refuse: Callable[[bytes], str | None] = lambda name: None,
    progress: Callable[[int, int], None] | None = None,
) -> Survey:
    """Reads a FASTA file once.

    Args:
        file: not standard input, since it is read again.
        folder: for a file without a name, which goes with the process.
        duplicates: see `EmbedOptions`.
        refuse: says of an identifier, "/" replaced, why nothing can be stored under it; None if it can.
        progress: called with the bytes read and the bytes in all.

    Raises:
        UserError: for a file that cannot be used; for identifiers that occur twice or cannot be stored.
    """
    sizes, hashes, lengths, sequences = [], [], [], []
    with TemporaryFile(dir=folder) as spool:
        for chunk in file.chunks():
            if not chunk.sequences:
                continue
            spool.write(chunk.names.replace(b"\n", b""))
            originals = chunk.names.split(b"\n")
            names = chunk.names.replace(b"/", b"_").split(b"\n")
            for number, name in zip(chunk.numbers, names, strict=True):
                if why := refuse(name):
                    raise UserError(f"{file.path}, record {number} ({name.decode()[:40]}): {why}")
            sizes.append(np.fromiter(map(len, originals), np.int64, len(names)))
            hashes.append(np.fromiter(map(xxhash.xxh3_64_intdigest, names), np.uint64, len(names)))
            lengths.append(chunk.lengths)
            sequences.append(digests(chunk.sequences))
            if progress:
                progress(file.position, file.size)
        if not lengths:
            raise UserError(f"{file.path}: no record has a sequence; expected at least one protein")
        spool.flush()
        text = mmap.mmap(spool.fileno(), 0, access=mmap.ACCESS_READ)  # lives on without the file
    ends = np.cumsum(np.concatenate(sizes))
    names = Names(text, ends - np.concatenate(sizes), ends)
    keep = _resolve(file, names, np.concatenate(hashes), duplicates)
    every, digest = np.concatenate(lengths), np.concatenate(sequences)
    if not keep.all():
        names = Names(text, names.starts[keep], names.ends[keep])
        every, digest = every[keep], digest[keep]
    return Survey(keep, names, every, digest, file.describe(), file.tally)


def _resolve(file: FastaFile, names: Names, hashes: np.ndarray, duplicates: str) -> np.ndarray:
    """(records,) bool, which to keep; gives new names where that is asked for."""
    keep = np.ones(len(names), dtype=bool)
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
        alike = names.original(first) == names.original(index)
        if duplicates == "error" or (duplicates == "first" and not alike):
            raise UserError(_named_twice(file, names, first, index))
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
    """Whether a name is, or looks like, one of those with sorted hashes (n,) uint64."""
    value = np.uint64(xxhash.xxh3_64_intdigest(name))
    place = int(np.searchsorted(ordered, value))
    return place < len(ordered) and ordered[place] == value


def _named_twice(file: FastaFile, names: Names, first: int, second: int) -> str:
    """The message; numbers of records are found by reading again: only an error pays for them."""
    numbers = list(_numbers(file, (first, second)))
    one, other = names.original(first).decode(), names.original(second).decode()
    what = f"identifier {one!r} stands twice" if one == other else f"identifiers {one!r} and {other!r} become the same"
    ways = "--duplicates suffix or --duplicates first" if one == other else "--duplicates suffix"
    return f"{file.path}: {what}, in records {numbers[0]:,} and {numbers[1]:,}; make identifiers unique, or pass {ways}"


def _numbers(file: FastaFile, wanted: tuple[int, int]) -> Iterator[int]:
    before = 0
    for chunk in file.again().chunks():
        for index in wanted:
            if before <= index < before + len(chunk.numbers):
                yield int(chunk.numbers[index - before])
        before += len(chunk.numbers)
