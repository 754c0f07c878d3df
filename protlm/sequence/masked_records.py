"""Records with `<mask>` in place of letters, of any alphabet but proteins."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from protlm.errors import UserError
from protlm.sequence.letters import MASK, WHITE
from protlm.sequence.long_records import CUT, LongRecords


class TokenRecord(NamedTuple):
    """A sequence as tokens, which may be masks."""

    name: str
    tokens: np.ndarray
    """(L,) of the alphabet's `dtype`, without special tokens at the ends."""


class MaskedRecords(LongRecords):
    """As `LongRecords`, with masks; records of more than `CUT` characters are refused instead of cut."""

    _before = 0  # characters of the record before the piece that is checked

    def check_start(self) -> None:
        next(iter(self.again()) if self.size else iter(()), None)

    def __iter__(self) -> Iterator[TokenRecord]:
        with self._content() as content:
            for name, texts in self._records(content):
                tokens = self._tokens(name, self._whole(name, texts))
                self._tally_record(empty=not len(tokens))
                if len(tokens):
                    yield TokenRecord(name, tokens)

    def _whole(self, name: str, texts: Iterable[bytes]) -> bytes:
        """The text of a record, whose lines are kept to be counted."""
        text, line = bytearray(), 0
        for part in texts:
            line = line or self._line
            text += part
            if len(text) > CUT:
                what = f"longer than {CUT:,} characters; expected the {self.alphabet.unit}s around the masks"
                raise UserError(f"{self.path}, record {self._record} ({name}): {what}")
        self._held, self._line = bytes(text).splitlines(keepends=True), line
        return bytes(text)

    def _tokens(self, name: str, text: bytes) -> np.ndarray:
        if self.layout == "fasta":
            text = text.translate(None, WHITE)
        pieces: list[np.ndarray] = []
        self._before = position = 0
        mask = np.array([self.alphabet.mask], dtype=self.alphabet.dtype)
        for piece in text.split(MASK.encode()):
            try:
                letters = self._letters(name, piece, position)
            except UserError as error:
                raise UserError(f"{error}, or {MASK}") from error
            pieces += [self.alphabet.translate(letters), mask]
            self._before += len(letters) + len(MASK)
            position += len(letters) + 1
        return np.concatenate(pieces[:-1]).astype(self.alphabet.dtype)

    def _line_of(self, position: int) -> int:
        return super()._line_of(self._before + position)
