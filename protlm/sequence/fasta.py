"""FASTA as users have it: streamed in constant memory; errors name file, record and line."""

import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from protlm.errors import UserError
from protlm.sequence.alphabet import NOT_A_TOKEN, ResidueError, normalise, normalise_masked, translate
from protlm.sequence.formats import FASTA, LOOKED_AT, recognised
from protlm.sequence.headers import IDENTIFIERS, HeaderError, identifier_of, plain_identifiers
from protlm.sequence.invalid import INVALID, InvalidRecords
from protlm.sequence.nucleotides import FEWEST, nucleotides_in, refuse_nucleotides
from protlm.sequence.stream import DAMAGED, STDIN, Source, check_readable
from protlm.sequence.tally import Tally

_JUDGED_AFTER = 10_000  # residues: enough to tell proteins from nucleotides, few enough to fail early
_MAX_RECORD = 1_000_000  # characters; the longest known proteins have fewer than 50,000 residues
_BLOCK = 1 << 17  # bytes read at a time, small enough for the processor's cache
_NUCLEIC_ACID = re.compile(rb">[^\n]*\smol:na\s[^\n]*\n?(?:(?!>)[^\n]*\n?)*")
"""A record of DNA or RNA in the sequences of the PDB (pdb_seqres.txt)."""
_COUNTED_AFTER = 1 << 26  # bytes of a file read after an invalid record, to count the others


class _TooLongError(Exception):
    """A record of more than `_MAX_RECORD` characters."""


@dataclass(frozen=True, slots=True)
class Record:
    """One protein: its identifier, the rest of its header, and its normalised sequence."""

    id: str
    description: str
    sequence: str


@dataclass(slots=True)
class Chunk:
    """Consecutive records that have a sequence: n records with T residues in total."""

    names: bytes
    """The n identifiers in UTF-8, joined by newlines."""
    headers: list[bytes]
    """The n header lines, including '>'."""
    sequences: list[bytes]
    """The n normalised sequences."""
    tokens: np.ndarray
    """(T,) uint8, all sequences concatenated."""
    lengths: np.ndarray
    """(n,) int64, in residues."""
    numbers: np.ndarray
    """(n,) int64, 1-based record numbers within the file, counting records without a sequence."""

    def select(self, keep: np.ndarray) -> "Chunk":
        """The records where `keep` (n,) bool is true."""
        if keep.all():
            return self
        names = b"\n".join(compress(self.names.split(b"\n"), keep))
        headers, sequences = (list(compress(column, keep)) for column in (self.headers, self.sequences))
        tokens = self.tokens[np.repeat(keep, self.lengths)]
        return Chunk(names, headers, sequences, tokens, self.lengths[keep], self.numbers[keep])


def none_left(source: str, tally: Tally | None, record: str = "protein") -> UserError:
    """The error for an input without proteins, with the reasons, if it was a file."""
    reasons = f" ({'; '.join(tally.describe())})" if tally and tally.describe() else ""
    return UserError(f"{source}: no record has a sequence{reasons}; expected at least one {record}")


class FastaFile:
    """The records of one FASTA file, in order, in constant memory.

    The compression (none, gzip, bzip2, xz or zstandard) is detected from the content. Records without a sequence are
    skipped. Everything changed or skipped is counted in `tally`.

    Args:
        path: the file, or "-" for standard input, which can be read only once.
        allow_nucleotides: accept a file that looks like DNA or RNA.
        identifier: "accession", "word" or "header", see `IDENTIFIERS`.
        masked: accept `<mask>` in place of residues; `Chunk.tokens` and `Chunk.lengths` then count its characters.
        gaps: whether gaps are removed; if not they are refused, see `normalise`.
        invalid: "error" refuses a file with an invalid record, "skip" leaves these records out and lists them.

    Attributes:
        size, position: bytes of the (compressed) file, and bytes read so far; a size of 0 means unknown.
        unusable: a function that says why an identifier makes a record invalid; None if it does not.

    Raises:
        UserError: for a missing file; while iterating, for a file that is empty, damaged, not FASTA, or looks like
            nucleotides.
    """

    def __init__(
        self,
        path: str | Path,
        allow_nucleotides: bool = False,
        identifier: str = "accession",
        masked: bool = False,
        gaps: bool = True,
        invalid: str = "error",
    ) -> None:
        for name, value, known in (("identifier", identifier, IDENTIFIERS), ("invalid", invalid, INVALID)):
            if value not in known:
                raise UserError(f"{name} {value!r}: expected one of {', '.join(known)}", name)
        self.path = "standard input" if str(path) == STDIN else str(path)
        self._path, self._identifier, self._allow_nucleotides = path, identifier, allow_nucleotides
        self._masked, self._gaps, self._skips = masked, gaps, invalid == "skip"
        self.unusable: Callable[[bytes], str | None] | None = None
        self.tally = Tally()
        self._source: Source | None = None
        check_readable(path)
        self.size = Path(path).stat().st_size if str(path) != STDIN else 0
        self.invalid = InvalidRecords(path, self.path)

    def again(self) -> "FastaFile":
        """The same file, to be read from the start."""
        options = (self._masked, self._gaps, "skip" if self._skips else "error")
        file = FastaFile(self._path, self._allow_nucleotides, self._identifier, *options)
        file.path, file.unusable = self.path, self.unusable
        return file

    def check_start(self) -> None:
        """Raises the error, if any, of the first records, unless the file is a pipe, which can be read only once."""
        next(self.again().chunks() if self.size else iter(()), None)

    @property
    def position(self) -> int:
        """Bytes of the (compressed) file read so far."""
        return self._source.position if self._source else 0

    def describe(self) -> dict[str, Any]:
        """Name, size in bytes and checksum of the file, ready for JSON; call it after the last record."""
        assert self._source is not None
        return self._source.describe()

    def __iter__(self) -> Iterator[Record]:
        for chunk in self.chunks():
            names = chunk.names.decode().split("\n") if chunk.sequences else []
            for name, header, sequence in zip(names, chunk.headers, chunk.sequences, strict=True):
                words = header[1:].decode().strip().split(maxsplit=1)
                yield Record(name, words[1] if len(words) > 1 else "", sequence.decode())

    def chunks(self) -> Iterator[Chunk]:
        """The records, a chunk at a time."""
        self._source, self.invalid = Source(self._path), InvalidRecords(self._path, self.path)
        refused_at = 0  # bytes read when the first invalid record was found
        number = seen = nucleotides = 0
        try:
            with self._source as source, source.content() as content:
                what, advice = recognised(content.peek(LOOKED_AT)) or (FASTA, "")
                if what != FASTA:
                    raise UserError(f"{self.path}: expected FASTA, found {what}{'; ' * bool(advice)}{advice}")
                for block in self._blocks(content):
                    if not self._allow_nucleotides and seen < _JUDGED_AFTER:
                        proteins = _NUCLEIC_ACID.sub(b"", block) if b"mol:na" in block else block
                        letters = b"".join(line for line in proteins.split(b"\n") if not line.startswith(b">"))
                        seen += len(letters)
                        nucleotides += nucleotides_in(letters)
                        if seen >= _JUDGED_AFTER:
                            refuse_nucleotides(self.path, seen, nucleotides)
                    chunk, count = self._chunk(number, block)
                    number += count
                    if self._skips or not self.invalid:
                        yield chunk
                        continue
                    refused_at = refused_at or source.position
                    if not self.size or source.position - refused_at > _COUNTED_AFTER:
                        break
        except _TooLongError as error:
            self._refuse()
            letters = b"".join(line for line in error.args[0].split(b"\n") if not line.startswith(b">"))
            if not self._allow_nucleotides and len(letters) >= FEWEST:
                refuse_nucleotides(self.path, len(letters), nucleotides_in(letters))
            raise UserError(
                f"{self.path}, record {number + 1}: longer than {_MAX_RECORD:,} characters; expected proteins, each "
                "with a header line that starts with '>'"
            ) from error
        except DAMAGED as error:
            self._refuse()
            raise UserError(
                f"{self.path}: damaged or cut short after record {number} ({error}); download or compress it again"
            ) from error
        self._refuse()
        if not self._allow_nucleotides and FEWEST <= seen < _JUDGED_AFTER:
            refuse_nucleotides(self.path, seen, nucleotides)
        self.invalid.list_in(self.tally)

    def _blocks(self, content: io.BufferedReader) -> Iterator[bytes]:
        """Whole records, starting at the first '>', with "\\n" newlines; the last block may lack its final newline."""
        rest, line, held = b"", 1, b""
        while data := content.read(_BLOCK):
            data = held + data
            held = b"\r" if data.endswith(b"\r") else b""  # may be one newline together with the next byte
            data = data[: len(data) - len(held)]
            if b"\r" in data:
                data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            rest += data
            if line:  # only blank lines so far; Biopython would skip any text before the first record
                begin = rest.rfind(b"\n", 0, len(rest) - len(rest.lstrip())) + 1
                line += rest.count(b"\n", 0, begin)
                rest = rest[begin:]
                if not rest.strip():
                    rest = rest[:1]
                    continue
                if not rest.startswith(b">"):
                    found = rest.split(b"\n")[0].decode("utf-8", "replace").strip()
                    raise UserError(
                        f"{self.path}, line {line}: not FASTA, expected '>' and an identifier, found {found[:40]!r}"
                    )
                line = 0
            end = rest.find(b"\n>")  # only the first record can be longer than a block
            if (end if end > 0 else len(rest)) > _MAX_RECORD:
                raise _TooLongError(rest)
            if (cut := rest.rfind(b"\n>")) > 0:
                yield rest[:cut]
                rest = rest[cut + 1 :]
        if line:
            raise UserError(f"{self.path}: is empty; expected FASTA records ('>identifier', then the sequence)")
        yield rest

    def _chunk(self, before: int, block: bytes) -> tuple[Chunk, int]:
        """The records of a block, `before` of which come earlier, and how many there are, also without a sequence."""
        lines = _unwrap(block.rstrip(b"\n")).split(b"\n")
        headers, sequences = lines[0::2], lines[1::2]
        tokens = translate(b"".join(sequences))
        whole = len(headers) == len(sequences) and all(sequences)
        if (
            whole
            and tokens.max() < NOT_A_TOKEN
            and block.isascii()
            and b"mol:na" not in block
            and (names := plain_identifiers(headers, self._identifier))
            and not (self.unusable and any(map(self.unusable, names.split(b"\n"))))
        ):
            lengths = np.fromiter(map(len, sequences), np.int64, len(sequences))
            numbers = np.arange(before + 1, before + 1 + len(headers))
            return Chunk(names, headers, sequences, tokens, lengths, numbers), len(headers)
        return self._parse(before, block)

    def _parse(self, before: int, block: bytes) -> tuple[Chunk, int]:
        """As `_chunk`, read by Biopython, with characters that are not residues changed and counted, or refused."""
        from Bio.SeqIO.FastaIO import SimpleFastaParser  # imported here since it takes a tenth of a second

        names, headers, sequences, numbers, count = [], [], [], [], 0
        pairs = SimpleFastaParser(io.StringIO(block.decode("utf-8", "replace")))
        for count, (header, letters) in enumerate(pairs, start=1):
            if " mol:na " in f"{header} ":
                self.tally.add("left out, nucleic acid (mol:na)", 0)
                continue
            name = ""
            try:
                name = identifier_of(header, self._identifier)
                if self.unusable and (why := self.unusable(name.encode())):
                    raise HeaderError(why)
                sequence, changes = normalise_masked(letters) if self._masked else normalise(letters, self._gaps)
            except ResidueError as error:
                self.invalid.add(before + count, name, str(error), error.offset)
                continue
            except HeaderError as error:
                self.invalid.add(before + count, name, str(error))
                continue
            for reason, changed in changes.items():
                self.tally.add(reason, changed)
            names.append(name)
            headers.append(b">" + header.encode())
            sequences.append(sequence.encode())
            numbers.append(before + count)
        lengths = np.fromiter(map(len, sequences), np.int64, len(sequences))
        self.tally.add("left out, no sequence", 0, int((lengths == 0).sum()))
        encoded = "\n".join(names).encode()
        which = np.array(numbers, dtype=np.int64)
        chunk = Chunk(encoded, headers, sequences, translate(b"".join(sequences)), lengths, which)
        return chunk.select(lengths > 0), count

    def _refuse(self) -> None:
        """Raises the error for invalid records, unless they are skipped."""
        if self.invalid and not self._skips:
            raise self.invalid.error(more_to_read=self.position < self.size or not self.size)


def _unwrap(block: bytes) -> bytes:
    """Puts each sequence of a block on one line; the block has no final newline."""
    text = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(text == ord("\n"))
    header = text[np.append(0, ends + 1)] == ord(">")
    wraps = ends[~(header[:-1] | header[1:])]
    return np.delete(text, wraps).tobytes() if len(wraps) else block
