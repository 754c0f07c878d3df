"""The rows of an alignment file, and how they are cut down to the residues of one of them.

Legend: N sequences, W columns of the file.
"""

from dataclasses import dataclass

import numpy as np

_GAP = ord("-")
_TO_LOWER = 0x20  # the bit of ASCII; "-" has it, too


@dataclass(frozen=True)
class Rows:
    """The content of an alignment file.

    Attributes:
        path: of the file, for messages.
        ids: N names.
        rows: N sequences of letters and gaps; gaps are "-" in the W columns.
        insertions: whether lower-case letters are insertions between the columns, as in A3M; in other formats they
            occupy columns.
    """

    path: str
    ids: list[str]
    rows: list[bytes]
    insertions: bool = False

    def __len__(self) -> int:
        return len(self.rows)

    def residues(self, number: int) -> str:
        """The sequence of a row without gaps, in upper case."""
        return self.rows[number].replace(b"-", b"").upper().decode("latin-1")

    def cut(self, query: int, start: int, stop: int) -> list[str]:
        """All rows in A3M format, with the residues from `start` to `stop` of the row `query` as columns.

        Residues in other columns become insertions. If these are not all residues of that row, what lies before the
        first and after the last of them is left out.
        """
        rows = _with_columns_for(self.rows, query) if self.insertions else [row.upper() for row in self.rows]
        own = np.frombuffer(rows[query], dtype=np.uint8) != _GAP
        order = np.cumsum(own) - 1
        kept = own & (start <= order) & (order < stop)
        if kept.all():
            return [row.decode("latin-1") for row in rows]
        columns = np.flatnonzero(kept)
        ends = (0, len(kept)) if stop - start == own.sum() else (columns[0], columns[-1])
        return [_cut(row, kept, *ends) for row in rows]


def _cut(row: bytes, kept: np.ndarray, first: int, last: int) -> str:
    """A row of which only the columns `kept` (W,) bool remain columns, without what is not between two columns."""
    letters = np.frombuffer(row, dtype=np.uint8)
    insertion = _is_lower(letters)
    column = np.cumsum(~insertion) - 1  # of an insertion, the one before it
    matched = ~insertion & kept[column]
    inside = (column >= first) & (column + insertion <= last)
    shown = inside & (matched | (letters != _GAP))
    return np.where(matched, letters, letters | _TO_LOWER)[shown].tobytes().decode("latin-1")


def _with_columns_for(rows: list[bytes], query: int) -> list[bytes]:
    """Rows in A3M format in which the insertions of one row have columns, where the others have gaps."""
    letters = np.frombuffer(rows[query], dtype=np.uint8)
    insertion = _is_lower(letters)
    if not insertion.any():
        return rows
    width = int((~insertion).sum())
    columns = np.bincount(np.cumsum(~insertion)[insertion], minlength=width + 1)  # new ones, before each old one
    result = []
    for number, row in enumerate(rows):
        letters = np.frombuffer(row, dtype=np.uint8)
        places = np.append(np.flatnonzero(~_is_lower(letters)), len(letters))
        result.append(
            row.upper() if number == query else np.insert(letters, np.repeat(places, columns), _GAP).tobytes()
        )
    return result


def _is_lower(letters: np.ndarray) -> np.ndarray:
    return (letters >= ord("a")) & (letters <= ord("z"))
