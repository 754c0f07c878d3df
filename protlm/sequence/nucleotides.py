"""Recognises DNA and RNA, whose letters are also those of amino acids."""

from protlm.errors import UserError

FEWEST = 30
"""Letters from which a sequence or file is judged."""
_NUCLEOTIDES = b"ACGTUNacgtun"
_SHARE = 0.95


def nucleotides_in(letters: bytes) -> int:
    """How many of the letters may be nucleotides.

    >>> nucleotides_in(b"ACGTNuMK")
    6
    """
    return len(letters) - len(letters.translate(None, _NUCLEOTIDES))


def refuse_nucleotides(source: str, letters: int, nucleotides: int) -> None:
    """Raises a UserError if at least 95 % of the letters of `source` may be nucleotides, which proteins' rarely are."""
    if nucleotides >= _SHARE * letters:
        share = f"{nucleotides / letters:.0%} of the letters are A, C, G, T, U or N"
        raise UserError(
            f"{source}: looks like nucleotides, not proteins ({share}); translate it first, or if these are proteins, "
            "set allow_nucleotides",
            "allow_nucleotides",
        )
