"""Tables: delimited files, read strictly and written atomically, and aligned text for the terminal."""

import csv
import io
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TextIO

import numpy as np

from protlm.errors import UserError, counted
from protlm.files import STDOUT, UnwritableError, atomic_output
from protlm.sequence.formats import FASTA, LOOKED_AT, recognised
from protlm.sequence.stream import DAMAGED, Source

BLANKS = {"", "na", "n/a", "#n/a", "<na>", "nan", "null", "none"}
"""Cells without a value, in lower case, as pandas reads them."""
_DELIMITERS = ",\t;"
_TRIED = 50  # rows from which the delimiter is recognised


@dataclass
class Table:
    """The cells of a table as text.

    Attributes:
        path: of the file, for messages.
        columns: unique column names.
        rows: n lists with one cell per column.
        ragged: row -> its number of cells in the file, where it differs from that of the header.
        delimiter: of the file.
    """

    path: str
    columns: list[str]
    rows: list[list[str]]
    ragged: dict[int, int] = field(default_factory=dict)
    delimiter: str = ","

    def __contains__(self, name: str) -> bool:
        return self.find(name) is not None

    def find(self, name: str) -> int | None:
        """The number of a column, with its name in upper or lower case; None if there is none."""
        if name in self.columns:
            return self.columns.index(name)
        same = [number for number, column in enumerate(self.columns) if column.casefold() == name.casefold()]
        return same[0] if len(same) == 1 else None

    def number(self, name: str) -> int:
        """As `find`, for a column that must be there."""
        number = self.find(name)
        if number is None:
            found = ", ".join(self.columns[:8]) + (", ..." if len(self.columns) > 8 else "")
            raise UserError(f"{self.path}: no column {name!r}; found: {found}")
        return number

    def __getitem__(self, name: str) -> list[str]:
        """The n cells of a column, stripped of surrounding white space."""
        number = self.number(name)
        return [row[number].strip() for row in self.rows]

    def location(self, row: int) -> str:
        """File and row for messages: row 0, the first after the header, is "row 1"."""
        return f"{self.path}, row {row + 1}"

    def misshapen(self, row: int) -> str:
        """What is wrong with a row in `ragged`."""
        return (
            f"{self.location(row)}: {counted(self.ragged[row], 'cell')}; expected {len(self.columns)} as in the header"
        )

    def take(self, rows: Sequence[int]) -> "Table":
        """A table of some rows."""
        return replace(self, rows=[self.rows[row] for row in rows], ragged={})

    def parsed(self, name: str) -> tuple[np.ndarray, dict[int, str]]:
        """A column as (n,) float64, NaN where the cell is blank or not a number, and what is wrong, by row."""
        values, wrong = np.full(len(self.rows), np.nan), {}
        for row, cell in enumerate(self[name]):
            if cell.casefold() in BLANKS:
                continue
            try:
                values[row] = float(cell.replace(",", ".") if self.delimiter == ";" else cell)
            except ValueError:
                values[row] = np.inf
            if not np.isfinite(values[row]):
                values[row] = np.nan
                wrong[row] = f"{self.location(row)}: {name} is {cell!r}; expected a finite number"
        return values, wrong

    def numbers(self, name: str, missing: bool = False) -> np.ndarray:
        """A column of finite numbers as (n,) float64; with `missing`, blank cells are accepted, as NaN."""
        values, wrong = self.parsed(name)
        if not missing:
            for row in np.flatnonzero(np.isnan(values)).tolist():
                wrong.setdefault(row, f"{self.location(row)}: {name} is blank; expected a finite number")
        if wrong:
            raise UserError(wrong[min(wrong)])
        return values


def read_table(path: str | Path, ragged: bool = False) -> Table:
    """Reads a table with a header, in UTF-8, plain or compressed, separated by commas, tabs or semicolons.

    Blank lines and lines that start with `#` are skipped. Empty cells beyond the header, as of a
    comma at the end, are dropped.

    Args:
        path: of the file.
        ragged: accept rows with too few or too many cells, see `Table.ragged`; they are filled up or cut. Rows of
            blank cells are skipped as blank lines are.

    Raises:
        UserError: for a file that is missing, empty, damaged or not a table, and for rows of unequal length.
    """
    kind, advice = "", ""
    try:
        with Source(path) as source, source.content() as content:
            data = content.read()
        kind, advice = recognised(data[:LOOKED_AT]) or ("", "")
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        if kind:
            raise _other_format(path, kind, advice) from error
        raise UserError(f"{path}: not UTF-8 text (byte {error.start + 1:,}); expected a CSV file") from error
    except DAMAGED as error:
        raise UserError(f"{path}: damaged or cut short ({error}); download or compress it again") from error
    if kind == FASTA or ("\0" in text and kind):
        raise _other_format(path, kind, advice)
    if "\0" in text:
        raise UserError(f"{path}: not text, it contains NUL characters; expected a CSV file")
    delimiter = _delimiter(text)
    with closing(io.StringIO(text, newline="")) as lines:
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        try:
            rows = [row for row in reader if row and not row[0].startswith("#")]
        except csv.Error as error:
            raise UserError(f"{path}, line {reader.line_num}: not CSV ({error})") from error
    if not rows:
        raise UserError(f"{path}: empty; expected a header line and rows")
    columns = _trimmed([name.strip() for name in rows.pop(0)], 1)
    if duplicates := [name for name in columns if columns.count(name) > 1]:
        raise UserError(f"{path}: duplicate column {duplicates[0]!r}; expected unique names")
    if ragged:
        rows = [row for row in rows if any(map(str.strip, row))]
    table = Table(str(path), columns, [], {}, delimiter)
    for number, row in enumerate(rows):
        cells = _trimmed(row, len(columns))
        if len(cells) != len(columns):
            table.ragged[number] = len(cells)
            if not ragged:
                raise UserError(table.misshapen(number))
        table.rows.append([*cells[: len(columns)], *[""] * (len(columns) - len(cells))])
    return table


def _trimmed(cells: list[str], least: int) -> list[str]:
    """The cells without blank ones at the end, but at least the first ones."""
    while len(cells) > least and not cells[-1].strip():
        cells = cells[:-1]
    return cells


def _other_format(path: str | Path, kind: str, advice: str) -> UserError:
    return UserError(f"{path}: expected a CSV file, found {kind}{advice and '; '}{advice}")


def _delimiter(text: str) -> str:
    """The delimiter that divides the header into several cells and most rows into the same number."""
    lines = (line for line in text.splitlines(keepends=True) if line.strip() and not line.startswith("#"))
    first = list(islice(lines, _TRIED))

    def fits(delimiter: str) -> tuple[float, int]:
        header, *rows = [len(row) for row in csv.reader(first, delimiter=delimiter)] or [0]
        return (sum(count == header for count in rows) + 1 if header > 1 else 0, header)

    best = max(_DELIMITERS, key=fits)
    # of a single column, cells may contain commas: several mutations
    return best if fits(best)[0] else "\t"


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
    """The delimiter of a file, by its suffix: a comma for .csv, a tab for .tsv and .txt."""
    return {".csv": ",", ".tsv": "\t", ".txt": "\t"}.get(path.suffix.lower() if path else "", otherwise)


def write_table(
    path: Path | None, columns: Sequence[str], rows: Iterable[Sequence[object]], otherwise: str = ","
) -> None:
    """Writes a table to a file, atomically, or to standard output; see `text_output` and `delimiter_of`."""
    with text_output(path) as file:
        rows_to(file, columns, rows, delimiter_of(path, otherwise))


def rows_to(file: TextIO, columns: Sequence[str], rows: Iterable[Sequence[object]], delimiter: str) -> None:
    """Writes a table to an open file."""
    writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
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
