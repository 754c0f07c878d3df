"""Where each record goes: its cluster, its split, and the record that stands for its sequence.

Tables are joined and sorted part by part (`Partitions`), so memory does not grow with the input.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from protlm.corpus.external_sort import Column, Partitions, groups, parts_for
from protlm.corpus.ingest import Part
from protlm.corpus.splits import OOD, SplitRule, digests, read_clusters
from protlm.sequence.stream import Source

ROWS = 1 << 16
"""Records of a block."""

_TABLE_ROW = 8  # bytes of a row in a compressed table of clusters, at least


@dataclass
class Assembled:
    """What became of the records."""

    proteins: int = 0
    residues: int = 0
    proteins_by_split: dict[str, int] = field(default_factory=dict)
    merged: int = 0
    """Records left out because their sequence was there already."""
    moved_to_identical: int = 0
    """Records put into the split of an identical sequence."""
    not_found: list[str] = field(default_factory=list)
    """Ids to hold out that are neither a protein nor a cluster of the files."""
    without_cluster: int = 0
    """Records that the cluster table does not name."""
    clusters: int = 0
    """Clusters of the records, also of those that were merged."""


def read_table(path: str | Path, folder: Path, records: int) -> tuple[Partitions, dict[str, Any]]:
    """A table of clusters as rows of hashes (member high, low, representative high, low), spread over files.

    Args:
        path: the table.
        folder: for the files.
        records: that the table will be joined with.

    Returns:
        The rows, and the table's name, bytes and checksum.

    Raises:
        UserError: for a table that cannot be used.
    """
    source = Source(path)
    table = Partitions(folder / "table", 4, parts_for(max(records, source.size // _TABLE_ROW)))
    for members, representatives in read_clusters(source):
        member, representative = digests(members), digests(representatives)
        table.add(table.by_hash(member[:, 0]), *member.T, *representative.T)
    return table, source.describe()


@dataclass(frozen=True)
class Placement:
    """What becomes of each record; can be sent to other processes.

    Args:
        rule: how splits are assigned.
        deduplicate: keep only records that stand for their sequence.
        clustered: clusters are known.
        columns: split, cluster and standing record of all records; None where the rule needs only the digests.
    """

    rule: SplitRule
    deduplicate: bool
    clustered: bool
    columns: tuple[Column, Column, Column] | None = None

    def blocks(self, part: Part, first: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Splits uint8, clusters int64, and true where a record is kept, of a part, block by block.

        Args:
            part: the first of whose records is record `first` of all.
        """
        if self.columns is None:
            for hashes in _hashes(part):
                split = self.rule.by_hash(hashes[:, 0])
                yield split, np.zeros(0, dtype=np.int64), np.ones(len(split), dtype=bool)
            return
        for start, stop in _ranges(part, first):
            split, cluster, standing = (column.read(start, stop) for column in self.columns)
            kept = standing == np.arange(start, stop) if self.deduplicate else np.ones(len(split), dtype=bool)
            yield split, cluster, kept


def place(
    parts: Sequence[Part], table: Partitions | None, folder: Path, rule: SplitRule, deduplicate: bool, result: Assembled
) -> Placement:
    """Decides what becomes of all records.

    Args:
        parts: of which the first records come first.
        table: of clusters, by `read_table`; used up. None without.
        folder: for temporary columns.
        rule: how splits are assigned.
        deduplicate: keep one record of each sequence, the first.
        result: gets the counts of what was found.
    """
    if table is None and not rule.held_out and not deduplicate:
        return Placement(rule, deduplicate, False)
    placer = _Placer(parts, folder, rule, result)
    columns = placer.by_index(placer.united(placer.clustered(table) if table else placer.alone()))
    names = {int(digests([name.encode()])[0, 0]): name for name in rule.held_out}
    result.not_found = sorted(names[int(value)] for value in placer.held[~placer.seen])
    return Placement(rule, deduplicate, table is not None, columns)


def names_of(part: Part) -> Iterator[list[bytes]]:
    """The ids of a part, block by block."""
    with (part.folder / "ids").open("rb") as file:
        while lines := list(islice(file, ROWS)):
            yield b"".join(lines).split(b"\n")[:-1]


def _ranges(part: Part, first: int) -> Iterator[tuple[int, int]]:
    """The first record and the one behind the last of each block."""
    for start in range(first, first + part.records, ROWS):
        yield start, min(start + ROWS, first + part.records)


def _hashes(part: Part) -> Iterator[np.ndarray]:
    """The digests (n, 2) of a part, block by block."""
    for block in Column(part.folder / "digests", "u8").blocks(2 * ROWS):
        yield block.reshape(-1, 2)


class _Placer:
    """The steps of `place`, each a stream of blocks of rows."""

    def __init__(self, parts: Sequence[Part], folder: Path, rule: SplitRule, result: Assembled) -> None:
        self._parts, self._folder, self._rule, self._result = parts, folder, rule, result
        self._count = sum(part.records for part in parts)
        self.held = np.sort(digests([name.encode() for name in sorted(rule.held_out)])[:, 0])
        self.seen = np.zeros(len(self.held), dtype=bool)

    def _records(self) -> Iterator[tuple[tuple[int, int], np.ndarray, list[bytes]]]:
        """Of each block the range, the digests and the ids."""
        first = 0
        for part in self._parts:
            yield from zip(_ranges(part, first), _hashes(part), names_of(part), strict=True)
            first += part.records

    def _partitions(self, name: str, columns: int) -> Partitions:
        return Partitions(self._folder / name, columns, parts_for(self._count))

    def _is_held(self, high: np.ndarray) -> np.ndarray:
        if not len(self.held):
            return np.zeros(len(high), dtype=bool)
        place = np.searchsorted(self.held, high).clip(max=len(self.held) - 1)
        found = self.held[place] == high
        self.seen[place[found]] = True
        return found

    def alone(self) -> Iterator[tuple[np.ndarray, ...]]:
        """Without clusters: (digest high, low, record, split, cluster 0)."""
        for (start, stop), hashes, names in self._records():
            split = self._rule.by_hash(hashes[:, 0])
            if len(self.held):
                split[self._is_held(digests(names)[:, 0])] = OOD
            yield hashes[:, 0], hashes[:, 1], np.arange(start, stop), split, np.zeros_like(split)

    def clustered(self, table: Partitions) -> Iterator[tuple[np.ndarray, ...]]:
        """With clusters: the same, joined with the table by the hashes of names."""
        named = Partitions(self._folder / "named", 5, table.count)
        for (start, stop), hashes, names in self._records():
            name = digests(names)
            named.add(named.by_hash(name[:, 0]), *name.T, np.arange(start, stop), *hashes.T)
        clusters = self._partitions("clusters", 7)
        for known, (high, low, record, *sequence) in zip(table.sorted([0, 1]), named.sorted([0, 1]), strict=True):
            cluster_high, cluster_low, found = _look_up(known, high, low)
            self._result.without_cluster += int((~found).sum())
            held = self._is_held(high)
            numbers = clusters.by_hash(cluster_high)
            clusters.add(numbers, cluster_high, cluster_low, record, *sequence, found, held)
        for high, low, record, digest_high, digest_low, found, held in clusters.sorted([0, 1, 2]):
            first = groups(high, low)
            number = self._result.clusters + np.cumsum(first) - 1
            self._result.clusters += int(first.sum())
            whole = (found != 0) & self._rule.whole_clusters
            split = self._rule.by_hash(np.where(whole, high, digest_high))
            # a list that names a protein outside the table names that protein, not a cluster
            split[(held != 0) | self._is_held(high)] = OOD
            yield digest_high, digest_low, record, split, number

    def united(self, rows: Iterator[tuple[np.ndarray, ...]]) -> Iterator[tuple[np.ndarray, ...]]:
        """(record, split, cluster, record that stands for the sequence): one split for identical sequences.

        It is `ood` if any of them is held out, else that of the first. Clusters and lists name proteins, not sequences:
        a sequence that stands in the files twice, under two names, could be on both sides.
        """
        sequences = self._partitions("sequences", 5)
        for high, *columns in rows:
            sequences.add(sequences.by_hash(high), high, *columns)
        for high, low, record, split, cluster in sequences.sorted([0, 1, 2]):
            first = groups(high, low)
            group = np.cumsum(first) - 1
            united = split[first]
            united[group[split == OOD]] = OOD
            self._result.moved_to_identical += int((united[group] != split).sum())
            yield record, united[group], cluster, record[first][group]

    def by_index(self, rows: Iterator[tuple[np.ndarray, ...]]) -> tuple[Column, Column, Column]:
        """Columns in the order of the records: split, cluster, record that stands for the sequence."""
        records = self._partitions("records", 4)
        for record, *columns in rows:
            records.add(records.by_index(record, self._count), record, *columns)
        with (
            Column(self._folder / "placed_split", "u1") as split,
            Column(self._folder / "placed_cluster", "i8") as cluster,
            Column(self._folder / "placed_standing", "i8") as standing,
        ):
            for _, *columns in records.sorted([0]):
                for column, values in zip((split, cluster, standing), columns, strict=True):
                    column.append(values)
        return split, cluster, standing


def _look_up(
    table: Sequence[np.ndarray], high: np.ndarray, low: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Clusters of names by a sorted table (name high, low, cluster high, low); one that it lacks is its own cluster.

    Returns:
        cluster high, low, and true where the table has the name; of names that it has twice, the last counts.
    """
    known_high, known_low, cluster_high, cluster_low = table
    place = np.searchsorted(known_high, high, side="right") - 1
    found = np.zeros(len(high), dtype=bool)
    # halves of 64 bits that are equal for different names are next to each other; there are hardly ever any
    for _ in range(4):
        at = place.clip(min=0)
        hit = (place >= 0) & ~found
        if not len(known_high) or not hit.any():
            break
        hit &= (known_high[at] == high) & (known_low[at] == low)
        found |= hit
        place = np.where(found, place, place - 1)
    at = place.clip(min=0)
    if not found.any():
        return high, low, found
    return np.where(found, cluster_high[at], high), np.where(found, cluster_low[at], low), found
