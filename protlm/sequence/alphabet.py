"""The 33-token alphabet of ESM, and the conversion from letters to tokens and back.

Source of the order: fair-esm 2.0, `Alphabet.from_architecture("ESM-1b")`, which ESM-2 and its tokenisers share.
"""

import re
from collections import Counter
from collections.abc import Collection

import numpy as np

from protlm.errors import UserError

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
_TOKEN_PATTERN = re.compile(r"<[a-z_0-9]+>|.", re.DOTALL)


class ResidueError(ValueError):
    """A character that cannot be part of a protein sequence.

    Attributes:
        position: 0-based index of the character.
        offset: the same, counting `<mask>` as six characters.
    """

    def __init__(self, position: int, character: str, offset: int | None = None) -> None:
        self.position, self.character = position, character
        self.offset = position if offset is None else offset
        super().__init__(
            f"{character!r} at position {position + 1} is not a residue: expected the letters A to Z, "
            "'*' for a stop or '-' and '.' for gaps"
        )


def normalise(sequence: str) -> tuple[str, Counter[str]]:
    """Normalises a sequence from a FASTA file to upper-case letters that have a token.

    Lower case becomes upper case, gaps (`-`, `.`) and a final `*` are removed, J and an internal `*` become X.

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
        raise ResidueError(odd.start(), odd[0])
    raw = sequence.encode()
    odd = raw.translate(None, _STANDARD_BYTES)
    if not odd:
        return sequence, changes
    if lower := sum(odd.count(byte) for byte in set(odd) if 97 <= byte <= 122):
        changes["lower case made upper case"] = lower
        raw = raw.upper()
    if gaps := raw.count(b"-") + raw.count(b"."):
        changes["gap removed"] = gaps
        raw = raw.translate(None, b"-.")
    if raw.endswith(b"*"):
        changes["final stop removed"] = 1
        raw = raw[:-1]
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
            raise ResidueError(position, error.character, offset) from error
        changes += found
        parts.append(part)
        before += len(piece)  # the A counts as the mask does
    return TOKENS[MASK].join((*(part[:-1] for part in parts[:-1]), parts[-1])), changes


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


def encode_with_special(text: str, allowed: Collection[str] | None = None) -> np.ndarray:
    """Encodes letters and special tokens such as `<mask>`, as typed by a user, as tokens (length,) uint8.

    Args:
        text: white space is ignored.
        allowed: the special tokens it may contain; all by default.

    >>> encode_with_special("mk<mask>").tolist()
    [20, 15, 32]
    """
    allowed = special() if allowed is None else allowed
    tokens = []
    for token in _TOKEN_PATTERN.findall(re.sub(r"\s", "", text)):
        if len(token) == 1 and token.isascii():  # some letters outside ASCII become I, K or S in upper case
            token = token.upper().replace("J", "X")
        if token not in INDEX or (token.startswith("<") and token not in allowed):
            raise UserError(
                f"{token!r} is not in the alphabet: expected amino acids in one-letter code and {' '.join(allowed)}"
            )
        tokens.append(INDEX[token])
    return np.array(tokens, dtype=np.uint8)


def decode(tokens: np.ndarray) -> str:
    """Decodes tokens (length,) of any integer dtype.

    >>> decode(encode_with_special("MK<mask>"))
    'MK<mask>'
    """
    return "".join(TOKENS[token] for token in tokens)


def special() -> list[str]:
    """The special tokens a user may type inside a sequence."""
    return [token for token in TOKENS if token.startswith("<")]


def with_ends(tokens: np.ndarray, start: int = CLS) -> np.ndarray:
    """Adds `<cls>` (or another first token) and `<eos>`: (length + 2,) uint8."""
    framed = np.empty(len(tokens) + 2, dtype=np.uint8)
    framed[0], framed[1:-1], framed[-1] = start, tokens, EOS
    return framed
