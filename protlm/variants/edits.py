"""Edits that turn a wild type into a variant: applied, found in a mutated sequence, and named.

Positions count from 0 here, from 1 in names. An edit replaces residues start to end (excluded) of the wild type.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

WILD_TYPE = "WT"
"""Name of the variant without changes."""
MISMATCH, GAP, LONGER = -1.0, -2.0, -1.0
"""Costs of an exchanged residue, of the first residue of a gap and of each further one, when sequences are aligned."""


class Edit(NamedTuple):
    """Residues `start` to `end` (excluded) replaced by `inserted`: a deletion if that is empty, or an insertion."""

    start: int
    end: int
    inserted: str

    @property
    def keeps_length(self) -> bool:
        return len(self.inserted) == self.end - self.start


def mutated(wild_type: str, edits: Iterable[Edit]) -> str:
    """The wild type with edits in ascending order that do not overlap.

    >>> mutated("MKTAY", [Edit(1, 2, ""), Edit(4, 4, "GG")])
    'MTAGGY'
    """
    pieces, done = [], 0
    for start, end, inserted in edits:
        pieces += [wild_type[done:start], inserted]
        done = end
    return "".join([*pieces, wild_type[done:]])


def edits_between(wild_type: str, sequence: str) -> list[Edit]:
    """The edits from a wild type to a mutated sequence.

    Sequences of equal length differ by substitutions. Others are aligned globally, with few gaps; where several
    placements are equivalent, a single gap is the one closest to the C-terminus, as HGVS recommends.

    >>> edits_between("MKTAAY", "MKTAY"), edits_between("MKTAY", "MRTAGGY")
    ([Edit(start=4, end=5, inserted='')], [Edit(start=1, end=2, inserted='R'), Edit(start=4, end=4, inserted='GG')])
    """
    if len(sequence) == len(wild_type):
        pairs = enumerate(zip(wild_type, sequence, strict=True))
        return [Edit(i, i + 1, after) for i, (before, after) in pairs if before != after]
    shorter = min(len(wild_type), len(sequence))
    first = next((i for i in range(shorter) if wild_type[i] != sequence[i]), shorter)
    last = next((i for i in range(shorter - first) if wild_type[-1 - i] != sequence[-1 - i]), shorter - first)
    before, after = wild_type[first : len(wild_type) - last], sequence[first : len(sequence) - last]
    if not before or not after:
        return [Edit(first, first + len(before), after)]
    return [Edit(first + start, first + end, text) for start, end, text in _aligned(before, after)]


def name_of(wild_type: str, sequence: str, offset: int = 0) -> str:
    """The name of a variant, from its sequence: substitutions as A42G, other edits as in HGVS, in one-letter code.

    >>> name_of("MKTAY", "LKTAF"), name_of("MKTAY", "MKAY"), name_of("MKTAY", "MKTGGAY"), name_of("MKTAY", "MKTKTAY")
    ('M1L:Y5F', 'T3del', 'T3_A4insGG', 'K2_T3dup')
    """
    return ":".join(_named(edit, wild_type, offset) for edit in edits_between(wild_type, sequence)) or WILD_TYPE


def _named(edit: Edit, wild_type: str, offset: int) -> str:
    start, end, inserted = edit

    def residues(first: int, last: int) -> str:
        ends = [f"{wild_type[i]}{i + 1 + offset}" for i in dict.fromkeys((first, last))]
        return "_".join(ends)

    if edit.keeps_length:
        return ":".join(f"{wild_type[start + i]}{start + i + 1 + offset}{new}" for i, new in enumerate(inserted))
    if not inserted:
        return f"{residues(start, end - 1)}del"
    if end > start:
        return f"{residues(start, end - 1)}delins{inserted}"
    if start >= len(inserted) and wild_type[start - len(inserted) : start] == inserted:
        return f"{residues(start - len(inserted), start - 1)}dup"
    if start == 0:
        return f"{residues(0, 0)}delins{inserted}{wild_type[0]}"
    if start == len(wild_type):
        return f"{residues(start - 1, start - 1)}delins{wild_type[-1]}{inserted}"
    return f"{residues(start - 1, start)}ins{inserted}"


def _aligned(before: str, after: str) -> list[tuple[int, int, str]]:
    """The differences of two sequences in their best global alignment; adjacent ones are one."""
    from Bio.Align import PairwiseAligner

    aligner: Any = PairwiseAligner(mode="global", match_score=0.0, mismatch_score=MISMATCH)
    aligner.open_gap_score, aligner.extend_gap_score = GAP, LONGER
    blocks = aligner.align(before, after)[0].aligned.tolist()
    pairs = [
        (start + k, other + k)
        for (start, end), (other, _) in zip(*blocks, strict=True)
        for k in range(end - start)
        if before[start + k] == after[other + k]
    ]
    edits, i, j = [], 0, 0
    for same_i, same_j in [*pairs, (len(before), len(after))]:
        if same_i > i or same_j > j:
            edits.append((i, same_i, after[j:same_j]))
        i, j = same_i + 1, same_j + 1
    return edits
