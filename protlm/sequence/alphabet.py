"""The 33-token alphabet of ESM, and the conversion from letters to tokens and back.

Source of the order: fair-esm 2.0, `Alphabet.from_architecture("ESM-1b")`, which ESM-2 and its tokenisers share.
"""

import re
from collections import Counter

import numpy as np

TOKENS = (*("<cls>", "<pad>", "<eos>", "<unk>"), *"LAGVSERTIDPKQNFYMHWCXBUZO.-", *("<null_1>", "<mask>"))
INDEX = {token: index for index, token in enumerate(TOKENS)}
CLS, PAD, EOS, MASK = INDEX["<cls>"], INDEX["<pad>"], INDEX["<eos>"], INDEX["<mask>"]

STANDARD = "ACDEFGHIKLMNPQRSTVWY"
"""The twenty amino acids of the universal genetic code."""

STANDARD_TOKENS = np.array([INDEX[letter] for letter in STANDARD])
"""(20,) int64: the tokens of `STANDARD`, in its order."""

IS_STANDARD = np.isin(np.arange(len(TOKENS)), STANDARD_TOKENS)
"""(33,) bool: which tokens are in `STANDARD`."""

LETTERS = "LAGVSERTIDPKQNFYMHWCXBUZO"
"""Every letter that has a token: the twenty, U and O, the ambiguous B and Z, and X for any residue."""

SCORED = np.isin(np.array(TOKENS), [*STANDARD, "U", "O"])
"""(33,) bool: the tokens a model is scored on, the 22 genetically encoded amino acids."""

NOT_A_TOKEN = 255
_COUNTED = 1 << 18  # tokens counted at a time; intermediate arrays fit in the processor's cache
_TO_TOKEN = bytes(INDEX[chr(byte)] if chr(byte) in LETTERS else NOT_A_TOKEN for byte in range(256))
_STANDARD_BYTES = STANDARD.encode()
_NOT_IN_FASTA = re.compile(r"[^A-Za-z*.-]")
_SPECIAL = re.compile(r"<[a-z_0-9]+>")
_GAP = re.compile(r"[.-]")
_EXPECTED = "the letters A to Z, '*' for a stop or '-' and '.' for gaps"


class ResidueError(ValueError):
    """A character that cannot be part of a protein sequence.

    Attributes:
        position: 0-based index of the character.
        offset: the same, counting `<mask>` as six characters.
    """

    def __init__(self, position: int, character: str, offset: int | None = None, expected: str = _EXPECTED) -> None:
        self.position, self.character = position, character
        self.offset = position if offset is None else offset
        super().__init__(f"{character!r} at position {position + 1} is not a residue: expected {expected}")


def normalise(sequence: str, gaps: bool = True) -> tuple[str, Counter[str]]:
    """Normalises a sequence to upper-case letters that have a token.

    Lower case becomes upper case, gaps (`-`, `.`) and `*` at the end are removed, J and an internal `*` become X.

    Args:
        sequence: as in a FASTA file, without white space.
        gaps: whether gaps are removed; if not they are refused, for the sake of positions that count residues.

    Returns:
        The sequence, and the number of characters changed or removed for each reason.

    Raises:
        ResidueError: for a character that is not a letter, a gap or a stop.

    >>> normalise("MKTAYIAK")
    ('MKTAYIAK', Counter())
    >>> sequence, changes = normalise("MK-TJ")
    >>> sequence, dict(changes)
    ('MKTX', {'gap removed': 1, 'J replaced by X': 1})
    """
    changes: Counter[str] = Counter()
    if odd := _NOT_IN_FASTA.search(sequence):
        special = _SPECIAL.match(sequence, odd.start())
        raise ResidueError(odd.start(), (special or odd)[0])
    raw = sequence.encode()
    odd = raw.translate(None, _STANDARD_BYTES)
    if not odd:
        return sequence, changes
    if lower := sum(odd.count(byte) for byte in set(odd) if 97 <= byte <= 122):
        changes["lower case made upper case"] = lower
        raw = raw.upper()
    if removed := raw.count(b"-") + raw.count(b"."):
        if not gaps and (gap := _GAP.search(sequence)):
            raise ResidueError(gap.start(), gap[0], expected="no gaps, which would shift the positions after them")
        changes["gap removed"] = removed
        raw = raw.translate(None, b"-.")
    if stops := len(raw) - len(raw.rstrip(b"*")):
        changes["final stop removed"] = stops
        raw = raw[:-stops]
    for letter, reason in ((b"J", "J replaced by X"), (b"*", "inner stop replaced by X")):
        if count := raw.count(letter):
            changes[reason] = count
            raw = raw.replace(letter, b"X")
    return raw.decode(), changes


def normalise_masked(sequence: str) -> tuple[str, Counter[str]]:
    """As `normalise`, for a sequence with `<mask>` in place of some residues; masks are kept.

    >>> normalise_masked("m-k<mask>t*")[0]
    'MK<mask>T'
    """
    *pieces, last = sequence.split(TOKENS[MASK])
    changes: Counter[str] = Counter()
    parts, before = [], 0
    for piece in (*(piece + "A" for piece in pieces), last):  # so that a stop before a mask is an internal one
        try:
            part, found = normalise(piece)
        except ResidueError as error:
            position = before + error.position
            offset = position + (len(TOKENS[MASK]) - 1) * len(parts)
            raise ResidueError(position, error.character, offset, f"{_EXPECTED}, and {TOKENS[MASK]}") from error
        changes += found
        parts.append(part)
        before += len(piece)  # the A counts as the mask does
    return TOKENS[MASK].join((*(part[:-1] for part in parts[:-1]), parts[-1])), changes


def clean(text: str, masked: bool = False, gaps: bool = True) -> str:
    """A sequence as typed or pasted, normalised; white space is removed.

    Args:
        text: letters of either case.
        masked: accept `<mask>`.
        gaps: as in `normalise`.

    Raises:
        ResidueError: as `normalise`.

    >>> clean("mkt ayi-\\nakj*")
    'MKTAYIAKX'
    """
    text = "".join(text.split())
    return (normalise_masked(text) if masked else normalise(text, gaps))[0]


def encode(sequence: str) -> np.ndarray:
    """Encodes a normalised sequence as tokens (length,) uint8, without special tokens.

    Raises:
        ResidueError: for a character without a token.

    >>> encode("LAG").tolist()
    [4, 5, 6]
    """
    tokens = translate(sequence.encode("latin-1", "replace"))
    if tokens.size and tokens.max() == NOT_A_TOKEN:
        position = int(tokens.argmax())
        raise ResidueError(position, sequence[position])
    return tokens


def translate(letters: bytes) -> np.ndarray:
    """Tokens (length,) uint8 of letters, `NOT_A_TOKEN` where a byte has none."""
    return np.frombuffer(letters.translate(_TO_TOKEN), dtype=np.uint8)


def count_tokens(tokens: np.ndarray) -> np.ndarray:
    """(33,) int64, how often each token occurs in (n,) uint8; counting pairs takes half the time."""
    size, whole = len(TOKENS), len(tokens) // 2 * 2
    pairs = np.zeros(size << 8, dtype=np.int64)
    for start in range(0, whole, _COUNTED):
        pairs += np.bincount(tokens[start : min(whole, start + _COUNTED)].view(np.uint16), minlength=size << 8)
    square = pairs.reshape(size, 1 << 8)[:, :size]
    return square.sum(0) + square.sum(1) + np.bincount(tokens[whole:], minlength=size)


def decode(tokens: np.ndarray) -> str:
    """Decodes tokens (length,) of any integer dtype.

    >>> decode(np.array([20, 15, MASK]))
    'MK<mask>'
    """
    return "".join(TOKENS[token] for token in tokens)


def with_ends(tokens: np.ndarray, start: int = CLS) -> np.ndarray:
    """Adds `<cls>` (or another first token) and `<eos>`: (length + 2,) uint8."""
    framed = np.empty(len(tokens) + 2, dtype=np.uint8)
    framed[0], framed[1:-1], framed[-1] = start, tokens, EOS
    return framed
