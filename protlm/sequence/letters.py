"""The interface of an alphabet: letters, their tokens, and the words that messages use.

Legend: V tokens, special ones included.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from protlm.errors import UserError
from protlm.sequence.alphabet import NOT_A_TOKEN

CLS, PAD, EOS, MASK = "<cls>", "<pad>", "<eos>", "<mask>"
WHITE = b" \t\r\n\f\v"
"""White space, which is left out of sequences in FASTA."""
LAYOUTS = ("fasta", "file", "line")
"""How files hold sequences: FASTA records, each file one, or each line one."""


@dataclass(frozen=True)
class Alphabet:
    """Letters and their tokens. A subclass sets the class attributes; its fields, if any, are kept in JSON.

    Letters are single bytes, of which at most 250 have a token: corpora store a token in a byte.

    >>> from protlm.sequence.alphabets import alphabet_of
    >>> alphabet_of("dna").encode(b"ACGTN").tolist()
    [4, 5, 6, 7, 18]
    """

    unit: ClassVar[str] = "letter"
    """What one letter is, in messages."""
    record: ClassVar[str] = "sequence"
    """What one sequence is, in messages."""
    layout: ClassVar[str] = "fasta"
    """How files are read by default, one of `LAYOUTS`."""
    letters: ClassVar[str] = ""
    """Every letter that has a token, in the order of the tokens."""
    definite: ClassVar[str] = ""
    """The letters that a model predicts and that are drawn at random; the others are ambiguous."""
    folded: ClassVar[Mapping[str, str]] = {}
    """Characters that are read as a letter, such as lower case; changes are counted."""
    removed: ClassVar[str] = ""
    """Characters that are left out, such as gaps, and counted."""
    complement: ClassVar[Mapping[str, str]] = {}
    """Letter -> its complement, if a sequence can be read on the opposite strand."""

    @cached_property
    def tokens(self) -> tuple[str, ...]:
        """The V tokens in their order."""
        return (CLS, PAD, EOS, "<unk>", *self.letters, MASK)

    @property
    def size(self) -> int:
        """V."""
        return len(self.tokens)

    @cached_property
    def index(self) -> dict[str, int]:
        """Token -> its number."""
        return {token: number for number, token in enumerate(self.tokens)}

    @cached_property
    def cls(self) -> int:
        """The first token of a sequence."""
        return self.index[CLS]

    @cached_property
    def pad(self) -> int:
        """The token after the end of shorter sequences of a batch."""
        return self.index[PAD]

    @cached_property
    def eos(self) -> int:
        """The last token of a sequence."""
        return self.index[EOS]

    @cached_property
    def mask(self) -> int:
        """The token in place of letters to predict."""
        return self.index[MASK]

    @cached_property
    def drawn(self) -> np.ndarray:
        """(n,) int64, the tokens that are drawn at random, in masking and in generation."""
        return np.array([self.index[letter] for letter in self.definite])

    @cached_property
    def scored(self) -> np.ndarray:
        """(V,) bool, the tokens that a model is scored on."""
        return np.isin(np.arange(self.size), self.drawn)

    @cached_property
    def is_letter(self) -> np.ndarray:
        """(V,) bool, false at special tokens."""
        return np.isin(np.arange(self.size), [self.index[letter] for letter in self.letters])

    @cached_property
    def is_definite(self) -> np.ndarray:
        """(V,) bool, the tokens of `definite`."""
        return np.isin(np.arange(self.size), self.drawn)

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """Of tokens in memory, special ones included."""
        return np.dtype(np.uint8 if self.size <= 256 else np.uint16)

    @cached_property
    def _table(self) -> bytes:
        known = set(self.letters.encode("latin-1"))
        return bytes(self.index[chr(byte)] if byte in known else NOT_A_TOKEN for byte in range(256))

    @cached_property
    def folds(self) -> bytes:
        """(256,) the letter that each byte is read as."""
        table = bytearray(range(256))
        for given, letter in self.folded.items():
            table[ord(given)] = ord(letter)
        return bytes(table)

    @cached_property
    def expected(self) -> str:
        """The letters, for messages."""
        return f"one of {self.letters}"

    def translate(self, letters: bytes) -> np.ndarray:
        """Tokens (length,) uint8 of letters, `NOT_A_TOKEN` where a byte has none."""
        return np.frombuffer(letters.translate(self._table), dtype=np.uint8)

    def first_invalid(self, letters: bytes) -> int | None:
        """0-based position of the first byte that is no letter."""
        odd = np.flatnonzero(self.translate(letters) == NOT_A_TOKEN)
        return int(odd[0]) if len(odd) else None

    def not_a_letter(self, byte: int, position: int) -> str:
        """Message about a byte at a 0-based position."""
        return f"{chr(byte)!r} at position {position + 1} is not a {self.unit}: expected {self.expected}"

    def typed(self, text: str | bytes) -> bytes:
        """A sequence as typed or pasted, in UTF-8; white space is left out of what is FASTA in files."""
        raw = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
        return raw.translate(None, WHITE) if self.layout == "fasta" else raw

    def encode(self, text: bytes) -> np.ndarray:
        """Tokens (length,) of text as in a file: folded, without the characters that are left out.

        Raises:
            UserError: for a byte that is no letter.
        """
        letters = text.translate(self.folds, self.removed.encode("latin-1"))
        if (odd := self.first_invalid(letters)) is not None:
            raise UserError(self.not_a_letter(letters[odd], odd))
        return self.translate(letters)

    def encode_masked(self, text: bytes) -> np.ndarray:
        """As `encode`, of `dtype`; each `<mask>` in the text is one token, and one position in messages.

        >>> from protlm.sequence.alphabets import alphabet_of
        >>> alphabet_of("dna").encode_masked(b"a-c<mask>u").tolist()
        [4, 5, 19, 7]
        """
        first, *others = text.split(MASK.encode())
        if not others:
            return self.encode(first).astype(self.dtype)
        tokens, removed = [], self.removed.encode("latin-1")
        for piece in (first, *others):
            letters = piece.translate(self.folds, removed)
            if (odd := self.first_invalid(letters)) is not None:
                raise UserError(f"{self.not_a_letter(letters[odd], len(tokens) + odd)}, or {MASK}")
            tokens += [*self.translate(letters).tolist(), self.mask]
        return np.array(tokens[:-1], dtype=self.dtype)

    def decode(self, tokens: np.ndarray) -> str:
        """The tokens as text."""
        return "".join(self.tokens[token] for token in tokens)

    @cached_property
    def cells(self) -> tuple[str, ...]:
        """The V tokens as they are in tables, where a space must be visible."""
        return tuple("<0x20>" if token == " " else token for token in self.tokens)

    def letters_of(self, tokens: np.ndarray) -> bytes:
        """The letters (length,) of tokens that are all letters."""
        return self.decode(tokens).encode()

    def with_ends(self, tokens: np.ndarray, start: int | None = None) -> np.ndarray:
        """Adds `<cls>` (or another first token) and `<eos>`: (length + 2,) of `dtype`."""
        framed = np.empty(len(tokens) + 2, dtype=self.dtype)
        framed[0], framed[1:-1], framed[-1] = self.cls if start is None else start, tokens, self.eos
        return framed

    @cached_property
    def complements(self) -> np.ndarray:
        """(V,) of `dtype`, the complement of each token; special tokens stay.

        Raises:
            UserError: for an alphabet without complements.
        """
        if not self.complement:
            raise UserError(
                f"reverse_complement: {self.unit}s have no complements; expected dna or rna", "reverse_complement"
            )
        table = np.arange(self.size, dtype=self.dtype)
        for letter, other in self.complement.items():
            table[self.index[letter]] = self.index[other]
        return table

    def reverse_complement(self, tokens: np.ndarray) -> np.ndarray:
        """The opposite strand of tokens (length,), without special tokens at the ends.

        >>> from protlm.sequence.alphabets import alphabet_of
        >>> dna = alphabet_of("dna")
        >>> dna.decode(dna.reverse_complement(dna.encode(b"AACGRN")))
        'NYCGTT'
        """
        return self.complements[tokens[::-1]]

    def count(self, tokens: np.ndarray) -> np.ndarray:
        """(V,) int64, how often each token occurs in (n,) uint8."""
        return np.bincount(tokens, minlength=self.size)
