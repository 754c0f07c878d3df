"""Writes the selected records as a corpus, in constant memory.

The token file of the first part becomes the corpus: the head of the HDF5 file goes into the bytes kept free at its
start and everything else after the tokens, so most tokens are never copied.
"""

import errno
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import h5py
import numpy as np

from protlm.corpus.assignment import ROWS, Assignment, names_of
from protlm.corpus.external_sort import Column
from protlm.corpus.ingest import START, Part
from protlm.corpus.layout import FORMAT, VERSION, KeptPart, allocate_tokens, write_columns, write_merged
from protlm.corpus.splits import SPLITS, TRAIN, nothing_to_learn
from protlm.corpus.summary import PrepareSummary
from protlm.corpus.workers import Workers
from protlm.errors import UserError
from protlm.sequence.alphabets import PROTEIN, Alphabet, describe
from protlm.strict_json import dumps

_TOKENS = 1 << 21  # processed at a time


def write_corpus(
    parts: Sequence[Part],
    assignment: Assignment,
    folder: Path,
    attributes: Mapping[str, Any],
    crew: Workers,
    summary: PrepareSummary,
    alphabet: Alphabet = PROTEIN,
) -> Path:
    """Writes the corpus of all parts, whose files it reuses, and returns its path.

    Args:
        parts: with at least one record in total.
        assignment: split, cluster and representative of each record.
        folder: for temporary columns and the corpus.
        attributes: of the corpus, written as JSON.
        crew: selects the kept records of the parts.
        summary: receives the counts of written records.
        alphabet: of the tokens.

    Returns:
        The corpus.

    Raises:
        UserError: if a model could learn nothing from its train split; an empty one is accepted, for evaluation.
    """
    id_type = f"S{max(part.longest_id for part in parts)}"
    firsts = np.cumsum([0, *(part.records for part in parts)]).tolist()
    jobs = [(part, first, assignment, id_type, alphabet) for part, first in zip(parts, firsts, strict=False)]
    if assignment.deduplicate:
        kept: list[KeptPart] = crew.map(_keep, jobs)
        _join_tokens(kept)
    else:
        with ThreadPoolExecutor(1) as thread:  # every token is kept, so files can be joined in the background
            joined = thread.submit(_join_tokens, parts)
            kept = crew.map(_keep, jobs)
            joined.result()
    summary.residues = sum(part.residues for part in kept)
    summary.proteins = sum(part.records for part in kept)
    summary.merged = firsts[-1] - summary.proteins
    counts = np.sum([part.counts for part in kept], axis=0)
    scored = counts[:, alphabet.scored]
    if not scored[TRAIN].any() and (counts[TRAIN].any() or not scored.any()):
        sources = ", ".join(source["name"] for source in attributes["sources"])
        raise UserError(f"{sources}: {nothing_to_learn(alphabet)}")
    tokens = kept[0].folder / "tokens"
    head = folder / "head"
    description = {name: dumps(value) for name, value in attributes.items()}
    _make_room(head, int(id_type[1:]), sum(map(len, description.values())), assignment.clustered, summary)
    version = ("v110", "v110")
    with h5py.File(head, "w", libver=version, alignment_threshold=START, alignment_interval=START) as file:
        in_place = allocate_tokens(file, summary.residues) == START
        file.attrs.update({"format": FORMAT, "version": VERSION, "alphabet": list(alphabet.tokens)})
        if alphabet != PROTEIN:
            file.attrs["alphabet_name"] = dumps(describe(alphabet))
        file.attrs.update(description)
        file["residue_counts"] = counts
        write_columns(file, kept, id_type, folder, assignment.clustered, summary)
        if summary.merged:
            assert assignment.columns is not None
            write_merged(file, assignment.columns[2], folder, summary.merged)
        if not in_place:  # too few tokens to be aligned
            dataset = file["tokens"]
            assert isinstance(dataset, h5py.Dataset)
            dataset[:] = np.fromfile(tokens, np.uint8, offset=START)
    if not in_place:
        return head
    with head.open("rb") as source, tokens.open("r+b") as out:
        out.write(source.read(START))
        for handle in (source, out):
            handle.seek(START + summary.residues)
        shutil.copyfileobj(source, out, 1 << 20)
    return tokens


def _keep(
    part: Part, first: int, assignment: Assignment, id_type: str, alphabet: Alphabet, report: Callable[[int], None]
) -> KeptPart:
    """Drops merged records, counts residues by split, and pads identifiers to one width."""
    result = KeptPart(part.folder, np.zeros((len(SPLITS), alphabet.size), dtype=np.int64))
    left_out = np.zeros(alphabet.size, dtype=np.int64)
    all_lengths = Column(part.folder / "lengths", "i4").blocks(ROWS)
    rows = zip(all_lengths, names_of(part), assignment.blocks(part, first), strict=True)
    with (
        result.column("kept_lengths", "i4") as kept_lengths,
        result.column("kept_split", "u1") as kept_split,
        result.column("kept_cluster", "i8") as kept_cluster,
        result.column("kept_ids", id_type) as kept_ids,
        result.column("merged_ids", id_type) as merged_ids,
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
            if assignment.clustered:
                kept_cluster.append(cluster[kept])
            for run in _runs(lengths):
                offset = START + result.residues
                moved = tokens.tell() != offset
                data = tokens.read(int(lengths[run].sum()))
                left_out += _count(data, lengths[run], split[run], kept[run], result.counts, alphabet)
                if not kept[run].all():
                    moved = True
                    data = np.frombuffer(data, np.uint8)[np.repeat(kept[run], lengths[run])].tobytes()
                if moved:  # towards the start of the same file, overwriting what was read
                    out.seek(offset)
                    out.write(data)
                result.residues += len(data)
                report(result.residues)
            result.records += int(kept.sum())
        if result.residues < part.residues:
            out.truncate(START + result.residues)
    result.counts[TRAIN] = part.counts - left_out - result.counts.sum(0)
    return result


def _count(
    data: bytes, lengths: np.ndarray, split: np.ndarray, kept: np.ndarray, counts: np.ndarray, alphabet: Alphabet
) -> np.ndarray:
    """Adds the residues of every split but train to counts (4, V); returns those of dropped records (V,)."""
    ends = np.cumsum(lengths)

    def count(rows: np.ndarray) -> np.ndarray:
        if not rows.any():
            return np.zeros(alphabet.size, dtype=np.int64)
        pairs = zip((ends[rows] - lengths[rows]).tolist(), ends[rows].tolist(), strict=True)
        return alphabet.count(np.frombuffer(b"".join([data[start:stop] for start, stop in pairs]), np.uint8))

    for code in range(TRAIN + 1, len(SPLITS)):
        counts[code] += count((split == code) & kept)
    return count(~kept)


def _runs(lengths: np.ndarray) -> Iterator[slice]:
    """Slices of rows of at most `_TOKENS` tokens, or of one longer row."""
    ends = np.cumsum(lengths, dtype=np.int64)
    start = 0
    while start < len(lengths):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + _TOKENS, side="right")))
        yield slice(start, stop)
        start = stop


def _join_tokens(parts: Sequence[KeptPart] | Sequence[Part]) -> None:
    """Appends the tokens of all other parts to those of the first."""
    with (parts[0].folder / "tokens").open("r+b", buffering=0) as out:
        out.seek(START + parts[0].residues)
        for part in parts[1:]:
            with (part.folder / "tokens").open("rb", buffering=0) as tokens:
                tokens.seek(START)
                _append(tokens, out, part.residues)


def _append(source: BinaryIO, out: BinaryIO, size: int) -> None:
    """Copies `size` bytes between the current positions of two files, within the kernel where it can."""
    if not hasattr(os, "copy_file_range"):
        shutil.copyfileobj(source, out, 1 << 20)
        return
    while size:
        copied = os.copy_file_range(source.fileno(), out.fileno(), size)
        if not copied:
            raise OSError(errno.EIO, "file shrank while it was read")
        size -= copied


def _make_room(head: Path, width: int, description: int, clustered: bool, summary: PrepareSummary) -> None:
    """Raises OSError if the disk is too small for the remaining data, since HDF5 would crash on a full one.

    Tries it with the file `head`. `width` and `description` are the bytes of an identifier and of the attributes.
    """
    proteins, merged = summary.proteins, summary.merged
    datasets = proteins * (width + 17 + 16 * clustered) + merged * (width + 8)
    columns = proteins * (16 + 32 * clustered) + 8 * (proteins + merged) * (merged > 0) + 40 * merged
    with head.open("wb") as file:
        file.truncate(START + summary.residues)
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), START + summary.residues, datasets + columns + description + (1 << 20))
    head.unlink()
