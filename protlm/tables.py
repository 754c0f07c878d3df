"""Tables of comma-separated values, as spreadsheets and pandas write them: read strictly, written whole."""

import csv
import io
import sys
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from protlm.errors import UserError
from protlm.files import atomic_output
from protlm.sequence.stream import DAMAGED, Source


@dataclass
class Table:
    """The cells of a file as they are written in it.

    Attributes:
        path: as it was given.
        columns: their names, all different.
        rows: n lists, of as many cells as there are columns.
    """

    path: str
    columns: list[str]
    rows: list[list[str]]

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def __getitem__(self, name: str) -> list[str]:
        """The n cells of a column, without spaces around them.

        Raises:
            UserError: if there is no such column.
        """
        if name not in self.columns:
            found = ", ".join(self.columns[:8]) + (", ..." if len(self.columns) > 8 else "")
            raise UserError(f"{self.path}: no column {name!r}; its columns are: {found}")
        number = self.columns.index(name)
        return [row[number].strip() for row in self.rows]

    def place(self, row: int) -> str:
        """How messages name a row, from its 0-based number: rows are counted from 1 behind the header."""
        return f"{self.path}, row {row + 1}"

    def numbers(self, name: str, missing: bool = False) -> np.ndarray:
        """(n,) float64 of a column.

        Args:
            name: of the column.
            missing: take cells that are empty or NaN, as NaN.

        Raises:
            UserError: for a cell that is not a finite number, with its row.
        """
        values = np.empty(len(self.rows))
        for row, cell in enumerate(self[name]):
            try:
                values[row] = float(cell or "nan")
            except ValueError:
                values[row] = np.inf
            if np.isinf(values[row]) or (np.isnan(values[row]) and not missing):
                raise UserError(f"{self.place(row)}: {name} is {cell!r}; expected a finite number")
        return values


def read_table(path: str | Path) -> Table:
    """Reads a file with a header line; it may be compressed, have a byte order mark, quotes and any newlines.

    Raises:
        UserError: for a file that is missing, empty, not text or damaged; for rows of another length than the header.
    """
    try:
        with Source(path) as source, source.content() as content:
            text = content.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not text in UTF-8 (byte {error.start + 1:,}); expected a CSV file") from error
    except DAMAGED as error:
        raise UserError(f"{path}: damaged or cut short ({error}); fetch or compress it again") from error
    if "\0" in text:
        raise UserError(f"{path}: not text, it has NUL characters; expected a CSV file")
    rows: list[list[str]] = []
    with closing(io.StringIO(text, newline="")) as lines:
        reader = csv.reader(lines, strict=True)
        try:
            rows += (row for row in reader if row)
        except csv.Error as error:
            raise UserError(f"{path}, line {reader.line_num}: not CSV ({error})") from error
    if not rows:
        raise UserError(f"{path}: is empty; expected a header line with the names of columns, and rows")
    columns = [name.strip() for name in rows[0]]
    if doubled := [name for name in columns if columns.count(name) > 1]:
        raise UserError(f"{path}: the column {doubled[0]!r} stands twice; give each a name of its own")
    table = Table(str(path), columns, rows[1:])
    for number, row in enumerate(table.rows):
        if len(row) != len(columns):
            raise UserError(f"{table.place(number)}: {len(row)} cells; expected {len(columns)} as in the header")
    return table


def write_table(path: Path | None, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Writes a table as CSV, which appears under its name only when it is complete; None is standard output."""
    if path is None:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
        return
    with atomic_output(path) as partial, partial.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
