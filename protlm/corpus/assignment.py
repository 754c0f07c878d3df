"""Assigns each record its cluster, its split and the record that represents its sequence.

Tables are joined and sorted partition by partition (`Partitions`), so memory does not grow with the input.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from protlm.corpus.external_sort import Column, Partitions, groups, parts_for
from protlm.corpus.identifiers import Match, count_duplicates, keys
from protlm.corpus.ingest import Part
from protlm.corpus.splits import OOD, SplitRule, digests, read_clusters
from protlm.corpus.summary import PrepareSummary
from protlm.errors import UserError, counted
from protlm.sequence.stream import Source

ROWS = 1 << 16
"""Records of a block."""

_TABLE_ROW = 8  # minimum bytes of a row in a compressed cluster table


@dataclass(frozen=True)
class ClusterTable:
    """A cluster table on disk.

    Attributes:
        partitions: hashes (member high, low, representative high, low) of the identifiers' `keys`.
        match: of its members.
        description: name, size and checksum.
    """

    partitions: Partitions
    match: Match
    description: dict[str, Any]

    def conflict(self, hashes: Sequence[int], spaces: bool) -> UserError:
        """What to raise for members, by the high halves of their hashes, that are in more than one cluster."""
        path, example = Path(self.match.source), ""
        for members, _ in read_clusters(Source(path)) if path.is_file() else ():
            found = np.flatnonzero(digests(keys(members, spaces))[:, 0] == hashes[0])
            if len(found):
                example = f", such as {members[found[0]].decode()!r}"
                break
        number = counted(len(set(hashes)), "identifier")
        return UserError(
            f"{path}: {number} in more than one cluster{example}; expected representative, tab, member, with "
            "each member once (are the columns swapped?)"
        )


def read_cluster_table(path: str | Path, folder: Path, records: int, spaces: bool = False) -> ClusterTable:
    """Reads a cluster table, to be joined with `records` records, into partitions in a folder.

    `spaces`: identifiers of records may contain spaces.
    """
    source, match = Source(path), Match(str(path))
    table = Partitions(folder / "table", 4, parts_for(max(records, source.size // _TABLE_ROW)))
    for members, representatives in read_clusters(source):
        match.names = match.names or members
        match.total += len(members)
        member, representative = digests(keys(members, spaces)), digests(keys(representatives, whole=True))
        table.add(table.by_hash(member[:, 0]), *member.T, *representative.T)
    return ClusterTable(table, match, source.describe())


@dataclass(frozen=True)
class Assignment:
    """The split, cluster and representative of each record; can be pickled."""

    rule: SplitRule
    deduplicate: bool
    """Keep only records that represent their sequence."""
    clustered: bool
    """Whether there is a cluster table."""
    columns: tuple[Column, Column, Column] | None = None
    """Split, cluster and representative of every record; None where the rule needs only the digests."""

    def blocks(self, part: Part, first: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Splits uint8, clusters int64 and whether each record is kept, block by block; `first` precede this part."""
        if self.columns is None:
            for hashes in _hashes(part):
                split = self.rule.by_hash(hashes[:, 0])
                yield split, np.zeros(0, dtype=np.int64), np.ones(len(split), dtype=bool)
            return
        for start, stop in _ranges(part, first):
            split, cluster, representative = (column.read(start, stop) for column in self.columns)
            kept = representative == np.arange(start, stop) if self.deduplicate else np.ones(len(split), dtype=bool)
            yield split, cluster, kept


def assign(
    parts: Sequence[Part],
    table: ClusterTable | None,
    folder: Path,
    rule: SplitRule,
    deduplicate: bool,
    summary: PrepareSummary,
    spaces: bool = False,
) -> Assignment:
    """Assigns all records.

    Args:
        parts: in the order of their records.
        table: of clusters, whose partitions are consumed; None without clusters.
        folder: for temporary columns.
        rule: how splits are assigned.
        deduplicate: keep the first record of each sequence.
        summary: receives the counts.
        spaces: identifiers may contain spaces.

    Raises:
        UserError: if the identifiers of the table or those to hold out are not those of the records.
    """
    count = sum(part.records for part in parts)
    hashes = (digests(names)[:, 0] for part in parts for names in names_of(part))
    summary.duplicates = count_duplicates(hashes, folder / "identifiers", parts_for(count))
    if table is None and not rule.held_out and not deduplicate:
        return Assignment(rule, deduplicate, False)
    assigner = _Assigner(parts, folder, rule, summary, spaces)
    columns = assigner.by_index(assigner.united(assigner.clustered(table) if table else assigner.alone()))
    assigner.check_held_out()
    return Assignment(rule, deduplicate, table is not None, columns)


def names_of(part: Part) -> Iterator[list[bytes]]:
    """The identifiers of a part, block by block."""
    with (part.folder / "ids").open("rb") as file:
        while lines := list(islice(file, ROWS)):
            yield b"".join(lines).split(b"\n")[:-1]


def _ranges(part: Part, first: int) -> Iterator[tuple[int, int]]:
    """The range of records of each block."""
    for start in range(first, first + part.records, ROWS):
        yield start, min(start + ROWS, first + part.records)


def _hashes(part: Part) -> Iterator[np.ndarray]:
    """The digests (n, 2) of a part, block by block."""
    for block in Column(part.folder / "digests", "u8").blocks(2 * ROWS):
        yield block.reshape(-1, 2)


class _Assigner:
    """The steps of `assign`, each a stream of blocks of rows."""

    def __init__(
        self, parts: Sequence[Part], folder: Path, rule: SplitRule, summary: PrepareSummary, spaces: bool
    ) -> None:
        self._parts, self._folder, self._rule, self._summary = parts, folder, rule, summary
        self._count = sum(part.records for part in parts)
        self._spaces = spaces
        self._names = sorted(rule.held_out)
        encoded = [name.encode() for name in self._names]
        # the name of a cluster may contain spaces; a protein's may be followed by its description
        self._hashes = np.stack([digests(keys(encoded, whole))[:, 0] for whole in (True, spaces)])
        self.held = np.unique(self._hashes)
        self.seen = np.zeros(len(self.held), dtype=bool)

    def _records(self) -> Iterator[tuple[tuple[int, int], np.ndarray, list[bytes]]]:
        """Range, digests and identifiers of each block."""
        first = 0
        for part in self._parts:
            yield from zip(_ranges(part, first), _hashes(part), names_of(part), strict=True)
            first += part.records

    def _partitions(self, name: str, columns: int) -> Partitions:
        return Partitions(self._folder / name, columns, parts_for(self._count))

    def _is_held(self, high: np.ndarray) -> np.ndarray:
        if not len(self.held):
            return np.zeros(len(high), dtype=bool)
        row = np.searchsorted(self.held, high).clip(max=len(self.held) - 1)
        found = self.held[row] == high
        self.seen[row[found]] = True
        return found

    def check_held_out(self) -> None:
        """Reports identifiers to hold out that were not found, or raises a UserError if they are most of them.

        Those of records that the selection has left out cannot be found.
        """
        found = self.seen[np.searchsorted(self.held, self._hashes)].any(0)
        missing = [self._names[index] for index in np.flatnonzero(~found)]
        names, total = [name.encode() for name in missing], len(self._names)
        match = Match("held_out", names, total, total - len(missing))
        if match.poor and len(missing) > self._summary.left_out:
            raise match.error(self._examples())
        self._summary.not_found = missing

    def _examples(self) -> list[bytes]:
        """The first identifiers of the records."""
        return next(names for part in self._parts for names in names_of(part))

    def alone(self) -> Iterator[tuple[np.ndarray, ...]]:
        """Without clusters: (digest high, low, record, split, cluster 0)."""
        for (start, stop), hashes, names in self._records():
            split = self._rule.by_hash(hashes[:, 0])
            if len(self.held):
                split[self._is_held(digests(keys(names, self._spaces))[:, 0])] = OOD
            yield hashes[:, 0], hashes[:, 1], np.arange(start, stop), split, np.zeros_like(split)

    def clustered(self, table: ClusterTable) -> Iterator[tuple[np.ndarray, ...]]:
        """As `alone`, with the cluster from the table, which is joined by hashes of identifiers."""
        rows, match, conflicts = table.partitions, table.match, []
        named = Partitions(self._folder / "named", 5, rows.count)
        for (start, stop), hashes, names in self._records():
            name = digests(keys(names, self._spaces))
            named.add(named.by_hash(name[:, 0]), *name.T, np.arange(start, stop), *hashes.T)
        clusters = self._partitions("clusters", 7)
        for known, (high, low, record, *sequence) in zip(rows.sorted([0, 1]), named.sorted([0, 1]), strict=True):
            several = ~groups(*known[:2]) & groups(*known[2:])
            conflicts += known[0][several].tolist()
            cluster_high, cluster_low, found = _look_up(known, high, low)
            match.found += int(np.isin(known[0], high).sum())
            self._summary.without_cluster += int((~found).sum())
            held = self._is_held(high)
            numbers = clusters.by_hash(cluster_high)
            clusters.add(numbers, cluster_high, cluster_low, record, *sequence, found, held)
        if conflicts:
            raise table.conflict(conflicts, self._spaces)
        # a table of more proteins, or of fewer, is no mistake
        if match.poor and 2 * self._summary.without_cluster > self._count:
            raise match.error(self._examples())
        for high, low, record, digest_high, digest_low, found, held in clusters.sorted([0, 1, 2]):
            first = groups(high, low)
            number = self._summary.clusters + np.cumsum(first) - 1
            self._summary.clusters += int(first.sum())
            whole = (found != 0) & self._rule.whole_clusters
            split = self._rule.by_hash(np.where(whole, high, digest_high))
            # an identifier to hold out that is not in the table names a protein, not a cluster
            split[(held != 0) | self._is_held(high)] = OOD
            yield digest_high, digest_low, record, split, number

    def united(self, rows: Iterator[tuple[np.ndarray, ...]]) -> Iterator[tuple[np.ndarray, ...]]:
        """(record, split, cluster, representative), with one split for identical sequences.

        It is `ood` if any of them is held out, else the split of the first. Clusters and lists name proteins, so a
        sequence that occurs under two names could otherwise be in two splits.
        """
        sequences = self._partitions("sequences", 5)
        for high, *columns in rows:
            sequences.add(sequences.by_hash(high), high, *columns)
        for high, low, record, split, cluster in sequences.sorted([0, 1, 2]):
            first = groups(high, low)
            group = np.cumsum(first) - 1
            united = split[first]
            united[group[split == OOD]] = OOD
            self._summary.moved_to_identical += int((united[group] != split).sum())
            yield record, united[group], cluster, record[first][group]

    def by_index(self, rows: Iterator[tuple[np.ndarray, ...]]) -> tuple[Column, Column, Column]:
        """Split, cluster and representative as columns in the order of the records."""
        records = self._partitions("records", 4)
        for record, *columns in rows:
            records.add(records.by_index(record, self._count), record, *columns)
        with (
            Column(self._folder / "split", "u1") as split,
            Column(self._folder / "cluster", "i8") as cluster,
            Column(self._folder / "representative", "i8") as representative,
        ):
            for _, *columns in records.sorted([0]):
                for column, values in zip((split, cluster, representative), columns, strict=True):
                    column.append(values)
        return split, cluster, representative


def _look_up(table: Sequence[np.ndarray], high: np.ndarray, low: np.ndarray) -> tuple[np.ndarray, ...]:
    """Clusters high, low of names, and whether a sorted table (name high, low, cluster high, low) has the name.

    A name without a row is its own cluster; several rows of a name are equal.
    """
    known_high, known_low, cluster_high, cluster_low = table
    row = np.searchsorted(known_high, high, side="right") - 1
    found = np.zeros(len(high), dtype=bool)
    # different names with equal high halves are neighbours; there are hardly ever any
    for _ in range(4):
        at = row.clip(min=0)
        hit = (row >= 0) & ~found
        if not len(known_high) or not hit.any():
            break
        hit &= (known_high[at] == high) & (known_low[at] == low)
        found |= hit
        row = np.where(found, row, row - 1)
    at = row.clip(min=0)
    if not found.any():
        return high, low, found
    return np.where(found, cluster_high[at], high), np.where(found, cluster_low[at], low), found
