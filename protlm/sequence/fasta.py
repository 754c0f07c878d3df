"""FASTA as users have it: streamed in constant memory; errors name file, record and line."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np

from protlm.errors import UserError
from protlm.sequence.alphabet import NOT_A_TOKEN, ResidueError, normalise, normalise_masked, translate
from protlm.sequence.stream import DAMAGED, STDIN, Source, check_readable
from protlm.sequence.tally import Tally

IDENTIFIERS = ("accession", "word", "header")
"""What identifies a protein: the UniProt accession if the header has one, its first word, or the whole header."""

_NUCLEOTIDES = b"ACGTUNacgtun"
_JUDGED_AFTER = 10_000  # residues: enough to tell proteins from nucleotides, few enough to fail early
_MAX_ID = 1_000  # characters
_MAX_RECORD = 1_000_000  # characters; the longest known proteins have fewer than 50,000 residues
_BLOCK = 1 << 17  # bytes read at a time, small enough for the processor's cache
_PRINTABLE = bytes(range(ord(" "), 127)) + b"\n"
_NO_BARS = bytes({*range(256)} - {*b"|\n"})


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


def accession(word: str) -> str:
    """The accession in the first word of a UniProt header (`db|ACCESSION|NAME`); any other word is returned unchanged.

    UniRef (`UniRef50_P69905`), UniParc (`UPI0000000001`) and plain accessions are whole words.

    >>> accession("sp|P69905|HBA_HUMAN")
    'P69905'
    >>> accession("UniRef50_P69905")
    'UniRef50_P69905'
    """
    parts = word.split("|")
    return parts[1] if len(parts) == 3 and parts[0] in ("sp", "tr") and parts[1] else word


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

    Attributes:
        size, position: bytes of the (compressed) file, and bytes read so far; a size of 0 means unknown.

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
    ) -> None:
        if identifier not in IDENTIFIERS:
            raise UserError(f"identifier {identifier!r}: expected one of {', '.join(IDENTIFIERS)}", "identifier")
        self.path = "standard input" if str(path) == STDIN else str(path)
        self._path, self._identifier, self._allow_nucleotides = path, identifier, allow_nucleotides
        self._masked, self._gaps = masked, gaps
        self.tally = Tally()
        self._source: Source | None = None
        check_readable(path)
        self.size = Path(path).stat().st_size if str(path) != STDIN else 0

    def again(self) -> "FastaFile":
        """The same file, to be read from the start."""
        file = FastaFile(self._path, self._allow_nucleotides, self._identifier, self._masked, self._gaps)
        file.path = self.path
        return file

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
        self._source = Source(self._path)
        number = seen = nucleotides = 0
        try:
            with self._source as source, source.content() as content:
                for block in self._blocks(content):
                    if not self._allow_nucleotides and seen < _JUDGED_AFTER:
                        letters = b"".join(line for line in block.split(b"\n") if not line.startswith(b">"))
                        seen += len(letters)
                        nucleotides += len(letters) - len(letters.translate(None, _NUCLEOTIDES))
                        if seen >= _JUDGED_AFTER:
                            self._judge(seen, nucleotides)
                    chunk, count = self._chunk(number, block)
                    yield chunk
                    number += count
        except _TooLongError as error:
            raise UserError(
                f"{self.path}, record {number + 1}: longer than {_MAX_RECORD:,} characters; expected proteins, each "
                "with a header line that starts with '>'"
            ) from error
        except DAMAGED as error:
            raise UserError(
                f"{self.path}: damaged or cut short after record {number} ({error}); download or compress it again"
            ) from error
        if not self._allow_nucleotides and 30 <= seen < _JUDGED_AFTER:
            self._judge(seen, nucleotides)

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
                raise _TooLongError
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
        if whole and tokens.max() < NOT_A_TOKEN and block.isascii() and (names := self._plain_names(headers)):
            lengths = np.fromiter(map(len, sequences), np.int64, len(sequences))
            numbers = np.arange(before + 1, before + 1 + len(headers))
            return Chunk(names, headers, sequences, tokens, lengths, numbers), len(headers)
        return self._parse(before, block)

    def _plain_names(self, headers: list[bytes]) -> bytes | None:
        """The identifiers in headers, joined by newlines; None if `_name` has to check one of them."""
        whole = self._identifier == "header"
        words = [b">" + header[1:].strip() if whole else header.split(None, 1)[0] for header in headers]
        names = b"\n".join(words)[1:].replace(b"\n>", b"\n")
        if b">" in words or max(map(len, words)) > _MAX_ID or names.translate(None, _PRINTABLE):
            return None
        if self._identifier != "accession" or b"|" not in names:
            return names
        columns = names.replace(b"\n", b"|").split(b"|")
        bars = (b"||\n" * len(words))[:-1]
        if names.translate(None, _NO_BARS) == bars and {*columns[::3]} <= {b"sp", b"tr"} and all(columns[1::3]):
            return b"\n".join(columns[1::3])  # every header is UniProt's, the common case, in half the time
        return "\n".join(map(accession, names.decode().split("\n"))).encode()

    def _parse(self, before: int, block: bytes) -> tuple[Chunk, int]:
        """As `_chunk`, read by Biopython, with characters that are not residues changed and counted, or refused."""
        from Bio.SeqIO.FastaIO import SimpleFastaParser  # imported here since it takes a tenth of a second

        names, headers, sequences = [], [], []
        pairs = SimpleFastaParser(io.StringIO(block.decode("utf-8", "replace")))
        for number, (header, letters) in enumerate(pairs, start=before + 1):
            names.append(self._name(number, header))
            try:
                sequence, changes = normalise_masked(letters) if self._masked else normalise(letters, self._gaps)
            except ResidueError as error:
                line = self._line_of(number, error.offset)
                where = f", line {line}" if line else ""
                raise UserError(
                    f"{self.path}, record {number} ({names[-1]}){where}: {error}; correct or remove the record"
                ) from error
            for reason, count in changes.items():
                self.tally.add(reason, count)
            headers.append(b">" + header.encode())
            sequences.append(sequence.encode())
        lengths = np.fromiter(map(len, sequences), np.int64, len(sequences))
        self.tally.add("left out, no sequence", 0, int((lengths == 0).sum()))
        encoded = "\n".join(names).encode()
        numbers = np.arange(before + 1, before + 1 + len(names))
        chunk = Chunk(encoded, headers, sequences, translate(b"".join(sequences)), lengths, numbers)
        return chunk.select(lengths > 0), len(names)

    def _name(self, number: int, header: str) -> str:
        words = header.split(None, 1)
        if not words:
            raise UserError(f"{self.path}, record {number}: no identifier after '>'; give every record a name")
        name = header.strip() if self._identifier == "header" else words[0]
        if self._identifier == "accession":
            name = accession(name)
        if "\0" in name:
            raise UserError(f"{self.path}, record {number}: NUL character in the identifier; expected a text file")
        if len(name) > _MAX_ID:
            raise UserError(
                f"{self.path}, record {number}: identifier of {len(name)} characters; expected a header line of one "
                f"identifier (at most {_MAX_ID}), a space and a description"
            )
        return name

    def _line_of(self, record: int, position: int) -> int:
        """The line of a residue, 0 if unknown; found by reading the file again, so only an error pays for it."""
        if not Path(self._path).is_file():
            return 0  # a pipe can be read only once
        with Source(self._path) as source, source.text() as text:
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
                "A, C, G, T, U or N); translate it first, or if these are proteins, set allow_nucleotides",
                "allow_nucleotides",
            )


def _unwrap(block: bytes) -> bytes:
    """Puts each sequence of a block on one line; the block has no final newline."""
    text = np.frombuffer(block, np.uint8)
    ends = np.flatnonzero(text == ord("\n"))
    header = text[np.append(0, ends + 1)] == ord(">")
    wraps = ends[~(header[:-1] | header[1:])]
    return np.delete(text, wraps).tobytes() if len(wraps) else block
