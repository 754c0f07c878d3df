"""FASTA as it is found: streamed through Biopython, and refused with file, record and line."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import compress
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np

from protlm.errors import UserError
from protlm.sequence.alphabet import NOT_A_TOKEN, ResidueError, normalise, normalise_masked, translate
from protlm.sequence.stream import DAMAGED, STDIN, Source, check_readable
from protlm.sequence.tally import Tally

IDENTIFIERS = ("accession", "word", "header")
"""How a header names its protein: by UniProt's accession where there is one, by the first word, or as a whole."""

_NUCLEOTIDES = b"ACGTUNacgtun"
_JUDGED_AFTER = 10_000  # residues: enough to tell proteins from nucleotides, little enough to fail at once
_MAX_ID = 1_000  # characters
_MAX_RECORD = 1_000_000  # characters; the longest known proteins have less than 50,000 residues
_BLOCK = 1 << 17  # bytes read at a time: few enough to stay in the processor's cache


class _TooLongError(Exception):
    """A record without end."""


@dataclass(frozen=True, slots=True)
class Record:
    """One protein: accession, the header's text behind it, and a normalised sequence in capital letters."""

    id: str
    description: str
    sequence: str


@dataclass(slots=True)
class Chunk:
    """Some consecutive records with a sequence, n of them with T residues in all."""

    names: bytes
    """The n identifiers in UTF-8, joined by newlines."""
    longest_name: int
    """Bytes of the longest identifier, or a little more."""
    headers: list[bytes]
    """The n lines that begin with '>'."""
    sequences: list[bytes]
    """Normalised, in capital letters."""
    tokens: np.ndarray
    """(T,) uint8, of all sequences one behind the other."""
    lengths: np.ndarray
    """(n,) int64, in residues."""
    numbers: np.ndarray
    """(n,) int64, of the records within the file, from 1; those without a sequence count as well."""

    def select(self, keep: np.ndarray) -> "Chunk":
        """The records where `keep` (n,) bool is true."""
        if keep.all():
            return self
        names = b"\n".join(compress(self.names.split(b"\n"), keep))
        headers, sequences = (list(compress(column, keep)) for column in (self.headers, self.sequences))
        tokens, lengths = self.tokens[np.repeat(keep, self.lengths)], self.lengths[keep]
        return Chunk(names, self.longest_name, headers, sequences, tokens, lengths, self.numbers[keep])


def accession(word: str) -> str:
    """The accession in the first word of a FASTA header: that of `db|ACCESSION|NAME` in UniProt, else the whole word.

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

    Plain, gzip, bzip2, xz and zstandard are told apart by content. Records without a sequence are left out. What was
    changed or left out is counted in `tally`.

    Args:
        path: the file, or "-" for standard input, which can be read only once.
        allow_nucleotides: take a file that looks like DNA or RNA all the same.
        identifier: "accession", "word" or "header", see `IDENTIFIERS`.
        masked: take `<mask>` in the place of residues; `Chunk.tokens` and `Chunk.lengths` count its characters then.

    Attributes:
        size, position: bytes of the (compressed) file, and how many of them were read; size 0 is unknown.

    Raises:
        UserError: while iterating, for a file that is missing, empty, damaged, no FASTA, or looks like nucleotides.
    """

    def __init__(
        self, path: str | Path, allow_nucleotides: bool = False, identifier: str = "accession", masked: bool = False
    ) -> None:
        if identifier not in IDENTIFIERS:
            raise UserError(f"--id {identifier!r}: expected one of {', '.join(IDENTIFIERS)}")
        self.path = "standard input" if str(path) == STDIN else str(path)
        self._path, self._identifier, self._allow_nucleotides = path, identifier, allow_nucleotides
        self._masked = masked
        self.tally = Tally()
        self._source: Source | None = None
        check_readable(path)
        self.size = Path(path).stat().st_size if str(path) != STDIN else 0

    def again(self) -> "FastaFile":
        """The same file, to be read anew."""
        file = FastaFile(self._path, self._allow_nucleotides, self._identifier, self._masked)
        file.path = self.path
        return file

    @property
    def position(self) -> int:
        """Bytes of the (compressed) file read so far."""
        return self._source.position if self._source else 0

    def describe(self) -> dict[str, Any]:
        """Name, bytes and checksum of what was read, ready for JSON; to be called at the end."""
        assert self._source is not None
        return self._source.describe()

    def __iter__(self) -> Iterator[Record]:
        for chunk in self.chunks():
            names = chunk.names.decode().split("\n") if chunk.sequences else []
            for name, header, sequence in zip(names, chunk.headers, chunk.sequences, strict=True):
                words = header[1:].decode().strip().split(maxsplit=1)
                yield Record(name, words[1] if len(words) > 1 else "", sequence.decode())

    def chunks(self) -> Iterator[Chunk]:
        """The records, some at a time."""
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
                f"{self.path}, record {number + 1}: goes on for more than {_MAX_RECORD:,} characters; expected "
                "proteins, each with a line that begins with '>'"
            ) from error
        except DAMAGED as error:
            raise UserError(
                f"{self.path}: damaged or cut short behind record {number} ({error}); fetch or compress it again"
            ) from error
        if not self._allow_nucleotides and 30 <= seen < _JUDGED_AFTER:
            self._judge(seen, nucleotides)

    def _blocks(self, content: io.BufferedReader) -> Iterator[bytes]:
        """Whole records, from the first '>' on, with plain newlines; the last newline of a block may be missing."""
        rest, line, held = b"", 1, b""
        while data := content.read(_BLOCK):
            data = held + data
            held = b"\r" if data.endswith(b"\r") else b""  # it may be one newline with what follows
            data = data[: len(data) - len(held)]
            if b"\r" in data:
                data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            rest += data
            if line:  # nothing but blank lines so far; Biopython would skip any text before the first record
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
            end = rest.find(b"\n>")  # only the first record can be longer than what is read at a time
            if (end if end > 0 else len(rest)) > _MAX_RECORD:
                raise _TooLongError
            if (cut := rest.rfind(b"\n>")) > 0:
                yield rest[:cut]
                rest = rest[cut + 1 :]
        if line:
            raise UserError(f"{self.path}: is empty; expected FASTA records ('>identifier', then the sequence)")
        yield rest

    def _chunk(self, before: int, block: bytes) -> tuple[Chunk, int]:
        """The records of a block, `before` of which came earlier, and how many there were."""
        plain = _one_line_records(block)
        if plain is None:
            return self._parsed(before, block)
        longest, headers, sequences, names, tokens = plain
        if self._identifier == "accession" and b"|" in names:
            words = list(map(accession, names.decode().split("\n")))
            names, longest = "\n".join(words).encode(), max(map(len, words))
        if self._identifier == "header":
            whole = [header[1:].strip() for header in headers]
            names, longest = b"\n".join(whole), max(map(len, whole))
            if longest > _MAX_ID or b"\0" in names:
                return self._parsed(before, block)
        lengths = np.fromiter(map(len, sequences), np.int64, len(sequences))
        numbers = np.arange(before + 1, before + 1 + len(headers))
        return Chunk(names, longest, headers, sequences, tokens, lengths, numbers), len(headers)

    def _parsed(self, before: int, block: bytes) -> tuple[Chunk, int]:
        """The same for any layout, with what is not a residue changed and counted, or refused."""
        from Bio.SeqIO.FastaIO import SimpleFastaParser  # here: the import takes a tenth of a second

        names, headers, sequences = [], [], []
        pairs = SimpleFastaParser(io.StringIO(block.decode("utf-8", "replace")))
        for number, (header, letters) in enumerate(pairs, start=before + 1):
            names.append(self._name(number, header))
            try:
                sequence, changes = normalise_masked(letters) if self._masked else normalise(letters)
            except ResidueError as error:
                line = self._line_of(number, error.offset)
                where = f", line {line}" if line else ""
                raise UserError(
                    f"{self.path}, record {number} ({names[-1]}){where}: {error}; mend or remove the record"
                ) from error
            for reason, count in changes.items():
                self.tally.add(reason, count)
            headers.append(b">" + header.encode())
            sequences.append(sequence.encode())
        lengths = np.fromiter(map(len, sequences), np.int64, len(sequences))
        self.tally.add("left out, no sequence", 0, int((lengths == 0).sum()))
        encoded = "\n".join(names).encode()
        longest = max(map(len, encoded.split(b"\n")))
        numbers = np.arange(before + 1, before + 1 + len(names))
        chunk = Chunk(encoded, longest, headers, sequences, translate(b"".join(sequences)), lengths, numbers)
        return chunk.select(lengths > 0), len(names)

    def _name(self, number: int, header: str) -> str:
        words = header.split(None, 1)
        if not words:
            raise UserError(f"{self.path}, record {number}: no identifier behind '>'; give every record a name")
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
        """The line of a residue, found by reading the file again: only an error pays for line numbers."""
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
                "A, C, G, T, U or N); translate it first, or if these are proteins pass --allow-nucleotides "
                "(data.allow_nucleotides=true in training)"
            )


def _one_line_records(block: bytes) -> tuple[int, list[bytes], list[bytes], bytes, np.ndarray] | None:
    """The records of a block in which each sequence is one line of plain residues.

    That needs no parser, and takes a third of Biopython's time. None for any other block.

    Returns:
        Bytes of the longest first word, headers, sequences, first words, tokens.
    """
    lines = block.rstrip(b"\n").split(b"\n")
    headers, sequences = lines[0::2], lines[1::2]
    if len(headers) != len(sequences) or not all(sequences) or not block.isascii():
        return None
    tokens = translate(b"".join(sequences))
    try:
        words = [header.split(None, 1)[0] for header in headers]
        starts = bytes(map(itemgetter(0), headers))
    except IndexError:  # a blank line
        return None
    names = b"\n".join(words)
    longest = max(map(len, words))
    if (
        tokens.max() == NOT_A_TOKEN
        or starts.count(b">") != len(headers)  # a line of residues in the place of a header
        or b"\n>\n" in b"\n%b\n" % names  # without a name
        or longest > _MAX_ID
        or not names.decode().replace("\n", "").isprintable()
    ):
        return None
    return longest - 1, headers, sequences, names[1:].replace(b"\n>", b"\n"), tokens
