"""Alignment files in the formats of common programs, recognised by their content."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from protlm.errors import UserError
from protlm.homology.aligned_rows import Rows
from protlm.sequence.formats import LOOKED_AT, recognised
from protlm.sequence.stream import DAMAGED, Source

EXPECTED = "an alignment in A2M, A3M, aligned FASTA, Stockholm or Clustal format"

_CLUSTAL = re.compile(rb"CLUSTAL|[A-Z-]+ ?\(.*multiple sequence alignment", re.IGNORECASE)
_NOT_PROTEINS = re.compile(r"(ss|sa)_(dssp|pred|conf)$|(\S*_)?[Cc]onsensus$")
"""Rows of HHsuite that are not sequences of proteins."""
_GAPS = bytes.maketrans(b".~_*", b"----")
_NOT_ALIGNED = re.compile(rb"[^A-Za-z.~_*-]")
_LOWER = re.compile(rb"[a-z]")
_LOWER_AND_DOT = b"abcdefghijklmnopqrstuvwxyz."


def read_rows(path: str | Path) -> Rows:
    """The rows of an alignment file.

    A file in FASTA format is A3M if its rows have the same number of upper-case letters and gaps, but differ in length
    or in the places of lower-case letters.

    Raises:
        UserError: if the file cannot be read, or is not an alignment.
    """
    try:
        with Source(path) as source, source.content() as content:
            start = content.peek(LOOKED_AT)[:LOOKED_AT].lstrip()
            lines = (line.rstrip(b"\r\n\0") for line in content)
            if start.startswith(b"# STOCKHOLM"):
                ids, rows = _interleaved(_stockholm(path, lines))
            elif _CLUSTAL.match(start):
                ids, rows = _interleaved(_clustal(lines))
            elif start.startswith((b">", b"#")):
                ids, rows = _fasta(path, lines)
            else:
                kind = recognised(start)
                found = f"found {kind[0]}" if kind else "its first line does not start with '>'"
                raise UserError(
                    f"{path}: {found}; expected {EXPECTED}" if start else f"{path}: empty; expected {EXPECTED}"
                )
    except DAMAGED as error:
        raise UserError(f"{path}: damaged or cut short ({error}); download or compress it again") from error
    if not rows:
        raise UserError(f"{path}: no sequences; expected {EXPECTED}")
    for number, row in enumerate(rows, start=1):
        if odd := _NOT_ALIGNED.search(row):
            letter = odd[0].decode("latin-1")
            raise UserError(f"{path}, record {number} ({ids[number - 1]}): {letter!r} is neither a residue nor a gap")
    if start.startswith((b">", b"#")) and _is_a3m(rows):
        matched = [row.replace(b".", b"").translate(_GAPS) for row in rows]
        return Rows(str(path), ids, matched, insertions=True)
    if len({*map(len, rows)}) > 1:
        raise _unequal(path, ids, rows)
    return Rows(str(path), ids, [row.translate(_GAPS) for row in rows])


def _unequal(path: str | Path, ids: list[str], rows: list[bytes]) -> UserError:
    """The error for the first row that does not fit: in columns of A3M if the file seems to be that."""
    insertions = not any(b"." in row for row in rows) and any(map(_LOWER.search, rows))
    widths = [len(row.translate(None, _LOWER_AND_DOT) if insertions else row) for row in rows]
    number = next(number for number, width in enumerate(widths) if width != widths[0])
    found = f"{path}, record {number + 1} ({ids[number]}): {widths[number]:,} columns"
    aligned = any(b"-" in row or b"." in row for row in rows)
    advice = "" if aligned or insertions else "; these sequences do not seem to be aligned"
    return UserError(f"{found}; expected {widths[0]:,} as in the first record{advice}")


def _is_a3m(rows: list[bytes]) -> bool:
    """Whether lower-case letters are insertions between columns."""
    columns = {len(row.translate(None, _LOWER_AND_DOT)) for row in rows}
    if len(columns) > 1:
        return False
    if len({len(row) for row in rows}) > 1:
        return True
    if any(b"." in row for row in rows):
        return False
    places = {tuple(match.start() for match in _LOWER.finditer(row)) for row in rows}
    return len(places) > 1


def _fasta(path: str | Path, lines: Iterable[bytes]) -> tuple[list[str], list[bytes]]:
    ids: list[str] = []
    parts: list[list[bytes]] = []
    for number, line in enumerate(lines, start=1):
        if line.startswith(b">"):
            ids.append(line[1:].decode("utf-8", "replace").strip())
            parts.append([])
        elif parts:
            parts[-1].append(b"".join(line.split()))
        elif line.strip() and not line.startswith(b"#"):
            raise UserError(f"{path}, line {number}: expected '>' and a name, found {line[:40].decode('latin-1')!r}")
    rows = [b"".join(part) for part in parts]
    names = [(words.split(None, 1) or [""])[0] for words in ids]
    proteins = [n for n, name in enumerate(names) if not _NOT_PROTEINS.match(name)]
    return [names[n] for n in proteins], [rows[n] for n in proteins]


def _stockholm(path: str | Path, lines: Iterable[bytes]) -> Iterator[tuple[str, bytes] | None]:
    """The name and letters of each line of the first alignment, None for a blank line."""
    for number, line in enumerate(lines, start=1):
        if line.startswith(b"//"):
            return
        if line.startswith(b"#"):
            continue
        words = line.split()
        if len(words) not in (0, 2):
            raise UserError(f"{path}, line {number}: expected a name and a row of the alignment (Stockholm format)")
        yield (words[0].decode("utf-8", "replace"), words[1]) if words else None
    raise UserError(f"{path}: cut short; expected '//' after the alignment (Stockholm format)")


def _clustal(lines: Iterator[bytes]) -> Iterator[tuple[str, bytes] | None]:
    """As `_stockholm`, without the lines of conservation and the numbers at the end of lines."""
    next(line for line in lines if line.strip())  # the title
    for line in lines:
        words = line.split()
        if not words:
            yield None
        elif not line[:1].isspace() and len(words) > 1:
            yield words[0].decode("utf-8", "replace"), words[1]


def _interleaved(lines: Iterable[tuple[str, bytes] | None]) -> tuple[list[str], list[bytes]]:
    """Names and rows of an alignment in blocks; a name that occurs twice in a block belongs to two rows."""
    rows: dict[tuple[str, int], list[bytes]] = {}
    seen: Counter[str] = Counter()
    for line in lines:
        if line is None:
            seen.clear()
            continue
        name, letters = line
        rows.setdefault((name, seen[name]), []).append(letters)
        seen[name] += 1
    return [name for name, _ in rows], [b"".join(parts) for parts in rows.values()]
