"""Recognises DNA and RNA, whose letters are also those of amino acids."""

from protlm.errors import UserError

FEWEST = 30
"""Letters from which a sequence or file is judged."""
_NUCLEOTIDES = b"ACGTUNacgtun"
_SHARE = 0.95


class NucleotidesError(UserError):
    """A file or sequence of nucleotides.

    Args:
        found: what was found, without the advice to allow it, for readers that have no such option.
        instead: what else can be done.
    """

    def __init__(self, found: str, instead: str = "") -> None:
        advice = f"translate it first{instead}, or if these are proteins, set allow_nucleotides"
        super().__init__(f"{found}; {advice}", "allow_nucleotides")
        self.found = found

    @property
    def final(self) -> UserError:
        """The error of a reader that cannot be told to allow it."""
        return UserError(f"{self.found}; translate it first")


def nucleotides_in(letters: bytes) -> int:
    """How many of the letters may be nucleotides.

    >>> nucleotides_in(b"ACGTNuMK")
    6
    """
    return len(letters) - len(letters.translate(None, _NUCLEOTIDES))


def refuse_nucleotides(source: str, letters: int, nucleotides: int) -> None:
    """Raises a NucleotidesError if at least 95 % of the letters may be nucleotides, which proteins' rarely are."""
    if nucleotides >= _SHARE * letters:
        share = f"{nucleotides / letters:.0%} of the letters are A, C, G, T, U or N"
        raise NucleotidesError(f"{source}: looks like nucleotides, not proteins ({share})")
