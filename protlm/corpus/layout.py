"""The HDF5 datasets of a corpus that have a row for each protein; docs/formats.md describes them."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5s, h5t

from protlm.corpus.assignment import ROWS
from protlm.corpus.external_sort import Column, Partitions, groups, parts_for
from protlm.corpus.splits import SPLITS
from protlm.corpus.summary import PrepareSummary

FORMAT = "protlm corpus"
VERSION = 2

_LONG_ID = 40  # bytes; longer identifiers are mostly padding, so they are compressed


@dataclass
class KeptPart:
    """The records of a part that go into the corpus, as columns in its folder beside their tokens."""

    folder: Path
    counts: np.ndarray
    """(4, V) int64, how often each token occurs in each split."""
    records: int = 0
    residues: int = 0

    def column(self, name: str, dtype: str) -> Column:
        """One of "kept_lengths", "kept_split", "kept_cluster", "kept_ids", "merged_ids"."""
        return Column(self.folder / name, dtype)


def allocate_tokens(file: h5py.File, size: int) -> int:
    """Creates the dataset of tokens without writing it; returns its offset in the file, in bytes."""
    low: Any = h5py  # its low-level modules have no types
    properties = low.h5p.create(low.h5p.DATASET_CREATE)
    properties.set_fill_time(low.h5d.FILL_TIME_NEVER)
    properties.set_alloc_time(low.h5d.ALLOC_TIME_EARLY)
    return low.h5d.create(file.id, b"tokens", h5t.STD_U8LE, h5s.create_simple((size,)), dcpl=properties).get_offset()


def write_columns(
    file: h5py.File, parts: Sequence[KeptPart], id_type: str, folder: Path, clustered: bool, summary: PrepareSummary
) -> None:
    """Writes every dataset with a row for each protein, except the tokens."""
    packed = {"compression": "gzip", "shuffle": True} if int(id_type[1:]) > _LONG_ID else {}
    codes = h5py.enum_dtype({name: code for code, name in enumerate(SPLITS)}, basetype=np.uint8)
    _write(file, "ids", [part.column("kept_ids", id_type) for part in parts], **packed)
    _write(file, "split", [part.column("kept_split", "u1") for part in parts], dtype=codes)
    if summary.merged:
        _write(file, "merged_ids", [part.column("merged_ids", id_type) for part in parts], **packed)
    if clustered:
        _write(file, "clusters", [part.column("kept_cluster", "i8") for part in parts])
    with Column(folder / "offsets", "i8") as offsets:
        end = 0
        offsets.append(np.zeros(1, dtype=np.int64))
        for part in parts:
            for lengths in part.column("kept_lengths", "i4").blocks():
                ends = end + np.cumsum(lengths, dtype=np.int64)
                offsets.append(ends)
                end = int(ends[-1])
    _write(file, "offsets", [offsets])
    _write_members(file, parts, folder, clustered, summary)


def _write_members(
    file: h5py.File, parts: Sequence[KeptPart], folder: Path, clustered: bool, summary: PrepareSummary
) -> None:
    """Writes the proteins of each split, sorted by cluster within a split."""
    members = [Column(folder / f"members_{name}", "i8") for name in SPLITS]
    starts = [Column(folder / f"groups_{name}", "i8") for name in SPLITS]
    sorters = [Partitions(folder / f"by_cluster_{name}", 2, parts_for(summary.proteins)) for name in SPLITS]
    with ExitStack() as stack:
        for column in (*members, *starts):
            stack.enter_context(column)
        first = 0
        for part in parts:
            clusters = part.column("kept_cluster", "i8").blocks(ROWS) if clustered else repeat(None)
            for split, cluster in zip(part.column("kept_split", "u1").blocks(ROWS), clusters, strict=False):
                for code, sorter in enumerate(sorters):
                    proteins = np.flatnonzero(split == code)
                    if cluster is None:
                        members[code].append(first + proteins)
                    else:
                        numbers = cluster[proteins]
                        sorter.add(sorter.by_index(numbers, summary.clusters), numbers, first + proteins)
                first += len(split)
        before = 0
        for column, start, sorter in zip(members, starts, sorters, strict=True):
            for cluster, protein in sorter.sorted([0, 1]) if clustered else ():
                start.append(before + np.flatnonzero(groups(cluster)))
                column.append(protein)
                before += len(protein)
    counts = [len(column) for column in members]
    summary.proteins_by_split = dict(zip(SPLITS, counts, strict=True))
    file["member_offsets"] = np.concatenate(([0], np.cumsum(counts)))
    _write(file, "members", members)
    if clustered:
        with Column(folder / "groups_end", "i8") as end:
            end.append(np.array([summary.proteins]))
        _write(file, "groups", [*starts, end])
        file["group_offsets"] = np.concatenate(([0], np.cumsum([len(start) for start in starts])))


def write_merged(file: h5py.File, representatives: Column, folder: Path, merged: int) -> None:
    """Writes the protein that each of the merged records is identical to, from the representatives of all records."""
    records = len(representatives)
    queries = Partitions(folder / "queries", 2, parts_for(records + 10 * merged))  # many may be near each other
    ordered = Partitions(folder / "ordered", 2, parts_for(merged))
    start = before = proteins = 0
    with Column(folder / "new", "i8") as new, Column(folder / "merged_into", "i8") as into:
        for representative in representatives.blocks(ROWS):
            kept = representative == np.arange(start, start + len(representative))
            new.append(proteins + np.cumsum(kept) - 1)
            found = representative[~kept]
            queries.add(queries.by_index(found, records), found, np.arange(before, before + len(found)))
            start, before, proteins = start + len(kept), before + len(found), proteins + int(kept.sum())
        for representative, order in queries.sorted([0]):
            if len(representative):
                low = int(representative[0])
                protein = new.read(low, int(representative[-1]) + 1)[representative.astype(np.int64) - low]
                ordered.add(ordered.by_index(order, before), order, protein)
        for _, protein in ordered.sorted([0]):
            into.append(protein)
    _write(file, "merged_into", [into])


def _write(file: h5py.File, name: str, columns: Sequence[Column], dtype: Any = None, **options: Any) -> None:
    """Writes a dataset from concatenated columns; contiguous unless `options` say otherwise."""
    size = sum(map(len, columns))
    dataset = file.create_dataset(name, (size,), dtype or columns[0].dtype, **options)
    start = 0
    for column in columns:
        for block in column.blocks():
            dataset[start : start + len(block)] = block
            start += len(block)
