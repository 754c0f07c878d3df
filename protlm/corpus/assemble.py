"""From placed records to a corpus, in memory that does not grow with the input.

The file of tokens of the first part becomes the corpus: HDF5's head is written into the bytes kept free at its
beginning and everything else behind, so most tokens are never copied.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np
from h5py import h5s, h5t

from protlm.corpus.external_sort import Column, Partitions, groups, parts_for
from protlm.corpus.ingest import START, Part
from protlm.corpus.placement import ROWS, Assembled, Placement, names_of
from protlm.corpus.splits import SPLITS, TRAIN
from protlm.corpus.workers import Workers
from protlm.sequence.alphabet import TOKENS, count_tokens

FORMAT = "protlm corpus"
VERSION = 2
_TOKENS = 1 << 21  # of a block
_LONG_ID = 40  # bytes; longer identifiers are mostly padding, and compressed


@dataclass
class _Finished:
    """A part as it goes into the corpus: columns of its kept records in its folder, and their tokens."""

    folder: Path
    records: int = 0
    residues: int = 0
    counts: np.ndarray = field(default_factory=lambda: np.zeros((len(SPLITS), len(TOKENS)), dtype=np.int64))
    """(4, 33) int64, how often each token stands in each split."""

    def column(self, name: str, dtype: str) -> Column:
        """One of "kept_lengths", "kept_split", "kept_cluster", "kept_ids", "merged_ids"."""
        return Column(self.folder / name, dtype)


def assemble(
    parts: Sequence[Part],
    placement: Placement,
    folder: Path,
    attributes: Mapping[str, Any],
    crew: Workers,
    result: Assembled,
) -> Path:
    """Writes the corpus of all parts, which are used up.

    Args:
        parts: at least one record in all.
        placement: what becomes of the records.
        folder: for temporary columns, and for the corpus.
        attributes: of the corpus, written as JSON.
        crew: finishes the parts.
        result: gets the counts of what was written.

    Returns:
        The corpus.
    """
    id_type = f"S{max(part.longest_id for part in parts)}"
    firsts = np.cumsum([0, *(part.records for part in parts)]).tolist()
    jobs = [(part, first, placement, id_type) for part, first in zip(parts, firsts, strict=False)]
    if placement.deduplicate:
        finished: list[_Finished] = crew.map(_finish, jobs)
        _join_tokens(finished)
    else:
        with ThreadPoolExecutor(1) as thread:  # tokens of which none is left out are joined at the same time
            joined = thread.submit(_join_tokens, parts)
            finished = crew.map(_finish, jobs)
            joined.result()
    result.residues = sum(part.residues for part in finished)
    result.proteins = sum(part.records for part in finished)
    result.merged = firsts[-1] - result.proteins
    tokens = finished[0].folder / "tokens"
    frame = folder / "frame"
    description = {name: json.dumps(value) for name, value in attributes.items()}
    _make_room(frame, int(id_type[1:]), sum(map(len, description.values())), placement.clustered, result)
    version = ("v110", "v110")
    with h5py.File(frame, "w", libver=version, alignment_threshold=START, alignment_interval=START) as file:
        in_place = _allocate(file, result.residues) == START
        file.attrs.update({"format": FORMAT, "version": VERSION, "alphabet": list(TOKENS)})
        file.attrs.update(description)
        file["residue_counts"] = np.sum([part.counts for part in finished], axis=0)
        _write_columns(file, finished, id_type, folder, placement.clustered, result)
        if result.merged:
            _write_merged(file, parts, placement, folder, result.merged)
        if not in_place:  # too few tokens to be aligned
            dataset = file["tokens"]
            assert isinstance(dataset, h5py.Dataset)
            dataset[:] = np.fromfile(tokens, np.uint8, offset=START)
    if not in_place:
        return frame
    with frame.open("rb") as source, tokens.open("r+b") as out:
        out.write(source.read(START))
        for handle in (source, out):
            handle.seek(START + result.residues)
        shutil.copyfileobj(source, out, 1 << 20)
    return tokens


def _finish(part: Part, first: int, placement: Placement, id_type: str, report: Callable[[int], None]) -> _Finished:
    """Leaves out what is not kept, counts residues by split, and brings ids to one width."""
    finished = _Finished(part.folder)
    left_out = np.zeros(len(TOKENS), dtype=np.int64)
    rows = zip(
        Column(part.folder / "lengths", "i4").blocks(ROWS), names_of(part), placement.blocks(part, first), strict=True
    )
    with (
        finished.column("kept_lengths", "i4") as kept_lengths,
        finished.column("kept_split", "u1") as kept_split,
        finished.column("kept_cluster", "i8") as kept_cluster,
        finished.column("kept_ids", id_type) as kept_ids,
        finished.column("merged_ids", id_type) as merged_ids,
        (part.folder / "tokens").open("rb") as tokens,
        (part.folder / "tokens").open("r+b") as out,
    ):
        tokens.seek(START)
        for lengths, names, (split, cluster, kept) in rows:
            ids = np.array(names, dtype=id_type)
            if not kept.all():
                merged_ids.append(ids[~kept])
            kept_ids.append(ids[kept])
            kept_lengths.append(lengths[kept])
            kept_split.append(split[kept])
            if placement.clustered:
                kept_cluster.append(cluster[kept])
            for run in _runs(lengths):
                place = START + finished.residues
                moved = tokens.tell() != place
                data = tokens.read(int(lengths[run].sum()))
                left_out += _count(data, lengths[run], split[run], kept[run], finished.counts)
                if not kept[run].all():
                    moved = True
                    data = np.frombuffer(data, np.uint8)[np.repeat(kept[run], lengths[run])].tobytes()
                if moved:  # towards the front of the same file, over what was read
                    out.seek(place)
                    out.write(data)
                finished.residues += len(data)
                report(finished.residues)
            finished.records += int(kept.sum())
        if finished.residues < part.residues:
            out.truncate(START + finished.residues)
    finished.counts[TRAIN] = part.counts - left_out - finished.counts.sum(0)
    return finished


def _count(data: bytes, lengths: np.ndarray, split: np.ndarray, kept: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Adds the residues of all splits but train, which is the rest, to counts (4, 33); returns those not kept (33,)."""
    ends = np.cumsum(lengths)

    def count(rows: np.ndarray) -> np.ndarray:
        if not rows.any():
            return np.zeros(len(TOKENS), dtype=np.int64)
        pairs = zip((ends[rows] - lengths[rows]).tolist(), ends[rows].tolist(), strict=True)
        return count_tokens(np.frombuffer(b"".join([data[start:stop] for start, stop in pairs]), np.uint8))

    for code in range(TRAIN + 1, len(SPLITS)):
        counts[code] += count((split == code) & kept)
    return count(~kept)


def _runs(lengths: np.ndarray) -> Iterator[slice]:
    """Slices of rows with about as many tokens as a block may have, or one row with more."""
    ends = np.cumsum(lengths, dtype=np.int64)
    start = 0
    while start < len(lengths):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + _TOKENS, side="right")))
        yield slice(start, stop)
        start = stop


def _join_tokens(finished: Sequence[_Finished] | Sequence[Part]) -> None:
    """Appends the tokens of all parts to those of the first."""
    with (finished[0].folder / "tokens").open("r+b", buffering=0) as out:
        out.seek(START + finished[0].residues)
        for part in finished[1:]:
            with (part.folder / "tokens").open("rb", buffering=0) as tokens:
                tokens.seek(START)
                _append(tokens, out, part.residues)


def _append(source: BinaryIO, out: BinaryIO, size: int) -> None:
    """Copies so many bytes from where a file stands to where another one stands, within the system if it can."""
    if not hasattr(os, "copy_file_range"):
        shutil.copyfileobj(source, out, 1 << 20)
        return
    while size:
        copied = os.copy_file_range(source.fileno(), out.fileno(), size)
        if not copied:
            raise OSError(errno.EIO, "file became shorter while it was read")
        size -= copied


def _make_room(frame: Path, width: int, description: int, clustered: bool, result: Assembled) -> None:
    """Raises OSError if the disk has no room for all that is still to be written: HDF5 would crash on a full one.

    Args:
        frame: the file to try; it is removed again.
        width, description: bytes of an identifier and of the attributes.
        clustered, result: what will be written.
    """
    proteins, merged = result.proteins, result.merged
    datasets = proteins * (width + 17 + 16 * clustered) + merged * (width + 8)
    columns = proteins * (16 + 32 * clustered) + 8 * (proteins + merged) * (merged > 0) + 40 * merged
    with frame.open("wb") as file:
        file.truncate(START + result.residues)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), START + result.residues, datasets + columns + description + (1 << 20))
    frame.unlink()


def _allocate(file: h5py.File, size: int) -> int:
    """Makes the dataset of tokens without writing it; returns where it begins in the file, in bytes."""
    low: Any = h5py  # its low-level modules have no types
    properties = low.h5p.create(low.h5p.DATASET_CREATE)
    properties.set_fill_time(low.h5d.FILL_TIME_NEVER)
    properties.set_alloc_time(low.h5d.ALLOC_TIME_EARLY)
    return low.h5d.create(file.id, b"tokens", h5t.STD_U8LE, h5s.create_simple((size,)), dcpl=properties).get_offset()


def _write_columns(
    file: h5py.File, finished: Sequence[_Finished], id_type: str, folder: Path, clustered: bool, result: Assembled
) -> None:
    """All that has a row for each protein."""
    packed = {"compression": "gzip", "shuffle": True} if int(id_type[1:]) > _LONG_ID else {}
    codes = h5py.enum_dtype({name: code for code, name in enumerate(SPLITS)}, basetype=np.uint8)
    _fill(file, "ids", [part.column("kept_ids", id_type) for part in finished], **packed)
    _fill(file, "split", [part.column("kept_split", "u1") for part in finished], dtype=codes)
    if result.merged:
        _fill(file, "merged_ids", [part.column("merged_ids", id_type) for part in finished], **packed)
    if clustered:
        _fill(file, "clusters", [part.column("kept_cluster", "i8") for part in finished])
    with Column(folder / "offsets", "i8") as offsets:
        end = 0
        offsets.append(np.zeros(1, dtype=np.int64))
        for part in finished:
            for lengths in part.column("kept_lengths", "i4").blocks():
                ends = end + np.cumsum(lengths, dtype=np.int64)
                offsets.append(ends)
                end = int(ends[-1])
    _fill(file, "offsets", [offsets])
    _write_members(file, finished, folder, clustered, result)


def _write_members(
    file: h5py.File, finished: Sequence[_Finished], folder: Path, clustered: bool, result: Assembled
) -> None:
    """Proteins by split, and within a split by cluster."""
    members = [Column(folder / f"members_{name}", "i8") for name in SPLITS]
    starts = [Column(folder / f"groups_{name}", "i8") for name in SPLITS]
    sorters = [Partitions(folder / f"by_cluster_{name}", 2, parts_for(result.proteins)) for name in SPLITS]
    with ExitStack() as stack:
        for column in (*members, *starts):
            stack.enter_context(column)
        first = 0
        for part in finished:
            clusters = part.column("kept_cluster", "i8").blocks(ROWS) if clustered else repeat(None)
            for split, cluster in zip(part.column("kept_split", "u1").blocks(ROWS), clusters, strict=False):
                for code, sorter in enumerate(sorters):
                    proteins = np.flatnonzero(split == code)
                    if cluster is None:
                        members[code].append(first + proteins)
                    else:
                        numbers = cluster[proteins]
                        sorter.add(sorter.by_index(numbers, result.clusters), numbers, first + proteins)
                first += len(split)
        before = 0
        for column, start, sorter in zip(members, starts, sorters, strict=True):
            for cluster, protein in sorter.sorted([0, 1]) if clustered else ():
                start.append(before + np.flatnonzero(groups(cluster)))
                column.append(protein)
                before += len(protein)
    counts = [len(column) for column in members]
    result.proteins_by_split = dict(zip(SPLITS, counts, strict=True))
    file["member_offsets"] = np.concatenate(([0], np.cumsum(counts)))
    _fill(file, "members", members)
    if clustered:
        with Column(folder / "groups_end", "i8") as end:
            end.append(np.array([result.proteins]))
        _fill(file, "groups", [*starts, end])
        file["group_offsets"] = np.concatenate(([0], np.cumsum([len(start) for start in starts])))


def _write_merged(file: h5py.File, parts: Sequence[Part], placement: Placement, folder: Path, merged: int) -> None:
    """The protein that each of the records left out is identical to: those that stand for them are looked up."""
    records = sum(part.records for part in parts)
    wanted = Partitions(folder / "wanted", 2, parts_for(records + 10 * merged))  # many may stand near each other
    ordered = Partitions(folder / "ordered", 2, parts_for(merged))
    assert placement.columns is not None
    standing_of = placement.columns[2]
    behind = proteins = start = 0
    with Column(folder / "new", "i8") as new, Column(folder / "merged_into", "i8") as into:
        for standing in standing_of.blocks(ROWS):
            kept = standing == np.arange(start, start + len(standing))
            new.append(proteins + np.cumsum(kept) - 1)
            gone = standing[~kept]
            wanted.add(wanted.by_index(gone, records), gone, np.arange(behind, behind + len(gone)))
            start, behind, proteins = start + len(standing), behind + len(gone), proteins + int(kept.sum())
        for standing, order in wanted.sorted([0]):
            if len(standing):
                low = int(standing[0])
                protein = new.read(low, int(standing[-1]) + 1)[standing.astype(np.int64) - low]
                ordered.add(ordered.by_index(order, behind), order, protein)
        for _, protein in ordered.sorted([0]):
            into.append(protein)
    _fill(file, "merged_into", [into])


def _fill(file: h5py.File, name: str, columns: Sequence[Column], dtype: Any = None, **options: Any) -> None:
    """A dataset from columns, one behind the other; contiguous unless options say otherwise."""
    size = sum(map(len, columns))
    dataset = file.create_dataset(name, (size,), dtype or columns[0].dtype, **options)
    start = 0
    for column in columns:
        for block in column.blocks():
            dataset[start : start + len(block)] = block
            start += len(block)
