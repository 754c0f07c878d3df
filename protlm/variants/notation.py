"""Notation of variants, checked against the wild type: `A42G`, several as `A42G:L50P`, insertions, deletions and stops.

Also accepted: lower case, other separators (`,` `;` `/` `+` or a space), HGVS protein notation (`p.Ala42Gly`,
`p.(Ala42Gly)`, `p.[Ala42Gly;Leu50Pro]`, `NP_000509.1:p.Ala42Gly`, `p.Lys23_Val25del`), and a mutated sequence in place
of a name; `A42A`, `A42=` and `p.Ala42=` are synonymous.

Legend: L residues of the wild type, n variants, m substitutions in all variants together.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from protlm.errors import UserError, counted
from protlm.sequence.alphabet import STANDARD
from protlm.variants.changes import Change, read_change
from protlm.variants.edits import Edit, mutated, name_of

_SUBSTITUTION = re.compile(rf"([{STANDARD}])(-?[0-9]{{1,9}})([{STANDARD}])")  # the common case
_SEPARATORS = re.compile(r"\s*[:,;/+\s]\s*")
_REFERENCE = re.compile(r"^[\w.()-]+:(?=p\.)")  # of HGVS
_CODING = re.compile(r"[\w.()-]+:c\.\S+ \((p\..*)\)")  # names of ClinVar
_WILD_TYPES = {"wt", "_wt", "wild type", "wild-type", "wild_type", "wildtype", "=", "p.=", "p.(=)"}
_SEQUENCE = re.compile(r"([A-Z]+|[a-z]+)\*?")
_NUMBER = np.full(256, -1, dtype=np.int64)
_NUMBER[np.frombuffer(STANDARD.encode(), dtype=np.uint8)] = np.arange(len(STANDARD))
_SURE = 3  # number of positions that have to agree before another offset is suggested


@dataclass(frozen=True)
class Variants:
    """Variants of one wild type: substitutions as arrays, others as edits.

    Attributes:
        sequence: of the wild type, L letters.
        names: of the n variants, as given.
        variant: (m,) int64, the variant of each substitution, 0 to n - 1 in ascending order.
        position: (m,) int64, 0-based.
        wild_type, mutant: (m,) int64, indices of amino acids in `STANDARD`.
        indels: number of a variant with insertions or deletions -> its edits, also its substitutions, in order. It has
            no substitutions in the arrays.
        reasons: number of a variant that cannot be scored -> why. It has neither substitutions nor edits.
    """

    sequence: str
    names: list[str]
    variant: np.ndarray
    position: np.ndarray
    wild_type: np.ndarray
    mutant: np.ndarray
    indels: Mapping[int, tuple[Edit, ...]] = field(default_factory=dict)
    reasons: Mapping[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def substitutions(self) -> np.ndarray:
        """(n,) bool: variants that the arrays describe, also the wild type; not indels, nor those with a reason."""
        kept = np.ones(len(self), dtype=bool)
        kept[[*self.indels, *self.reasons]] = False
        return kept

    def take(self, numbers: Sequence[int]) -> "Variants":
        """The variants with these numbers, in ascending order."""
        new = np.full(len(self), -1)
        new[list(numbers)] = np.arange(len(numbers))
        kept = new[self.variant] >= 0
        position, wild_type, mutant = (column[kept] for column in (self.position, self.wild_type, self.mutant))
        indels = {int(new[number]): edits for number, edits in self.indels.items() if new[number] >= 0}
        reasons = {int(new[number]): reason for number, reason in self.reasons.items() if new[number] >= 0}
        names = [self.names[number] for number in numbers]
        variant = new[self.variant[kept]]
        return Variants(self.sequence, names, variant, position, wild_type, mutant, indels, reasons)

    def sequences(self) -> Iterator[str]:
        """The mutated sequences, in order; "" for variants that cannot be scored."""
        wild_type = self.sequence.encode()
        ends = np.searchsorted(self.variant, np.arange(len(self)), side="right").tolist()
        positions, mutants = self.position.tolist(), [STANDARD[i].encode()[0] for i in self.mutant.tolist()]
        start = 0
        for number, end in enumerate(ends):
            letters = bytearray(wild_type)
            for i in range(start, end):
                letters[positions[i]] = mutants[i]
            start = end
            if number in self.reasons:
                yield ""
            else:
                yield mutated(self.sequence, self.indels[number]) if number in self.indels else letters.decode()


def parse(sequence: str, names: Sequence[str], offset: int = 0) -> Variants:
    """Parses variants and checks that the wild type has the residues that they replace.

    Args:
        sequence: the wild type, in upper case.
        names: such as "A42G", "A42G:L50P" or "p.Lys23del", positions from 1; "WT" is the wild type itself.
        offset: added to the positions in the sequence: "A42G" replaces residue 42 - offset.

    Returns:
        The variants; those that are understood but cannot be scored, such as frameshifts, have a reason.

    Raises:
        UserError: for a malformed name, and a position that is out of range, duplicated in one variant, or another
            residue in the wild type.

    >>> variants = parse("MKTAY", ["K2R", "M1L:Y5F", "p.(Thr3Ala)", "p.Lys2_Thr3insGly", "A4*"])
    >>> list(variants.sequences()), variants.reasons
    (['MRTAY', 'LKTAF', 'MKAAY', 'MKGTAY', ''], {4: 'stop gained at residue 4'})
    """
    variants, problems, advice = examine(sequence, names, offset)
    if problems:
        located = {number: f"variant {number + 1}{problem}" for number, problem in problems.items()}
        raise UserError(first_of(located, "variant") + advice, "offset")
    return variants


def first_of(problems: Mapping[int, str], noun: str) -> str:
    """The first of the problems, by number, and how many more there are.

    >>> first_of({4: "row 5: empty", 2: "row 3: 'A4?' is not a variant"}, "row")
    "row 3: 'A4?' is not a variant; 1 more row is invalid"
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
    others: dict[int, list[Change]] = {}
    owners, numbers, before, after = [], [], [], []  # of stated residues; after is "" unless it is a substitution
    for owner, name in enumerate(names):
        if match := _SUBSTITUTION.fullmatch(name):
            stated = [(int(match[2]), match[1], match[3])]
        else:
            try:
                changes = [read_change(part) for part in parts_of(_named(name, sequence, offset))]
                _check_distinct(changes)
            except ValueError as error:
                problems[owner] = f"{f', variant {_short(name)}' if name else ''}: {error}"
                continue
            if all(change.substitutes for change in changes):
                stated = [(change.number, change.stated[change.number], change.inserted or "") for change in changes]
            else:
                others[owner] = changes
                stated = [(number, letter, "") for change in changes for number, letter in change.stated.items()]
        for number, letter, mutant in stated:
            owners.append(owner)
            numbers.append(number)
            before.append(letter)
            after.append(mutant or "-")
    owner, number = np.array(owners, dtype=np.int64), np.array(numbers, dtype=np.int64)
    wild_type, mutant = (np.frombuffer("".join(column).encode(), dtype=np.uint8) for column in (before, after))
    found, position = np.frombuffer(sequence.encode(), dtype=np.uint8), number - 1 - offset
    inside = (position >= 0) & (position < len(sequence))
    wrong = ~inside
    wrong[inside] = found[position[inside]] != wild_type[inside]
    for first in np.flatnonzero(wrong).tolist():
        where = f", variant {_short(str(names[owners[first]]))}: position {numbers[first]}"
        if offset:
            where += f", with an offset of {offset},"
        if inside[first]:
            where += f" of the wild type is {sequence[position[first]]}, not {before[first]}"
        else:
            where += f" is outside the wild type of {len(sequence):,} residues"
        problems.setdefault(owners[first], where)
    advice = _advice(found, number, wild_type) if wrong.any() else ""
    reasons = {
        owner: next(change.reason for change in changes if change.reason)
        for owner, changes in others.items()
        if owner not in problems and any(change.reason for change in changes)
    }
    rest = {owner: changes for owner, changes in others.items() if owner not in problems.keys() | reasons.keys()}
    indels = {owner: _edits(changes, sequence, offset) for owner, changes in rest.items()}
    added = [owner for owner, edits in indels.items() if all(edit.keeps_length for edit in edits)]
    kept = (mutant != ord("-")) & ~np.isin(owner, list(problems))
    columns = [owner[kept], position[kept], _NUMBER[wild_type[kept]], _NUMBER[mutant[kept]]]
    if added:
        columns = _with(columns, sequence, {owner: indels.pop(owner) for owner in added})
    variant, position, wild_type, mutant = columns
    for owner in [owner for owner, edits in indels.items() if not mutated(sequence, edits)]:
        reasons[owner] = "no residues left"
        del indels[owner]
    found_all = Variants(sequence, list(names), variant, position, wild_type, mutant, indels, reasons)
    return found_all, problems, advice


def parts_of(name: str) -> list[str]:
    """The changes of a variant as text; none for the wild type.

    >>> parts_of("A42G+L50P"), parts_of("NP_000509.1:p.[Ala4Gly;Leu5Pro]"), parts_of("wt")
    (['A42G', 'L50P'], ['Ala4Gly', 'Leu5Pro'], [])
    """
    bare = name.strip()
    if bare.lower() in _WILD_TYPES:
        return []
    if match := _CODING.fullmatch(bare):
        bare = match[1]
    bare = _bare(_REFERENCE.sub("", bare))
    return [] if bare == "=" else [_bare(part) for part in _SEPARATORS.split(bare)]


def _bare(text: str) -> str:
    """Without HGVS's p. and brackets."""
    text = text.removeprefix("p.")
    return text[1:-1] if text[:1] + text[-1:] in ("()", "[]") and text.count(text[0]) == 1 else text


def _named(name: str, sequence: str, offset: int) -> str:
    """The name of a variant given as a mutated sequence, at least half as long as the wild type; else `name`."""
    letters = name.strip()
    if 2 * len(letters) < len(sequence) or not _SEQUENCE.fullmatch(letters) or letters.lower() in _WILD_TYPES:
        return name
    return name_of(sequence, letters.upper().removesuffix("*"), offset)


def _short(name: str) -> str:
    return name if len(name) <= 60 else f"{name[:57]}..."


def _check_distinct(changes: list[Change]) -> None:
    """Raises a ValueError if two changes are at the same place."""
    spans = sorted((change.number, change.end) for change in changes)
    for (start, end), (other, _) in pairwise(spans):
        if other <= end or other == start:
            raise ValueError(f"duplicate position {other}; expected one change per position")


def _edits(changes: list[Change], sequence: str, offset: int) -> tuple[Edit, ...]:
    """Changes that agree with the wild type as edits; those that change nothing are dropped."""
    edits = []
    for change in changes:
        start, end = change.number - 1 - offset, change.end - offset
        new = change.inserted
        edit = Edit(end, end, sequence[start:end]) if new is None else Edit(start, end, new)
        if sequence[edit.start : edit.end] != edit.inserted:
            edits.append(edit)
    return tuple(sorted(edits))


def _with(columns: list[np.ndarray], sequence: str, edits: Mapping[int, Sequence[Edit]]) -> list[np.ndarray]:
    """The arrays of substitutions with those of edits that keep the length, by variant."""
    rows = [
        (owner, edit.start + i, _NUMBER[ord(sequence[edit.start + i])], _NUMBER[ord(letter)])
        for owner, several in edits.items()
        for edit in several
        for i, letter in enumerate(edit.inserted)
        if letter != sequence[edit.start + i]
    ]
    more = np.array(rows, dtype=np.int64).reshape(-1, 4).T
    joined = [np.concatenate(pair) for pair in zip(columns, more, strict=True)]
    order = np.argsort(joined[0], kind="stable")
    return [column[order] for column in joined]


def all_singles(sequence: str, offset: int = 0) -> Variants:
    """All 19 substitutions of each standard residue, by position, then in the order of `STANDARD`; see `parse`."""
    found = _NUMBER[np.frombuffer(sequence.encode(), dtype=np.uint8)]
    position, mutant = np.nonzero((found[:, None] >= 0) & (found[:, None] != np.arange(len(STANDARD))))
    wild_type = found[position]
    names = [
        f"{STANDARD[w]}{p + 1 + offset}{STANDARD[m]}"
        for w, p, m in zip(wild_type.tolist(), position.tolist(), mutant.tolist(), strict=True)
    ]
    return Variants(sequence, names, np.arange(len(names)), position, wild_type, mutant)


def _advice(found: np.ndarray, number: np.ndarray, wild_type: np.ndarray) -> str:
    """The end of a message: the only offset with which all stated residues would match, if there is one."""
    pairs = np.unique(np.stack((number, wild_type), axis=1), axis=0)
    offsets = np.arange(number.max() - len(found), number.min())
    for n, letter in pairs.tolist():
        offsets = offsets[found[n - 1 - offsets] == letter]
    if len(offsets) == 1 and len(pairs) >= _SURE:
        return f"; all would match with an offset of {offsets[0]}"
    return "; check that the variants are numbered on this wild type, or set offset"
