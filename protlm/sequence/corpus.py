"""The corpus: every protein of some FASTA files as tokens in one HDF5 file, ready for random access.

The layout is in docs/formats.md. Tokens are one contiguous dataset: a protein is a slice of a memory map.
"""

import json
import os
from array import array
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np

from protlm.errors import UserError
from protlm.output import unfinished
from protlm.sequence.alphabet import SCORED, TOKENS, encode
from protlm.sequence.fasta import FastaFile, describe_changes
from protlm.sequence.splits import SPLITS, TRAIN, SplitRule, digest, unite_identical

FORMAT = "protlm corpus"
VERSION = 1
_BLOCK = 1 << 24  # tokens copied at a time


@dataclass
class PrepareSummary:
    """What became of the records of a `prepare`."""

    proteins: int = 0
    residues: int = 0
    proteins_by_split: dict[str, int] = field(default_factory=dict)
    changes: Counter[str] = field(default_factory=Counter)
    """Reason -> characters changed or dropped (records, where a record was left out)."""
    changed_records: Counter[str] = field(default_factory=Counter)
    moved_to_identical: int = 0
    """Proteins put into the split of an identical sequence."""
    not_found: list[str] = field(default_factory=list)
    """Ids to hold out that are neither a protein nor a cluster of the files."""
    without_cluster: int = 0
    """Proteins that the cluster table does not name."""

    def describe(self, out: str | Path) -> list[str]:
        """Lines for a person: what is in the corpus `out`, and what was changed, moved or not found."""
        splits = ", ".join(f"{name} {count:,}" for name, count in self.proteins_by_split.items())
        lines = [f"{out}: {self.proteins:,} proteins, {self.residues:,} residues ({splits})"]
        lines += describe_changes(self.changes, self.changed_records)
        if self.moved_to_identical:
            lines.append(f"{self.moved_to_identical:,} proteins moved to the split of an identical sequence")
        if self.without_cluster:
            lines.append(f"{self.without_cluster:,} proteins are not in the table; each counted as its own cluster")
        if self.not_found:
            some = ", ".join(self.not_found[:3]) + (", ..." if len(self.not_found) > 3 else "")
            lines.append(f"warning: {len(self.not_found):,} ids to hold out are in none of the files: {some}")
        return lines


def prepare_corpus(
    fastas: Sequence[str | Path],
    out: str | Path,
    rule: SplitRule | None = None,
    allow_nucleotides: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> PrepareSummary:
    """Writes the proteins of FASTA files into one corpus, in order.

    The file appears under its final name only when it is complete; a run that is stopped leaves nothing.

    Args:
        fastas: one or more files, plain or compressed.
        out: the corpus to write; an existing one is replaced at the end.
        rule: how splits are assigned.
        allow_nucleotides: take files that look like DNA or RNA all the same.
        progress: called now and then with the bytes read and the bytes in all.

    Raises:
        UserError: for a file that is missing or no FASTA, for an output that cannot be written, for no protein at all.
    """
    rule = rule or SplitRule()
    out = Path(out)
    files = [FastaFile(path, allow_nucleotides) for path in fastas]
    if out.resolve() in (file.path.resolve() for file in files):
        raise UserError(f"{out}: is one of the FASTA files; the corpus has to be another file")
    total = sum(file.size for file in files)
    summary = PrepareSummary()
    ids: list[bytes] = []
    not_found = set(rule.held_out)
    lengths, digests, codes = array("q"), array("Q"), array("B")
    with unfinished(out) as folder:
        with (folder / "tokens").open("wb") as spool:
            done = 0
            for file in files:
                for number, record in enumerate(file):
                    tokens = encode(record.sequence).tobytes()
                    spool.write(tokens)
                    key = digest(tokens)
                    ids.append(record.id.encode())
                    lengths.append(len(tokens))
                    digests.append(key)
                    codes.append(rule.assign(record.id, key))
                    cluster = rule.clusters.get(record.id)
                    summary.without_cluster += bool(rule.clusters) and cluster is None
                    not_found -= {record.id, cluster}
                    if progress and number % 2_000 == 0:
                        progress(done + file.position, total)
                done += file.size
                summary.changes += file.changes
                summary.changed_records += file.changed_records
        if not ids:
            raise UserError(f"{', '.join(map(str, fastas))}: no record has a sequence; expected at least one protein")
        splits = np.frombuffer(codes, dtype=np.uint8).copy()
        summary.moved_to_identical = unite_identical(splits, np.frombuffer(digests, dtype=np.uint64))
        summary.not_found = sorted(not_found)
        summary.proteins, summary.residues = len(ids), sum(lengths)
        counts = np.bincount(splits, minlength=len(SPLITS))
        summary.proteins_by_split = dict(zip(SPLITS, counts.tolist(), strict=True))
        attributes = {
            "sources": [{"name": file.path.name, "bytes": file.size} for file in files],
            "changes": dict(summary.changes),
        }
        offsets = np.concatenate(([0], np.cumsum(np.frombuffer(lengths, dtype=np.int64))))
        _write(folder / "corpus.h5", folder / "tokens", offsets, ids, splits, attributes)
        os.replace(folder / "corpus.h5", out)
        if progress:
            progress(total, total)
    return summary


def _write(
    path: Path, spool: Path, offsets: np.ndarray, ids: list[bytes], splits: np.ndarray, attributes: dict[str, object]
) -> None:
    counts = np.zeros((len(SPLITS), len(TOKENS)), dtype=np.int64)
    with h5py.File(path, "w") as file:
        file.attrs.update({"format": FORMAT, "version": VERSION, "alphabet": list(TOKENS)})
        file.attrs.update({name: json.dumps(value) for name, value in attributes.items()})
        tokens = file.create_dataset("tokens", shape=(int(offsets[-1]),), dtype=np.uint8)
        # one pass over the spool copies the tokens and counts them, block by block of whole proteins
        source = np.memmap(spool, dtype=np.uint8, mode="r")
        start = 0
        while start < len(splits):
            stop = max(start + 1, int(np.searchsorted(offsets, offsets[start] + _BLOCK, side="right")) - 1)
            block = source[offsets[start] : offsets[stop]]
            tokens[offsets[start] : offsets[stop]] = block
            owner = np.repeat(splits[start:stop].astype(np.int64), np.diff(offsets[start : stop + 1]))
            cells = np.bincount(owner * len(TOKENS) + block, minlength=counts.size)
            counts += cells.reshape(counts.shape)
            start = stop
        file["offsets"] = offsets
        file.create_dataset("ids", data=np.array(ids), compression="gzip", shuffle=True)
        codes = h5py.enum_dtype({name: code for code, name in enumerate(SPLITS)}, basetype=np.uint8)
        file.create_dataset("split", data=splits, dtype=codes)
        file["residue_counts"] = counts


def _dataset(file: h5py.File, name: str) -> h5py.Dataset:
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset):
        raise KeyError(f"{name} is no dataset")
    return dataset


class Corpus:
    """A corpus opened for reading. Can be pickled and sent to worker processes, each of which maps the file itself.

    Args:
        path: a file written by `prepare_corpus`.

    Attributes:
        offsets: (proteins + 1,) int64, where each protein begins in the tokens.
        lengths: (proteins,) int64, in residues.
        split: (proteins,) uint8, indices into `SPLITS`.

    Raises:
        UserError: for a file that is missing, no corpus, or made with another alphabet.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise UserError(f"{path}: no such corpus; make one with: protlm prepare FASTA -o {path}")
        if not self.path.is_file():
            raise UserError(f"{path}: not a corpus but a folder; make a corpus with: protlm prepare FASTA -o CORPUS.h5")
        try:
            with h5py.File(self.path, "r") as file:
                if file.attrs.get("format") != FORMAT:
                    raise UserError(f"{path}: HDF5, but not a corpus; make one with: protlm prepare FASTA -o CORPUS.h5")
                if file.attrs["version"] != VERSION:
                    raise UserError(
                        f"{path}: corpus of version {file.attrs['version']}, expected {VERSION}; prepare it again"
                    )
                if list(np.asarray(file.attrs["alphabet"])) != list(TOKENS):
                    raise UserError(f"{path}: made with another alphabet; prepare it again from the FASTA")
                self.offsets: np.ndarray = _dataset(file, "offsets")[:]
                self.split: np.ndarray = _dataset(file, "split")[:]
                self._residue_counts: np.ndarray = _dataset(file, "residue_counts")[:]
                self._sources = json.loads(str(file.attrs["sources"]))
                self._start: int = _dataset(file, "tokens").id.get_offset()
        except (OSError, KeyError) as error:
            raise UserError(f"{path}: not a corpus, or damaged ({error}); prepare it again from the FASTA") from error
        self.lengths = np.diff(self.offsets)
        self._tokens: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> np.ndarray:
        """Tokens (length,) uint8 of one protein, without special tokens; a view of the memory map."""
        if self._tokens is None:
            size = int(self.offsets[-1])
            self._tokens = np.memmap(self.path, dtype=np.uint8, mode="r", offset=self._start, shape=(size,))
        return self._tokens[self.offsets[index] : self.offsets[index + 1]]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_tokens": None}

    def check_sources(self, fastas: Sequence[str | Path]) -> None:
        """Makes sure that the corpus was made from these files, by their names and sizes; an empty list is no question.

        Raises:
            UserError: if it was made from others.
        """
        given = [{"name": Path(path).name, "bytes": FastaFile(path).size} for path in fastas]
        if given and given != self._sources:
            made = ", ".join(f"{source['name']} ({source['bytes']:,} bytes)" for source in self._sources)
            raise UserError(
                f"{self.path}: was made from {made}, not from the FASTA given now; name another data.corpus"
            )

    def ids(self) -> list[str]:
        """The identifiers of all proteins, in order."""
        with h5py.File(self.path, "r") as file:
            return [name.decode() for name in _dataset(file, "ids")[:]]

    def members(self, split: str) -> np.ndarray:
        """Indices (n,) int64 of the proteins of a split."""
        return np.flatnonzero(self.split == SPLITS.index(split))

    def unigram(self) -> "Unigram":
        """The baseline that knows only how frequent each residue is in the training split."""
        return Unigram(self._residue_counts[TRAIN])


class Unigram:
    """Predicts residues from their frequencies alone, with Laplace's one added to each count.

    Args:
        counts: (33,) int64, how often each token stands in the training data.
    """

    def __init__(self, counts: np.ndarray) -> None:
        smoothed = np.where(SCORED, counts + 1.0, 0.0)
        self.probabilities = smoothed / smoothed.sum()

    def accuracy(self, targets: np.ndarray) -> float:
        """Share of the targets that are the commonest residue; `targets` (33,) are counts of each token."""
        return float(targets[self.probabilities.argmax()] / max(1, targets.sum()))

    def perplexity(self, targets: np.ndarray) -> float:
        """exp of the mean negative log-probability; `targets` (33,) are counts of each scored token."""
        log = np.log(self.probabilities, where=SCORED, out=np.zeros(len(SCORED)))
        return float(np.exp(-(targets * log).sum() / max(1, targets.sum())))
