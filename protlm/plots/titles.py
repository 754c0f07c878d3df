"""Titles of pictures, such as identifiers of any length."""

from typing import Any

SIZE = 11
_LETTERS = 11  # of this size in an inch


def set_title(axes: Any, text: str, inches: float) -> None:
    """Puts a title above the left end of axes, shortened to a width in inches."""
    axes.set_title(shortened(text, int(inches * _LETTERS)), loc="left", fontsize=SIZE)


def shortened(text: str, most: int) -> str:
    """A text of at most so many letters: of a longer one, the start and the end.

    >>> shortened("sp|P69905|HBA_HUMAN", 11), shortened("P69905", 11)
    ('sp|P6…HUMAN', 'P69905')
    """
    most = max(most, 9)
    half = (most - 1) // 2
    return text if len(text) <= most else f"{text[:half]}…{text[-half:]}"
