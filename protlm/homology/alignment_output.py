"""Alignments written in the formats of common programs."""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from protlm.errors import UserError
from protlm.tables import text_output

FORMATS = {
    ".a3m": "a3m",
    ".a2m": "a2m",
    **dict.fromkeys((".fasta", ".afa", ".fa", ".fas"), "fasta"),
    **dict.fromkeys((".sto", ".stk", ".stockholm"), "stockholm"),
    ".aln": "clustal",
}
"""Suffix -> format."""
_LINE = 60  # columns of a block in Clustal format


def format_of(path: str | Path) -> str:
    """The format that a suffix stands for; raises a UserError for an unknown one."""
    suffix = Path(path).suffix.lower()
    if suffix not in FORMATS:
        raise UserError(f"{path}: expected an alignment, a file name that ends in {', '.join(FORMATS)}")
    return FORMATS[suffix]


def write_rows(path: str | Path, ids: Sequence[str], rows: Sequence[str], file_format: str | None = None) -> None:
    """Writes rows in A3M format in any of the `FORMATS`; see `write_alignment`."""
    if file_format is not None and file_format not in FORMATS.values():
        raise UserError(f"file_format {file_format!r}: expected one of {', '.join(dict.fromkeys(FORMATS.values()))}")
    file_format = file_format or format_of(path)
    with text_output(Path(path)) as file:
        if file_format == "stockholm":
            _write_stockholm(file, distinct(ids), list(expanded(rows)))
        elif file_format == "clustal":
            _write_clustal(file, distinct(ids), [row.upper().replace(".", "-") for row in expanded(rows)])
        else:
            written = rows if file_format == "a3m" else expanded(rows)
            for name, row in zip(ids, written, strict=True):
                file.write(f">{name}\n{row if file_format != 'fasta' else row.upper().replace('.', '-')}\n")


def expanded(rows: Sequence[str]) -> Iterator[str]:
    """Rows of equal length, as in A2M: insertions are padded with dots on the right."""
    split = [_insertions(row) for row in rows]
    widths = [max(map(len, column)) for column in zip(*(insertions for _, insertions in split), strict=True)]
    for matched, insertions in split:
        padded = (part.ljust(width, ".") for part, width in zip(insertions, widths, strict=True))
        yield "".join(part + letter for part, letter in zip(padded, (*matched, ""), strict=True))


def _insertions(row: str) -> tuple[str, list[str]]:
    """The letters of a row in the columns, and what is inserted before each column and after the last."""
    matched, insertions = [], [""]
    for letter in row:
        if letter.islower():
            insertions[-1] += letter
        else:
            matched.append(letter)
            insertions.append("")
    return "".join(matched), insertions


def distinct(ids: Iterable[str]) -> list[str]:
    """Names that differ.

    >>> distinct(["X", "Y", "X"])
    ['X', 'Y', 'X_2']
    """
    used: set[str] = set()
    result = []
    for name in ids:
        new, count = name, 1
        while new in used:
            count += 1
            new = f"{name}_{count}"
        used.add(new)
        result.append(new)
    return result


def file_names(ids: Iterable[str]) -> list[str]:
    """Names of files for sequences, which differ.

    >>> file_names(["sp|X", "sp/X", ".x"])
    ['sp_X', 'sp_X_2', '_x']
    """
    return distinct(re.sub(r"[^\w.-]|^[.]", "_", name) for name in ids)


def _write_stockholm(file: TextIO, ids: Sequence[str], rows: Sequence[str]) -> None:
    reference = "".join("." if letter.islower() or letter == "." else "x" for letter in rows[0])
    width = max(len("#=GC RF"), *map(len, ids))
    file.write("# STOCKHOLM 1.0\n\n")
    for name, row in zip(ids, rows, strict=True):
        file.write(f"{name:<{width}} {row}\n")
    file.write(f"{'#=GC RF':<{width}} {reference}\n//\n")


def _write_clustal(file: TextIO, ids: Sequence[str], rows: Sequence[str]) -> None:
    width = max(map(len, ids))
    file.write("CLUSTAL multiple sequence alignment\n")
    for start in range(0, len(rows[0]), _LINE):
        file.write("\n")
        for name, row in zip(ids, rows, strict=True):
            file.write(f"{name:<{width}} {row[start : start + _LINE]}\n")
