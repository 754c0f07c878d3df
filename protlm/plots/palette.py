"""The letters of an alphabet as pictures show them: order, groups and colours."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from protlm.errors import UserError
from protlm.sequence.alphabets import PROTEIN, described_units
from protlm.sequence.letters import Alphabet

MOST = 40
"""Number of letters that a picture can show."""
_BASES = {"A": "#3b7d3b", "C": "#1f5fbf", "G": "#b06f00", "T": "#c0392b", "U": "#c0392b"}
_OTHER = "#333333"


@dataclass(frozen=True)
class Palette:
    """Colours of letters.

    Attributes:
        letters: in the order of the columns of values.
        groups: letters that are rows of a heat map together -> their colour; each letter is in one.
        unit, record: what a letter and a sequence are.
    """

    letters: str
    groups: Mapping[str, str]
    unit: str = "residue"
    record: str = "protein"

    @cached_property
    def order(self) -> str:
        """The letters, group by group."""
        return "".join(self.groups)

    @cached_property
    def colours(self) -> dict[str, str]:
        """Letter -> its colour."""
        return {letter: colour for letters, colour in self.groups.items() for letter in letters}

    @cached_property
    def columns(self) -> list[int]:
        """The columns of values in the order of the rows."""
        return [self.letters.index(letter) for letter in self.order]


AMINO_ACIDS = Palette(
    PROTEIN.definite,
    {
        "AVLIM": "#3b7d3b",  # aliphatic
        "FWY": "#b06f00",  # aromatic
        "STNQ": "#6a4fa3",  # polar
        "CGP": "#666666",  # special
        "HKR": "#1f5fbf",  # positive
        "DE": "#c0392b",  # negative
    },
)
"""Amino acids grouped by the chemistry of their side chains."""


def palette_of(alphabet: Alphabet) -> Palette:
    """The palette of an alphabet: bases have a colour each, letters of a user's alphabet one colour together.

    Raises:
        UserError: for an alphabet with more than `MOST` letters.
    """
    letters = alphabet.definite
    if alphabet == PROTEIN:
        return AMINO_ACIDS
    if len(letters) > MOST:
        what = f"{len(letters)} {described_units(alphabet)} are too many for a picture"
        raise UserError(f"{what}; write the probabilities as a table, with matrix", "matrix")
    bases = set(letters) <= set(_BASES)
    groups = {letter: _BASES[letter] for letter in letters} if bases else {letters: _OTHER}
    return Palette(letters, groups, alphabet.unit, alphabet.record)
