"""Notation of variants: `A42G` for a substitution, `A42G:L50P` for several, checked against the wild type.

Also accepted: lower case, other separators (`,` `;` `/` `+` or a space), and HGVS protein notation (`p.Ala42Gly`,
`p.(Ala42Gly)`, `p.[Ala42Gly;Leu50Pro]`, `NP_000509.1:p.Ala42Gly`); `A42A`, `A42=` and `p.Ala42=` are synonymous.

Legend: L residues of the wild type, n variants, m substitutions in all variants together.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from protlm.errors import UserError, counted
from protlm.sequence.alphabet import STANDARD

WILD_TYPE = "WT"
"""Name of the variant without substitutions."""

_SUBSTITUTION = re.compile(r"([A-Z])(-?[0-9]{1,9})([A-Z])")  # the common case
_CODE = "[A-Za-z]{3}|[A-Za-z*]"
_ANY = re.compile(rf"({_CODE})(-?[0-9]{{1,9}})({_CODE}|[=-])")
_SEPARATORS = re.compile(r"\s*[:,;/+\s]\s*")
_REFERENCE = re.compile(r"^[\w.-]+:(?=p\.)")  # of HGVS
_WILD_TYPES = {"wt", "_wt", "wild type", "wild-type", "wild_type", "wildtype", "=", "p.=", "p.(=)"}
_THREE = "ALA CYS ASP GLU PHE GLY HIS ILE LYS LEU MET ASN PRO GLN ARG SER THR VAL TRP TYR"  # as in STANDARD
_ONE = {**dict(zip(_THREE.split(), STANDARD, strict=True)), "TER": "*"}
_INDELS = {"DEL", "INS", "DUP"}  # of HGVS
_INDEL = re.compile(r"\d(del|ins|dup|fs)", re.IGNORECASE)
_NUMBER = {letter: number for number, letter in enumerate(STANDARD)}
_SURE = 3  # number of positions that have to agree before another offset is suggested


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


def parse(sequence: str, names: Sequence[str], offset: int = 0) -> Variants:
    """Parses variants and checks that the wild type has the residues that they replace.

    Args:
        sequence: the wild type, in upper case.
        names: such as "A42G" or "A42G:L50P", positions from 1; "WT" is the wild type itself.
        offset: added to the positions in the sequence: "A42G" replaces residue 42 - offset.

    Raises:
        UserError: for a malformed name, a letter that is not one of the twenty, and a position that is out of range,
            duplicated in one variant, or another residue in the wild type.

    >>> variants = parse("MKTAY", ["K2R", "M1L:Y5F", "p.(Thr3Ala)"])
    >>> list(variants.sequences())
    ['MRTAY', 'LKTAF', 'MKAAY']
    """
    variants, problems, advice = examine(sequence, names, offset)
    if problems:
        located = {number: f"variant {number + 1}{problem}" for number, problem in problems.items()}
        raise UserError(first_of(located, "variant") + advice, "offset")
    return variants


def first_of(problems: Mapping[int, str], noun: str) -> str:
    """The first of the problems, by number, and how many more there are.

    >>> first_of({4: "row 5: empty", 2: "row 3: 'A4*' is not a substitution"}, "row")
    "row 3: 'A4*' is not a substitution; 1 more row is invalid"
    """
    others = len(problems) - 1
    more = f"; {counted(others, f'more {noun}')} {'is' if others == 1 else 'are'} invalid" if others else ""
    return problems[min(problems)] + more


def examine(sequence: str, names: Sequence[str], offset: int = 0) -> tuple[Variants, dict[int, str], str]:
    """As `parse`, but invalid variants are left without substitutions.

    Returns the variants; what is wrong with the invalid ones, by number, as the end of a message that starts with the
    location; and advice, which is not empty if the residues of the wild type differ.
    """
    problems: dict[int, str] = {}
    owners, numbers, before, after = [], [], [], []
    for owner, name in enumerate(names):
        try:
            substitutions = list(map(_read, parts_of(name)))
            positions = [number for _, number, _ in substitutions]
            for number in positions:
                if positions.count(number) > 1:
                    raise ValueError(f"duplicate position {number}; expected one substitution per position")
        except ValueError as error:
            problems[owner] = f"{f', variant {name}' if name else ''}: {error}"
            continue
        for letter, number, mutant in substitutions:
            owners.append(owner)
            numbers.append(number)
            before.append(letter)
            after.append(mutant)
    owner, number, wild_type, mutant = (np.array(column, dtype=np.int64) for column in (owners, numbers, before, after))
    mutant = np.where(mutant < 0, wild_type, mutant)
    found, position = _letters(sequence), number - 1 - offset
    inside = (position >= 0) & (position < len(sequence))
    wrong = ~inside
    wrong[inside] = found[position[inside]] != wild_type[inside]
    for first in np.flatnonzero(wrong).tolist():
        where = f", variant {names[owners[first]]}: position {numbers[first]}"
        if offset:
            where += f", with an offset of {offset},"
        if inside[first]:
            where += f" of the wild type is {sequence[position[first]]}, not {STANDARD[wild_type[first]]}"
        else:
            where += f" is outside the wild type of {len(sequence):,} residues"
        problems.setdefault(owners[first], where)
    advice = _advice(found, number, wild_type) if wrong.any() else ""
    if problems:
        kept = ~np.isin(owner, list(problems))
        owner, position, wild_type, mutant = (column[kept] for column in (owner, position, wild_type, mutant))
    return Variants(sequence, list(names), owner, position, wild_type, mutant), problems, advice


def parts_of(name: str) -> list[str]:
    """The substitutions of a variant as text; none for the wild type.

    >>> parts_of("A42G+L50P"), parts_of("NP_000509.1:p.[Ala4Gly;Leu5Pro]"), parts_of("wt")
    (['A42G', 'L50P'], ['Ala4Gly', 'Leu5Pro'], [])
    """
    if _SUBSTITUTION.fullmatch(name):
        return [name]
    bare = name.strip()
    if bare.lower() in _WILD_TYPES:
        return []
    bare = _bare(_REFERENCE.sub("", bare))
    return [_bare(part) for part in _SEPARATORS.split(bare)]


def _bare(text: str) -> str:
    """Without HGVS's p. and brackets."""
    text = text.removeprefix("p.")
    return text[1:-1] if text[:1] + text[-1:] in ("()", "[]") and text.count(text[0]) == 1 else text


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
    """Index of the wild-type amino acid, position, and index of the mutant, -1 if it is the same."""
    if match := _SUBSTITUTION.fullmatch(part):
        letters = [match[1], match[3]]
    elif match := _ANY.fullmatch(part):
        letters = [_ONE.get(code, code) for code in (match[1].upper(), match[3].upper())]
    elif not part.strip():
        raise ValueError("empty; expected a substitution such as A42G")
    elif _INDEL.search(part):
        raise ValueError(f"{part!r} is not a substitution; insertions and deletions cannot be scored")
    else:
        raise ValueError(f"{part!r} is not a substitution; expected A42G, or A42G:L50P for several")
    for letter in letters:
        if letter in _INDELS:
            raise ValueError(f"{part!r} is not a substitution; insertions and deletions cannot be scored")
        if letter not in _NUMBER and (letter != "=" or letter == letters[0]):
            raise ValueError(f"{letter!r} in {part} is not one of the twenty amino acids, {STANDARD}")
    return _NUMBER[letters[0]], int(match[2]), _NUMBER.get(letters[1], -1)


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
