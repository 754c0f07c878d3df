"""Notation of variants: `A42G` for a substitution, `A42G:L50P` for several, checked against the wild type.

Legend: L residues of the wild type, n variants, m substitutions in all variants together.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from protlm.errors import UserError
from protlm.sequence.alphabet import STANDARD

WILD_TYPE = "WT"
"""Name of the variant without substitutions."""

_SUBSTITUTION = re.compile(r"([A-Za-z*-])(-?[0-9]{1,9})([A-Za-z*=-])")
_NUMBER = {letter: number for number, letter in enumerate(STANDARD)}
_SURE = 3  # number of positions that have to agree before another offset is suggested

Locate = Callable[[int], str]
"""Where a variant comes from, for messages, by its 0-based number."""


@dataclass(frozen=True)
class Variants:
    """Variants of one wild type, as arrays over all substitutions.

    Attributes:
        sequence: of the wild type, L letters.
        names: of the n variants, as given.
        variant: (m,) int64, the variant of each substitution, 0 to n - 1 in ascending order.
        position: (m,) int64, 0-based.
        wild_type, mutant: (m,) int64, indices of amino acids in `STANDARD`.
    """

    sequence: str
    names: list[str]
    variant: np.ndarray
    position: np.ndarray
    wild_type: np.ndarray
    mutant: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    def sequences(self) -> Iterator[str]:
        """The mutated sequences, in order."""
        wild_type = self.sequence.encode()
        ends = np.searchsorted(self.variant, np.arange(len(self)), side="right").tolist()
        positions, mutants = self.position.tolist(), [STANDARD[i].encode()[0] for i in self.mutant.tolist()]
        start = 0
        for end in ends:
            letters = bytearray(wild_type)
            for i in range(start, end):
                letters[positions[i]] = mutants[i]
            yield letters.decode()
            start = end


def parse(sequence: str, names: Sequence[str], offset: int = 0, locate: Locate | None = None) -> Variants:
    """Parses variants and checks that the wild type has the residues that they replace.

    Args:
        sequence: the wild type, in upper case.
        names: such as "A42G" or "A42G:L50P", positions from 1; "WT" is the wild type itself.
        offset: added to the positions in the sequence: "A42G" replaces residue 42 - offset.
        locate: see `Locate`.

    Raises:
        UserError: for a malformed name, a letter that is not one of the twenty, and a position that is out of range,
            duplicated in one variant, or another residue in the wild type.

    >>> variants = parse("MKTAY", ["K2R", "M1L:Y5F"])
    >>> list(variants.sequences())
    ['MRTAY', 'LKTAF']
    """
    locate = locate or (lambda number: f"variant {number + 1}")
    owners, numbers, before, after = [], [], [], []
    for owner, name in enumerate(names):
        seen = set()
        for part in name.split(":") if name != WILD_TYPE else ():
            try:
                letter, number, mutant = _read(part)
                if number in seen:
                    raise ValueError(f"duplicate position {number}; expected one substitution per position")
            except ValueError as error:
                raise UserError(f"{locate(owner)}{f', variant {name}' if name else ''}: {error}") from error
            seen.add(number)
            owners.append(owner)
            numbers.append(number)
            before.append(letter)
            after.append(mutant)
    owner, number, wild_type, mutant = (np.array(column, dtype=np.int64) for column in (owners, numbers, before, after))
    found, position = _letters(sequence), number - 1 - offset
    inside = (position >= 0) & (position < len(sequence))
    wrong = ~inside
    wrong[inside] = found[position[inside]] != wild_type[inside]
    if wrong.any():
        first = int(wrong.argmax())
        where = f"{locate(owners[first])}, variant {names[owners[first]]}: position {numbers[first]}"
        if offset:
            where += f", with an offset of {offset},"
        if inside[first]:
            text = f"{where} of the wild type is {sequence[position[first]]}, not {STANDARD[wild_type[first]]}"
        else:
            text = f"{where} is outside the wild type of {len(sequence):,} residues"
        if (others := len(set(owner[wrong].tolist())) - 1) > 0:
            text += f"; {others:,} more variants do not match"
        raise UserError(text + _advice(found, number, wild_type), "offset")
    return Variants(sequence, list(names), owner, position, wild_type, mutant)


def all_singles(sequence: str, offset: int = 0) -> Variants:
    """All 19 substitutions of each standard residue, by position, then in the order of `STANDARD`; see `parse`."""
    found = _letters(sequence)
    position, mutant = np.nonzero((found[:, None] >= 0) & (found[:, None] != np.arange(len(STANDARD))))
    wild_type = found[position]
    names = [
        f"{STANDARD[w]}{p + 1 + offset}{STANDARD[m]}"
        for w, p, m in zip(wild_type.tolist(), position.tolist(), mutant.tolist(), strict=True)
    ]
    return Variants(sequence, names, np.arange(len(names)), position, wild_type, mutant)


def name_of(wild_type: str, sequence: str, offset: int = 0) -> str:
    """The name of a variant, from its sequence.

    >>> name_of("MKTAY", "LKTAF")
    'M1L:Y5F'
    """
    if len(sequence) != len(wild_type):
        length = f"{len(wild_type):,} as in the wild type (substitutions only)"
        raise ValueError(f"{len(sequence):,} residues; expected {length}")
    pairs = enumerate(zip(wild_type, sequence, strict=True), start=1 + offset)
    return ":".join(f"{before}{i}{after}" for i, (before, after) in pairs if before != after) or WILD_TYPE


def _read(part: str) -> tuple[int, int, int]:
    """Index of the wild-type amino acid, position, and index of the mutant."""
    if not part.strip():
        raise ValueError("empty; expected a substitution such as A42G")
    match = _SUBSTITUTION.fullmatch(part)
    if match is None:
        raise ValueError(f"{part!r} is not a substitution; expected A42G, or A42G:L50P for several")
    for letter in (match[1], match[3]):
        if letter not in _NUMBER:
            raise ValueError(f"{letter!r} in {part} is not one of the twenty amino acids, {STANDARD}")
    return _NUMBER[match[1]], int(match[2]), _NUMBER[match[3]]


def _letters(sequence: str) -> np.ndarray:
    """(L,) int64, indices in `STANDARD`; -1 for other letters."""
    return np.array([_NUMBER.get(letter, -1) for letter in sequence], dtype=np.int64)


def _advice(found: np.ndarray, number: np.ndarray, wild_type: np.ndarray) -> str:
    """The end of a message: the only offset with which all substitutions would match, if there is one."""
    pairs = np.unique(np.stack((number, wild_type), axis=1), axis=0)
    offsets = np.arange(number.max() - len(found), number.min())
    for n, letter in pairs.tolist():
        offsets = offsets[found[n - 1 - offsets] == letter]
    if len(offsets) == 1 and len(pairs) >= _SURE:
        return f"; all would match with an offset of {offsets[0]}"
    return "; check that the variants are numbered on this wild type, or set offset"
