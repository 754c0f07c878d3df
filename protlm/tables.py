"""Tables: CSV files, read strictly and written atomically, and aligned text for the terminal."""

import csv
import io
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import numpy as np

from protlm.errors import UserError
from protlm.files import UnwritableError, atomic_output
from protlm.sequence.stream import DAMAGED, Source

STDOUT = "-"
"""The path that means standard output."""


@dataclass
class Table:
    """The cells of a CSV file as text.

    Attributes:
        path: of the file, for messages.
        columns: unique column names.
        rows: n lists with one cell per column.
    """

    path: str
    columns: list[str]
    rows: list[list[str]]

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def __getitem__(self, name: str) -> list[str]:
        """The n cells of a column, stripped of surrounding white space."""
        if name not in self.columns:
            found = ", ".join(self.columns[:8]) + (", ..." if len(self.columns) > 8 else "")
            raise UserError(f"{self.path}: no column {name!r}; found: {found}")
        number = self.columns.index(name)
        return [row[number].strip() for row in self.rows]

    def location(self, row: int) -> str:
        """File and row for messages: row 0, the first after the header, is "row 1"."""
        return f"{self.path}, row {row + 1}"

    def numbers(self, name: str, missing: bool = False) -> np.ndarray:
        """A column of finite numbers as (n,) float64; with `missing`, empty cells are accepted, as NaN."""
        values = np.empty(len(self.rows))
        for row, cell in enumerate(self[name]):
            try:
                values[row] = float(cell or "nan")
            except ValueError:
                values[row] = np.inf
            if np.isinf(values[row]) or (np.isnan(values[row]) and not missing):
                raise UserError(f"{self.location(row)}: {name} is {cell!r}; expected a finite number")
        return values


def read_table(path: str | Path) -> Table:
    """Reads a CSV file with a header, in UTF-8, plain or compressed.

    Raises:
        UserError: for a file that is missing, empty, damaged or not CSV, and for rows of unequal length.
    """
    try:
        with Source(path) as source, source.content() as content:
            text = content.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start + 1:,}); expected a CSV file") from error
    except DAMAGED as error:
        raise UserError(f"{path}: damaged or cut short ({error}); download or compress it again") from error
    if "\0" in text:
        raise UserError(f"{path}: not text, it contains NUL characters; expected a CSV file")
    with closing(io.StringIO(text, newline="")) as lines:
        reader = csv.reader(lines, strict=True)
        try:
            rows = [row for row in reader if row]
        except csv.Error as error:
            raise UserError(f"{path}, line {reader.line_num}: not CSV ({error})") from error
    if not rows:
        raise UserError(f"{path}: empty; expected a header line and rows")
    columns = [name.strip() for name in rows.pop(0)]
    if duplicates := [name for name in columns if columns.count(name) > 1]:
        raise UserError(f"{path}: duplicate column {duplicates[0]!r}; expected unique names")
    table = Table(str(path), columns, rows)
    for number, row in enumerate(rows):
        if len(row) != len(columns):
            raise UserError(f"{table.location(number)}: {len(row)} cells; expected {len(columns)} as in the header")
    return table


@contextmanager
def text_output(path: Path | None = None) -> Iterator[TextIO]:
    """A text file that appears at `path` once it is complete; None and "-" are standard output."""
    if path is None or str(path) == STDOUT:
        if sys.stdout is None:
            raise UserError("standard output is closed; choose a file for the output")
        try:
            yield sys.stdout
            sys.stdout.flush()
        except BrokenPipeError:  # the reader, such as `head`, has enough
            raise
        except OSError as error:
            raise UnwritableError.of("standard output", error) from error
        return
    with atomic_output(path) as partial, partial.open("w", encoding="utf-8", newline="") as file:
        yield file
        file.close()  # before it is renamed


def delimiter_of(path: Path | None, otherwise: str = ",") -> str:
    """The delimiter that a file's suffix stands for: a comma for .csv, a tab for .tsv and .txt."""
    return {".csv": ",", ".tsv": "\t", ".txt": "\t"}.get(path.suffix.lower() if path else "", otherwise)


def write_table(
    path: Path | None, columns: Sequence[str], rows: Iterable[Sequence[object]], otherwise: str = ","
) -> None:
    """Writes a table to a file, atomically, or to standard output; see `text_output` and `delimiter_of`."""
    with text_output(path) as file:
        writer = csv.writer(file, delimiter=delimiter_of(path, otherwise), lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def aligned(header: Sequence[str], rows: Iterable[Sequence[str]], left: Collection[int] = (0,)) -> str:
    """A table as text: columns separated by two spaces, aligned to the right, those numbered in `left` to the left.

    >>> print(aligned(["split", "proteins"], [["train", "1,200"], ["test", "80"]]))
    split  proteins
    train     1,200
    test         80
    """
    table = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    justify = [str.ljust if number in left else str.rjust for number in range(len(widths))]
    return "\n".join(
        "  ".join(put(cell, width) for put, cell, width in zip(justify, row, widths, strict=True)).rstrip()
        for row in table
    )
