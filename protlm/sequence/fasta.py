"""FASTA as it is found: streamed through Biopython, compressed or not, and refused with file, record and line."""

import bz2
import gzip
import io
import lzma
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import zstandard
from Bio.SeqIO.FastaIO import SimpleFastaParser

from protlm.errors import UserError
from protlm.sequence.alphabet import ResidueError, normalise


class _Zstandard(io.RawIOBase):
    """The content of zstandard frames; zstandard's own reader takes a file that is cut short for a whole one."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw, self._content = raw, memoryview(b"")
        self._frame = zstandard.ZstdDecompressor().decompressobj()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._content:
            data = self._frame.unused_data or self._raw.read(1 << 16)
            if not data:
                if self._frame.eof:
                    return 0
                raise EOFError("Compressed file ended before the end of a frame")
            if self._frame.eof:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            self._content = memoryview(self._frame.decompress(data))
        count = min(len(buffer), len(self._content))
        buffer[:count], self._content = self._content[:count], self._content[count:]
        return count


DAMAGED = (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error, zstandard.ZstdError, OSError)
"""What reading a damaged or cut file raises."""

_COMPRESSIONS: dict[bytes, Callable[[IO[bytes]], Any]] = {
    b"\x1f\x8b": lambda raw: gzip.GzipFile(fileobj=raw),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
    b"\x28\xb5\x2f\xfd": _Zstandard,
}
_NUCLEOTIDES = b"ACGTUNacgtun"
_JUDGED_AFTER = 10_000  # residues: enough to tell proteins from nucleotides, little enough to fail at once
_MAX_ID = 1_000  # characters


@dataclass(frozen=True, slots=True)
class Record:
    """One protein: accession, the header's text behind it, and a normalised sequence in capital letters."""

    id: str
    description: str
    sequence: str


def accession(header: str) -> str:
    """The identifier of a FASTA header: the accession of `db|ACCESSION|NAME`, else the first word.

    >>> accession("sp|P69905|HBA_HUMAN Hemoglobin subunit alpha OS=Homo sapiens")
    'P69905'
    >>> accession("A0A183 B=0031424")
    'A0A183'
    """
    word = header.split(maxsplit=1)[0] if header.strip() else ""
    parts = word.split("|")
    return parts[1] if len(parts) == 3 and parts[0] in ("sp", "tr") and parts[1] else word


def decompressed(raw: io.BufferedReader) -> io.TextIOWrapper:
    """The text of a file opened as bytes: plain, gzip, bzip2, xz or zstandard, told apart by its first bytes."""
    start = raw.peek(6)
    stream: Any = raw
    for magic, opened in _COMPRESSIONS.items():
        if start.startswith(magic):
            stream = opened(raw)
    # A header in another encoding keeps its ASCII; a sequence with such bytes is refused by the alphabet.
    return io.TextIOWrapper(io.BufferedReader(stream, 1 << 18), "utf-8-sig", "replace")


def describe_changes(changes: Mapping[str, int], changed_records: Mapping[str, int]) -> list[str]:
    """A line for each reason: how many records, and how many of their residues, were changed or left out.

    >>> describe_changes({"J replaced by X": 27}, {"J replaced by X": 12})
    ['12 records: J replaced by X (27 residues)']
    """
    lines = []
    for reason, count in changes.items():
        residues = "" if reason.startswith("record") else f" ({count:,} residues)"
        lines.append(f"{changed_records[reason]:,} records: {reason}{residues}")
    return lines


class FastaFile:
    """The records of one FASTA file, in order, in constant memory.

    Plain, gzip, bzip2, xz and zstandard are told apart by content. Records without a sequence are left out. What was
    changed or left out is counted: `changes[reason]` characters in `changed_records[reason]` records. `position` and
    `size` are in bytes of the file, for a progress bar.

    Args:
        path: the file.
        allow_nucleotides: take a file that looks like DNA or RNA all the same.

    Raises:
        UserError: while iterating, for a file that is missing, empty, damaged, no FASTA, or looks like nucleotides.
    """

    def __init__(self, path: str | Path, allow_nucleotides: bool = False) -> None:
        self.path = Path(path)
        self.allow_nucleotides = allow_nucleotides
        self.changes: Counter[str] = Counter()
        self.changed_records: Counter[str] = Counter()
        self._raw: io.BufferedReader | None = None
        if not self.path.exists():
            raise UserError(f"{self.path}: no such file")
        if self.path.is_dir():
            raise UserError(f"{self.path}: is a folder; expected a FASTA file")
        self.size = self.path.stat().st_size

    @property
    def position(self) -> int:
        """Bytes of the (compressed) file read so far."""
        return self._raw.tell() if self.size and self._raw and not self._raw.closed else self.size

    def __iter__(self) -> Iterator[Record]:
        number = 0
        seen = nucleotides = 0
        try:
            with self._open() as text:
                for number, (header, letters) in enumerate(SimpleFastaParser(self._checked(text)), start=1):
                    if not self.allow_nucleotides and seen < _JUDGED_AFTER:
                        raw = letters.encode("ascii", "replace")
                        seen += len(raw)
                        nucleotides += len(raw) - len(raw.translate(None, _NUCLEOTIDES))
                        if seen >= _JUDGED_AFTER:
                            self._judge(seen, nucleotides)
                    record = self._record(number, header, letters)
                    if record is not None:
                        yield record
        except DAMAGED as error:
            raise UserError(
                f"{self.path}: damaged or cut short behind record {number} ({error}); fetch or compress it again"
            ) from error
        if not self.allow_nucleotides and 30 <= seen < _JUDGED_AFTER:
            self._judge(seen, nucleotides)

    @contextmanager
    def _open(self) -> Iterator[io.TextIOWrapper]:
        try:
            self._raw = self.path.open("rb")
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror})") from error
        with self._raw, decompressed(self._raw) as text:
            yield text

    def _checked(self, lines: io.TextIOWrapper) -> Iterator[str]:
        """The lines from the first record on; Biopython would skip anything before it without a word."""
        first, number = "", 0
        while not first.strip() and (first := next(lines, "")):
            number += 1
        if not first.strip():
            raise UserError(f"{self.path}: is empty; expected FASTA records ('>identifier', then the sequence)")
        if not first.startswith(">"):
            raise UserError(
                f"{self.path}, line {number}: not FASTA, expected '>' and an identifier, found {first.strip()[:40]!r}"
            )
        yield first
        yield from lines

    def _record(self, number: int, header: str, letters: str) -> Record | None:
        name = accession(header)
        if not name:
            raise UserError(f"{self.path}, record {number}: no identifier behind '>'; give every record a name")
        if "\0" in name:
            raise UserError(f"{self.path}, record {number}: NUL character in the identifier; expected a text file")
        if len(name) > _MAX_ID:
            raise UserError(
                f"{self.path}, record {number}: identifier of {len(name)} characters; expected a header line of one "
                f"identifier (at most {_MAX_ID}), a space and a description"
            )
        try:
            sequence, changes = normalise(letters)
        except ResidueError as error:
            line = self._line_of(number, error.position)
            where = f", line {line}" if line else ""
            raise UserError(
                f"{self.path}, record {number} ({name}){where}: {error}; mend or remove the record"
            ) from error
        if not sequence:
            changes = Counter({"record without a sequence left out": 1})
        self.changes.update(changes)
        self.changed_records.update(changes.keys())
        if not sequence:
            return None
        description = header.split(maxsplit=1)
        return Record(name, description[1] if len(description) > 1 else "", sequence)

    def _line_of(self, record: int, position: int) -> int:
        """The line of a residue, found by reading the file again: only an error pays for line numbers."""
        if not self.path.is_file():
            return 0  # a pipe can be read only once
        with self._open() as text:
            for number, line in enumerate(text, start=1):
                if line.startswith(">"):
                    record -= 1
                elif record == 0:
                    length = len(line.rstrip().replace(" ", ""))
                    if position < length:
                        return number
                    position -= length
        return 0

    def _judge(self, residues: int, nucleotides: int) -> None:
        if nucleotides >= 0.95 * residues:
            raise UserError(
                f"{self.path}: looks like nucleotides, not proteins ({nucleotides / residues:.0%} of the letters are "
                "A, C, G, T, U or N); translate it first, or if these are proteins pass --allow-nucleotides "
                "(data.allow_nucleotides=true in training)"
            )
