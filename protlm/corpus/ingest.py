"""Reads files of sequences into columns on disk, in one process or several, and selects records."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from protlm.corpus.external_sort import Column
from protlm.corpus.splits import digests
from protlm.corpus.workers import Workers
from protlm.errors import UserError
from protlm.progress import Progress
from protlm.sequence.alphabets import PROTEIN, Alphabet, describe
from protlm.sequence.fasta import Chunk, FastaFile
from protlm.sequence.invalid import INVALID
from protlm.sequence.long_records import CUT, LongRecords, document_names
from protlm.sequence.tally import Tally

START = 4096
"""Bytes kept free before the tokens, for the head of the HDF5 file."""

LIMITS = ("min_length", "max_length")
NONSTANDARD = ("keep", "drop")
_BUFFER = 1 << 21  # tokens counted and written at a time
_REPORT = 0.1  # seconds between two reports of progress


@dataclass(frozen=True)
class Selection:
    """Which records to keep, and how to identify them.

    Args:
        min_length, max_length: in residues (bases, bytes), inclusive; None for no limit.
        fragments: keep records that UniProt marks as fragments.
        nonstandard: "keep" or "drop" records with letters other than the twenty amino acids (B, J, O, U, X, Z), or with
            ambiguous letters of another alphabet.
        identifier: the UniProt "accession", the first "word", or the whole "header".
        allow_nucleotides: accept files that look like DNA or RNA.
        invalid: see `FastaFile`.
        alphabet: of the sequences. The next two are for other alphabets than proteins.
        layout: how files hold sequences, see `LongRecords`; by default as is usual for the alphabet.
        cut: maximum length of a record; longer ones are cut into pieces.
    """

    min_length: int = 1
    max_length: int | None = None
    fragments: bool = True
    nonstandard: str = "keep"
    identifier: str = "accession"
    allow_nucleotides: bool = False
    invalid: str = "error"
    alphabet: Alphabet = PROTEIN
    layout: str = ""
    cut: int = CUT

    def __post_init__(self) -> None:
        if self.nonstandard not in NONSTANDARD:
            raise UserError(
                f"nonstandard {self.nonstandard!r}: expected one of {', '.join(NONSTANDARD)}", "nonstandard"
            )
        if self.invalid not in INVALID:
            raise UserError(f"invalid {self.invalid!r}: expected one of {', '.join(INVALID)}", "invalid")
        if self.min_length < 1 or (self.max_length is not None and self.max_length < self.min_length):
            limits = f"min_length {self.min_length}, max_length {self.max_length}"
            raise UserError(f"{limits}: expected at least 1, and no minimum above the maximum", *LIMITS)
        only = {"layout": self.layout not in ("", "fasta"), "cut": self.cut != CUT}
        if self.of_proteins and (odd := [name for name, given in only.items() if given]):
            raise UserError(f"{odd[0]}: requires another alphabet than protein, such as bytes", odd[0])
        only = {"invalid": self.invalid != "error", "allow_nucleotides": self.allow_nucleotides}
        if not self.of_proteins and (odd := [name for name, given in only.items() if given]):
            raise UserError(f"{odd[0]} is only for proteins", odd[0])

    @property
    def of_proteins(self) -> bool:
        """Whether the sequences are proteins."""
        return self.alphabet == PROTEIN

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON; later ones only where they matter, as in corpora of earlier versions."""
        values = {name: value for name, value in asdict(self).items() if (name, value) != ("invalid", "error")}
        if self.of_proteins:
            return {name: value for name, value in values.items() if name not in ("alphabet", "layout", "cut")}
        return {**values, "alphabet": describe(self.alphabet), "layout": self.layout or self.alphabet.layout}

    def __call__(self, chunk: Chunk, tally: Tally) -> Chunk:
        """The records to keep; each of the others is counted in `tally` for the first reason that applies."""
        units = f"{self.alphabet.unit}s"
        if not self.fragments:
            whole = np.array([b"(Fragment" not in header for header in chunk.headers], dtype=bool)
            chunk = self._keep(chunk, whole, "left out, fragment", tally)
        if self.min_length > 1:
            long = chunk.lengths >= self.min_length
            chunk = self._keep(chunk, long, f"left out, shorter than {self.min_length:,} {units}", tally)
        if self.max_length is not None:
            short = chunk.lengths <= self.max_length
            chunk = self._keep(chunk, short, f"left out, longer than {self.max_length:,} {units}", tally)
        if self.nonstandard == "drop":
            odd = np.flatnonzero(~self.alphabet.is_definite[chunk.tokens])
            standard = np.ones(len(chunk.sequences), dtype=bool)
            standard[np.searchsorted(np.cumsum(chunk.lengths), odd, side="right")] = False
            chunk = self._keep(chunk, standard, f"left out, {self._odd}", tally)
        return chunk

    @property
    def _odd(self) -> str:
        return "residues that are none of the twenty" if self.of_proteins else f"ambiguous {self.alphabet.unit}s"

    @staticmethod
    def _keep(chunk: Chunk, keep: np.ndarray, reason: str, tally: Tally) -> Chunk:
        tally.add(reason, int(chunk.lengths[~keep].sum()), int((~keep).sum()))
        return chunk.select(keep)


@dataclass
class Part:
    """Records of one or more files as columns in a folder: `lengths`, `digests`, `ids`, and `tokens` from `START`."""

    folder: Path
    records: int = 0
    residues: int = 0
    longest_id: int = 0
    """In bytes."""
    tally: Tally = field(default_factory=Tally)
    sources: list[dict[str, Any]] = field(default_factory=list)
    counts: np.ndarray = field(default_factory=lambda: np.zeros(PROTEIN.size, dtype=np.int64))
    """(V,) int64, how often each token occurs."""


class _TokenWriter:
    """Writes tokens to a file and counts them, through a buffer larger than a chunk.

    `counts` (V,) int64, how often each token was written, is complete when the context ends.
    """

    def __init__(self, path: Path, alphabet: Alphabet) -> None:
        self._file, self._alphabet = path.open("wb", buffering=0), alphabet
        self._file.seek(START)
        self.counts = np.zeros(alphabet.size, dtype=np.int64)
        self._buffer, self._used = np.empty(_BUFFER, dtype=np.uint8), 0

    def __enter__(self) -> "_TokenWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        with self._file:
            if kind is None:
                self._flush()

    def write(self, tokens: np.ndarray) -> None:
        """Writes tokens (n,) uint8."""
        while len(tokens):
            taken = tokens[: _BUFFER - self._used]
            self._buffer[self._used : self._used + len(taken)] = taken
            self._used += len(taken)
            tokens = tokens[len(taken) :]
            if self._used == _BUFFER:
                self._flush()

    def _flush(self) -> None:
        tokens = self._buffer[: self._used]
        self.counts += self._alphabet.count(tokens)
        view = tokens.data
        while view:
            view = view[self._file.write(view) :]
        self._used = 0


def read_part(
    files: Sequence[FastaFile | LongRecords], folder: Path, selection: Selection, report: Callable[[int], None]
) -> Part:
    """Reads files one after another into columns in a new folder; `report` gets the bytes read so far."""
    folder.mkdir()
    part = Part(folder)
    before, due = 0, 0.0
    with (
        Column(folder / "lengths", "i4") as lengths,
        Column(folder / "digests", "u8") as hashes,
        (folder / "ids").open("wb") as ids,
        _TokenWriter(folder / "tokens", selection.alphabet) as tokens,
    ):
        for file in files:
            for raw in file.chunks():
                chunk = selection(raw, file.tally)
                if chunk.sequences:
                    ids.write(chunk.names + b"\n")
                    part.longest_id = max(part.longest_id, *map(len, chunk.names.split(b"\n")))
                    lengths.append(chunk.lengths)
                    hashes.append(digests(chunk.sequences))
                    tokens.write(chunk.tokens)
                    part.records += len(chunk.sequences)
                    part.residues += len(chunk.tokens)
                if (now := time.monotonic()) > due:
                    report(before + file.position)
                    due = now + _REPORT
            before += file.position
            report(before)
            part.sources.append(file.describe())
            part.tally.update(file.tally)
    part.counts = tokens.counts
    return part


def read_parts(
    fastas: Sequence[str | Path], folder: Path, selection: Selection, crew: Workers, progress: Progress | None
) -> list[Part]:
    """Reads all files into one part or, with several workers, each file into a part of its own, in the order given."""
    named = list(zip(fastas, document_names(fastas), strict=True))
    files = [open_records(*one, selection) for one in named]
    total = sum(file.size for file in files) if all(file.size for file in files) else 0
    groups = [[one] for one in named] if crew.count > 1 else [named]
    jobs = [(group, folder / str(number), selection) for number, group in enumerate(groups)]
    return crew.map(_read_part, jobs, (lambda done: progress(done, total)) if progress else None)


def open_records(path: str | Path, document: str, selection: Selection) -> FastaFile | LongRecords:
    """Opens a file, named `document`, with the options of the selection."""
    if not selection.of_proteins:
        return LongRecords(path, selection.alphabet, selection.layout, selection.cut, selection.identifier, document)
    return FastaFile(path, selection.allow_nucleotides, selection.identifier, invalid=selection.invalid)


def _read_part(
    named: Sequence[tuple[str | Path, str]], folder: Path, selection: Selection, report: Callable[[int], None]
) -> Part:
    return read_part([open_records(*one, selection) for one in named], folder, selection, report)
