"""What a sequence is made of: proteins, DNA, RNA, bytes, or an alphabet of one's own.

An alphabet gives each letter a token and says which tokens are predicted and which are drawn. It is a name or a class
in JSON, and is kept in corpora and models.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from protlm.errors import UserError
from protlm.imported_class import imported_class
from protlm.sequence import alphabet as protein
from protlm.sequence.letters import CLS, EOS, LAYOUTS, MASK, PAD, Alphabet


@dataclass(frozen=True)
class Protein(Alphabet):
    """Amino acids in one-letter code, as ESM-2 has them; FASTA is read as `protlm.sequence.fasta` says."""

    unit = "residue"
    record = "protein"
    letters = protein.LETTERS
    definite = protein.STANDARD

    @cached_property
    def tokens(self) -> tuple[str, ...]:
        return protein.TOKENS

    @cached_property
    def scored(self) -> np.ndarray:
        return protein.SCORED

    def count(self, tokens: np.ndarray) -> np.ndarray:
        return protein.count_tokens(tokens)


_AMBIGUOUS = "RYSWKMBDHVN"
_PAIRS = dict(zip("CGRYSWKMBDHVN", "GCYRSWMKVHDBN", strict=True))


def _lower(letters: str) -> dict[str, str]:
    return {letter.lower(): letter for letter in letters}


@dataclass(frozen=True)
class Dna(Alphabet):
    """A, C, G, T and IUPAC's codes of several bases (NC-IUB 1984); U is read as T, and X as N."""

    unit = "base"
    letters = f"ACGT{_AMBIGUOUS}"
    definite = "ACGT"
    folded: ClassVar[Mapping[str, str]] = {**_lower(letters), "U": "T", "u": "T", "X": "N", "x": "N"}
    removed = "-."
    complement: ClassVar[Mapping[str, str]] = {**_PAIRS, "A": "T", "T": "A"}


@dataclass(frozen=True)
class Rna(Alphabet):
    """A, C, G, U and IUPAC's codes of several bases; T is read as U, and X as N."""

    unit = "base"
    letters = f"ACGU{_AMBIGUOUS}"
    definite = "ACGU"
    folded: ClassVar[Mapping[str, str]] = {**_lower(letters), "T": "U", "t": "U", "X": "N", "x": "N"}
    removed = "-."
    complement: ClassVar[Mapping[str, str]] = {**_PAIRS, "A": "U", "U": "A"}


@dataclass(frozen=True)
class Bytes(Alphabet):
    """The 256 bytes, each its own token, for text, pixels and anything else.

    >>> alphabet_of("bytes").decode(np.frombuffer(b"a<b\\n", np.uint8))
    'a<b<0x0A>'
    """

    unit = "byte"
    record = "document"
    layout = "file"
    letters = "".join(map(chr, range(256)))
    definite = letters

    @cached_property
    def tokens(self) -> tuple[str, ...]:
        shown = [chr(byte) if 32 <= byte < 127 else f"<0x{byte:02X}>" for byte in range(256)]
        return (*shown, CLS, PAD, EOS, MASK)

    @cached_property
    def drawn(self) -> np.ndarray:
        return np.arange(256)

    @cached_property
    def is_letter(self) -> np.ndarray:
        return np.arange(self.size) < 256

    @cached_property
    def _table(self) -> bytes:
        return bytes(range(256))

    def first_invalid(self, letters: bytes) -> int | None:
        return None

    def letters_of(self, tokens: np.ndarray) -> bytes:
        return tokens.astype(np.uint8).tobytes()


ALPHABETS: dict[str, Alphabet] = {"protein": Protein(), "dna": Dna(), "rna": Rna(), "bytes": Bytes()}
"""The built-in alphabets."""
PROTEIN = ALPHABETS["protein"]
_TARGET = "_target_"
_MOST = 250


def alphabet_of(description: Any) -> Alphabet:
    """The alphabet of a name, of MODULE.CLASS, of {"_target_": MODULE.CLASS, ...} with the class' fields, or itself.

    A class of another package is imported from Python's path, never from a model's folder.

    Raises:
        UserError: for an unknown name, or a class that cannot be imported or is no alphabet.

    >>> alphabet_of("rna").tokens[4:8]
    ('A', 'C', 'G', 'U')
    """
    if isinstance(description, Alphabet):
        return description
    if isinstance(description, str) and description in ALPHABETS:
        return ALPHABETS[description]
    fields = dict(description) if isinstance(description, Mapping) else {_TARGET: description}
    path = fields.pop(_TARGET, None)
    known = f"expected {', '.join(ALPHABETS)}, or MODULE.CLASS"
    if not isinstance(path, str) or "." not in path.strip("."):
        raise UserError(f"alphabet {path!r}: {known}", "alphabet")
    try:
        cls = imported_class(f"alphabet {path}", path)
        if not isinstance(cls, type) or not issubclass(cls, Alphabet):
            raise ValueError(
                f"alphabet {path}: expected a class derived from {Alphabet.__module__}.Alphabet, got {cls!r}"
            )
        return _checked(path, cls(**fields))
    except (TypeError, ValueError) as error:
        message = str(error) if isinstance(error, ValueError) else f"alphabet {path}: {error}"
        raise UserError(message, "alphabet") from error


def _checked(path: str, alphabet: Alphabet) -> Alphabet:
    """Checks a user's alphabet."""
    letters, definite = alphabet.letters, alphabet.definite
    if not (0 < len(letters) <= _MOST and len(set(letters)) == len(letters) and max(letters) < "\x80"):
        raise ValueError(f"alphabet {path}: expected 'letters' to be 1 to {_MOST} different ASCII characters")
    if not definite or not set(definite) <= set(letters):
        raise ValueError(f"alphabet {path}: expected 'definite' to be some of the letters, at least one")
    if odd := {*alphabet.folded.values(), *alphabet.complement, *alphabet.complement.values()} - set(letters):
        raise ValueError(
            f"alphabet {path}: {', '.join(sorted(odd))} in 'folded' or 'complement' is none of the letters"
        )
    if alphabet.layout not in LAYOUTS:
        raise ValueError(f"alphabet {path}: layout {alphabet.layout!r}: expected one of {', '.join(LAYOUTS)}")
    return alphabet


def describe(alphabet: Alphabet) -> str | dict[str, Any]:
    """The reverse of `alphabet_of`, ready for JSON."""
    for name, known in ALPHABETS.items():
        if known == alphabet:
            return name
    cls = type(alphabet)
    return {_TARGET: f"{cls.__module__}.{cls.__qualname__}", **asdict(alphabet)}


def described_units(alphabet: Alphabet) -> str:
    """Its units, with its name if that says more; for messages.

    >>> described_units(alphabet_of("dna")), described_units(alphabet_of("bytes"))
    ('bases (dna)', 'bytes')
    """
    units, name = f"{alphabet.unit}s", name_of(alphabet)
    return units if name == units else f"{units} ({name})"


def name_of(alphabet: Alphabet) -> str:
    """For messages."""
    described = describe(alphabet)
    return described if isinstance(described, str) else described[_TARGET]
