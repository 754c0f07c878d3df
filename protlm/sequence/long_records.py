"""Sequences of any alphabet but proteins: FASTA, whole files or lines, in constant memory however long they are.

Records longer than a limit are cut into pieces named as regions of samtools are, ID:FIRST-LAST, from 1.
"""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Self

import numpy as np

from protlm.errors import UserError
from protlm.sequence.fasta import Chunk
from protlm.sequence.formats import FASTA, LOOKED_AT, recognised
from protlm.sequence.headers import HeaderError, identifier_of
from protlm.sequence.letters import LAYOUTS, WHITE, Alphabet
from protlm.sequence.stream import DAMAGED, STDIN, Source, check_readable
from protlm.sequence.tally import Tally

CUT = 1_000_000
"""Default length of the pieces of a longer record."""
REGION = re.compile(rb":\d+-\d+$")
"""What is added to the identifier of a record to name a piece of it."""
_BLOCK = 1 << 16  # bytes read at a time, and letters of a chunk unless one piece has more


class LongRecords:
    """The records of one file; those without letters are left out. Everything changed is counted in `tally`.

    Args:
        path: the file, plain or compressed, or "-" for standard input.
        alphabet: of its letters.
        layout: one of `LAYOUTS`: FASTA records, the whole file, or each line without its end.
        cut: maximum length of a record; longer ones are cut into pieces.
        identifier: of FASTA records, see `IDENTIFIERS`; documents are FILE, and lines FILE:LINE.
        document: FILE, see `document_names`; by default the name of the file.

    Attributes:
        size, position: bytes of the (compressed) file, and bytes read so far; a size of 0 means unknown.
        unusable: a function that says why an identifier is refused; None if it is not.

    Raises:
        UserError: for a missing file or an unknown layout; while iterating, for a file that is empty, damaged, not of
            this layout, or has a character that is not a letter.
    """

    def __init__(
        self,
        path: str | Path,
        alphabet: Alphabet,
        layout: str = "",
        cut: int = CUT,
        identifier: str = "word",
        document: str = "",
    ) -> None:
        self.layout = layout or alphabet.layout
        if self.layout not in LAYOUTS:
            raise UserError(f"layout {layout!r}: expected one of {', '.join(LAYOUTS)}", "layout")
        if cut < 1:
            raise UserError(f"cut {cut}: expected at least 1", "cut")
        check_readable(path)
        self._path, self._identifier, self._cut = path, identifier, cut
        self._document = document or document_names([path])[0]
        self.path = "standard input" if str(path) == STDIN else str(path)
        self.alphabet, self.tally = alphabet, Tally()
        self.unusable: Callable[[bytes], str | None] | None = None
        self.size = Path(path).stat().st_size if str(path) != STDIN else 0
        self._source: Source | None = None
        self._removed = alphabet.removed.encode("latin-1") + (WHITE if self.layout == "fasta" else b"")
        self._special = bytes(ord(given) for given in alphabet.folded)
        self._held: list[bytes] = []
        self._changes: Counter[str] = Counter()
        self._record = self._line = 0

    def again(self) -> Self:
        """The same file, to be read from the start."""
        file = type(self)(self._path, self.alphabet, self.layout, self._cut, self._identifier, self._document)
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

    def chunks(self) -> Iterator[Chunk]:
        """The records, or pieces of them, a chunk at a time."""
        names: list[bytes] = []
        sequences: list[bytes] = []
        numbers: list[int] = []
        letters = 0
        with self._content() as content:
            for name, sequence in self._pieces(content):
                if self.unusable and (why := self.unusable(name.encode())):
                    raise UserError(f"{self.path}, record {self._record} ({name}): {why}")
                names.append(name.encode())
                sequences.append(sequence)
                numbers.append(self._record)
                letters += len(sequence)
                if letters >= _BLOCK:
                    yield self._chunk(names, sequences, numbers)
                    names, sequences, numbers, letters = [], [], [], 0
            if names:
                yield self._chunk(names, sequences, numbers)

    @contextmanager
    def _content(self) -> Iterator[IO[bytes]]:
        """The file, opened; damage found while it is read is a UserError."""
        self._source = Source(self._path)
        try:
            with self._source as source, source.content() as content:
                yield content
        except DAMAGED as error:
            raise UserError(
                f"{self.path}: damaged or cut short after record {self._record} ({error}); download it again"
            ) from error

    def _chunk(self, names: list[bytes], sequences: list[bytes], numbers: list[int]) -> Chunk:
        lengths = np.fromiter(map(len, sequences), np.int64, len(sequences))
        tokens = self.alphabet.translate(b"".join(sequences))
        headers = [b">" + name for name in names]
        return Chunk(b"\n".join(names), headers, sequences, tokens, lengths, np.array(numbers, dtype=np.int64))

    def _pieces(self, content: IO[bytes]) -> Iterator[tuple[str, bytes]]:
        """Names and letters of all pieces; also counts what was changed or left out."""
        for name, texts in self._records(content):
            start, held = 0, b""
            for text in texts:
                held += self._letters(name, text, start + len(held))
                while len(held) > self._cut:
                    yield f"{name}:{start + 1}-{start + self._cut}", held[: self._cut]
                    start, held = start + self._cut, held[self._cut :]
            self._tally_record(empty=not held)
            if held:
                yield (f"{name}:{start + 1}-{start + len(held)}" if start else name), held
                self.tally.add(f"cut into pieces of {self._cut:,}", start + len(held), int(start > 0))

    def _records(self, content: IO[bytes]) -> Iterator[tuple[str, Iterable[bytes]]]:
        """Name of each record and its text, in parts that must be read before the next record."""
        self._record = self._line = 0
        read = {"fasta": self._fasta, "line": self._lines, "file": self._file}[self.layout]
        for name, texts in read(content):
            self._record += 1
            self._changes.clear()
            yield name, texts

    def _tally_record(self, empty: bool) -> None:
        """Counts what was changed in the record that was read, or that it was left out."""
        for reason, count in self._changes.items():
            self.tally.add(reason, count)
        if empty:
            self.tally.add(f"left out, without a {self.alphabet.unit}", 0)

    def _letters(self, name: str, text: bytes, before: int) -> bytes:
        """The letters of text of a record, checked; `before` of them precede it."""
        if len(gaps := text.translate(None, self._removed)) < len(text):
            if count := sum(map(text.count, self.alphabet.removed.encode("latin-1"))):
                self._changes["gap removed"] += count
            text = gaps
        letters = text
        if len(text.translate(None, self._special)) < len(text):
            letters = text.translate(self.alphabet.folds)
            for given, letter in self.alphabet.folded.items():
                if count := text.count(given.encode("latin-1")):
                    upper = given.upper()
                    reason = "lower case made upper case" if upper == letter else f"{upper} read as {letter}"
                    self._changes[reason] += count
        if (odd := self.alphabet.first_invalid(letters)) is not None:
            line = f", line {self._line_of(odd)}" if self.layout == "fasta" else ""
            where = f"{self.path}, record {self._record} ({name}){line}"
            raise UserError(f"{where}: {self.alphabet.not_a_letter(text[odd], before + odd)}")
        return letters

    def _line_of(self, position: int) -> int:
        """The line of a letter of the text last read from FASTA."""
        for number, line in enumerate(self._held):
            position -= len(line.translate(None, self._removed))
            if position < 0:
                return self._line + number
        return self._line

    def _file(self, content: IO[bytes]) -> Iterator[tuple[str, Iterable[bytes]]]:
        yield self._document, iter(lambda: content.read(_BLOCK), b"")

    def _lines(self, content: IO[bytes]) -> Iterator[tuple[str, Iterable[bytes]]]:
        state = {"line": content.readline(_BLOCK)}

        def rest() -> Iterator[bytes]:
            while line := state["line"]:
                state["line"] = content.readline(_BLOCK)
                yield line.rstrip(b"\r\n") if line.endswith(b"\n") else line
                if line.endswith(b"\n"):
                    return

        number = 0
        while state["line"]:
            number += 1
            yield f"{self._document}:{number}", rest()

    def _fasta(self, content: IO[bytes]) -> Iterator[tuple[str, Iterable[bytes]]]:
        start = content.peek(LOOKED_AT)  # type: ignore[attr-defined]
        what, advice = recognised(start) or ("", "")
        if what != FASTA:
            found = what or repr(start.lstrip().split(b"\n")[0][:40].decode("utf-8", "replace"))
            found = f"{found}{advice and '; '}{advice}" if start.strip() else "nothing"
            raise UserError(f"{self.path}: expected FASTA records ('>identifier', then the sequence), found {found}")
        state = {"header": b"", "number": 0}

        def line() -> bytes:
            text = content.readline(_BLOCK)
            state["number"] += text.endswith(b"\n")
            return text

        while state["header"] == b"":
            state["header"] = line().lstrip(b" \t\r\n\f\v")

        def rest() -> Iterator[bytes]:
            state["header"], whole = b"", True
            self._held, held, self._line = [], 0, state["number"] + 1
            while text := line():
                if whole and text.startswith(b">"):
                    state["header"] = text
                    break
                whole = text.endswith(b"\n")
                self._held.append(text)
                held += len(text)
                if held >= _BLOCK:
                    yield b"".join(self._held)
                    self._held, held, self._line = [], 0, state["number"] + 1
            yield b"".join(self._held)

        while header := state["header"]:
            number = self._record + 1
            try:
                name = identifier_of(header[1:].decode("utf-8", "replace").rstrip("\r\n"), self._identifier)
            except HeaderError as error:
                raise UserError(f"{self.path}, record {number}, line {state['number']}: {error}") from error
            yield name, rest()


def document_names(paths: Sequence[str | Path]) -> list[str]:
    """The name of each file, with as many of its folders as distinguish it from other files of that name.

    >>> document_names(["a/x.txt", "b/x.txt", "b/y.txt"])
    ['a/x.txt', 'b/x.txt', 'y.txt']
    """
    parts = [("stdin",) if str(path) == STDIN else Path(os.path.abspath(path)).parts for path in paths]
    names = [""] * len(parts)
    same, depth = list(range(len(parts))), 0
    while same:
        depth += 1
        for i in same:
            names[i] = Path(*parts[i][-depth:]).as_posix()
        repeated = Counter(names)
        same = [i for i in same if repeated[names[i]] > 1 and depth < len(parts[i])]
    return names


def check_options(alphabet: Alphabet, allow_nucleotides: bool, invalid: str) -> None:
    """Raises a UserError for options that only `FastaFile` has."""
    if allow_nucleotides or invalid != "error":
        only = "allow_nucleotides" if allow_nucleotides else "invalid"
        raise UserError(f"{only} is only for proteins; the model is of {alphabet.unit}s", only)
