"""Variants of a protein: substitutions as `A42G`, several as `A42G:L50P`, checked against the wild type.

Legend: L residues of the wild type, n variants, m substitutions of all of them.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from protlm.errors import UserError
from protlm.sequence.alphabet import LETTERS, STANDARD
from protlm.sequence.fasta import FastaFile, Record
from protlm.sequence.stream import STDIN

WILD_TYPE = "WT"
"""The name of the variant without any substitution."""

_SUBSTITUTION = re.compile(r"([A-Za-z*-])(-?[0-9]{1,9})([A-Za-z*=-])")
_NUMBER = {letter: number for number, letter in enumerate(STANDARD)}
_SURE = 3  # positions that have to agree before another offset is suggested

Place = Callable[[int], str]
"""How a message names a variant, from its 0-based number."""


@dataclass(frozen=True)
class Variants:
    """Substitutions in one wild type, as arrays over all variants.

    Attributes:
        sequence: of the wild type, L letters.
        names: n, as they were given.
        variant: (m,) int64, whose substitution it is, 0 to n - 1; never falls.
        position: (m,) int64, 0-based in the sequence.
        wild_type, mutant: (m,) int64, numbers of amino acids in `STANDARD`.
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


def parse(sequence: str, names: Sequence[str], offset: int = 0, place: Place | None = None) -> Variants:
    """Reads variants, and checks that the wild type has the residues that they replace.

    Args:
        sequence: the wild type, capital letters.
        names: such as "A42G" or "A42G:L50P"; "WT" is the wild type itself. Positions are counted from 1.
        offset: the number of residues before the first of the sequence: `A42G` replaces residue 42 - offset.
        place: see `Place`.

    Raises:
        UserError: for a name that is no substitution, a letter outside the twenty, a position twice in one variant, out
            of range, or where the wild type has another residue.

    >>> variants = parse("MKTAY", ["K2R", "M1L:Y5F"])
    >>> list(variants.sequences())
    ['MRTAY', 'LKTAF']
    """
    place = place or (lambda number: f"variant {number + 1}")
    owners, numbers, before, after = [], [], [], []
    for owner, name in enumerate(names):
        seen = set()
        for part in name.split(":") if name != WILD_TYPE else ():
            try:
                letter, number, mutant = _read(part)
                if number in seen:
                    raise ValueError(f"position {number} stands twice; expected one substitution for a position")
            except ValueError as error:
                raise UserError(f"{place(owner)}{f', variant {name}' if name else ''}: {error}") from error
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
        where = f"{place(owners[first])}, variant {names[owners[first]]}: position {numbers[first]}"
        if offset:
            where += f", with an offset of {offset},"
        if inside[first]:
            text = f"{where} of the wild type is {sequence[position[first]]}, not {STANDARD[wild_type[first]]}"
        else:
            text = f"{where} is outside of the wild type, which has {len(sequence):,} residues"
        if (others := len(set(owner[wrong].tolist())) - 1) > 0:
            text += f"; {others:,} more do not fit"
        raise UserError(text + _advice(found, number, wild_type))
    return Variants(sequence, list(names), owner, position, wild_type, mutant)


def all_singles(sequence: str, offset: int = 0) -> Variants:
    """All 19 substitutions of each residue that is one of the twenty, by position, then in the order of `STANDARD`.

    Arguments as in `parse`.
    """
    found = _letters(sequence)
    position, mutant = np.nonzero((found[:, None] >= 0) & (found[:, None] != np.arange(len(STANDARD))))
    wild_type = found[position]
    names = [
        f"{STANDARD[w]}{p + 1 + offset}{STANDARD[m]}"
        for w, p, m in zip(wild_type.tolist(), position.tolist(), mutant.tolist(), strict=True)
    ]
    return Variants(sequence, names, np.arange(len(names)), position, wild_type, mutant)


def name_of(wild_type: str, sequence: str, offset: int = 0) -> str:
    """The name of a variant from its sequence, as long as that of the wild type.

    Raises:
        ValueError: for another length.

    >>> name_of("MKTAY", "LKTAF")
    'M1L:Y5F'
    """
    if len(sequence) != len(wild_type):
        raise ValueError(
            f"{len(sequence):,} residues; expected {len(wild_type):,} as in the wild type, for only substitutions are "
            "scored"
        )
    pairs = enumerate(zip(wild_type, sequence, strict=True), start=1 + offset)
    return ":".join(f"{before}{i}{after}" for i, (before, after) in pairs if before != after) or WILD_TYPE


def open_proteins(source: str, allow_nucleotides: bool = False) -> FastaFile | list[Record]:
    """The proteins that a user names on the command line, to be iterated over.

    Args:
        source: a FASTA file, "-" for standard input, or a sequence itself.
        allow_nucleotides: take a file that looks like DNA or RNA all the same.

    Raises:
        UserError: if it is none of these.
    """
    try:
        exists = source == STDIN or bool(source and Path(source).exists())
    except OSError:  # longer than the name of a file can be
        exists = False
    if exists:
        return FastaFile(source, allow_nucleotides)
    if re.fullmatch(f"[{LETTERS}]+", source.upper()) and source.isascii():
        return [Record("sequence", "", source.upper())]
    shown = source if len(source) <= 60 else f"{source[:57]}..."
    raise UserError(f"{shown or repr(shown)}: neither a file nor a sequence of amino acids in one-letter code")


def _read(part: str) -> tuple[int, int, int]:
    """Numbers of the amino acid before, of the position, and of the amino acid behind it."""
    if not part.strip():
        raise ValueError("is empty; expected a substitution such as A42G")
    match = _SUBSTITUTION.fullmatch(part)
    if match is None:
        raise ValueError(f"{part!r} is no substitution; expected such as A42G, or several as A42G:L50P")
    for letter in (match[1], match[3]):
        if letter not in _NUMBER:
            raise ValueError(f"{letter!r} in {part} is none of the twenty amino acids, {STANDARD}")
    return _NUMBER[match[1]], int(match[2]), _NUMBER[match[3]]


def _letters(sequence: str) -> np.ndarray:
    """(L,) int64, numbers in `STANDARD`, -1 for anything else."""
    return np.array([_NUMBER.get(letter, -1) for letter in sequence], dtype=np.int64)


def _advice(found: np.ndarray, number: np.ndarray, wild_type: np.ndarray) -> str:
    """What to do if one offset, and no other, would let all substitutions fit."""
    pairs = np.unique(np.stack((number, wild_type), axis=1), axis=0)
    offsets = np.arange(number.max() - len(found), number.min())
    for n, letter in pairs.tolist():
        offsets = offsets[found[n - 1 - offsets] == letter]
    if len(offsets) == 1 and len(pairs) >= _SURE:
        return f"; with an offset of {offsets[0]} all would fit (--offset {offsets[0]})"
    return "; is this the wild type that the variants were numbered on?"
