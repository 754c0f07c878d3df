"""The records of a FASTA file that cannot be used: refused, or skipped and listed."""

from pathlib import Path
from typing import NamedTuple

from protlm.errors import UserError, counted
from protlm.sequence.stream import Source
from protlm.sequence.tally import Tally

INVALID = ("error", "skip")
"""What to do with an invalid record."""
SKIPPED = "skipped, invalid"
"""Reason in a tally."""


class _Invalid(NamedTuple):
    record: int
    name: str
    reason: str
    offset: int | None
    """0-based position in the sequence, counting gaps; None for the header."""


class InvalidRecords:
    """Those of one file.

    Args:
        path: to read again for the numbers of lines, if it is a file.
        shown: name of the file in messages.
    """

    def __init__(self, path: str | Path, shown: str) -> None:
        self._path, self._shown = path, shown
        self._found: list[_Invalid] = []

    def __len__(self) -> int:
        return len(self._found)

    def add(self, record: int, name: str, reason: str, offset: int | None = None) -> None:
        """Adds a record by its number from 1."""
        self._found.append(_Invalid(record, name, reason, offset))

    def list_in(self, tally: Tally) -> None:
        """Counts and lists all of them."""
        if self._found:
            tally.add(SKIPPED, 0, len(self._found))
            tally.skipped += [f"skipped: {line}" for line in self._described(self._found)]

    def error(self, more_to_read: bool) -> UserError:
        """The error that names the first, and says how many others there are."""
        (first,) = self._described(self._found[:1])
        others = counted(len(self._found) - 1, "other record")
        verb = "is" if len(self._found) == 2 else "are"
        rest = f"; {'at least ' if more_to_read else ''}{others} {verb} invalid" if len(self._found) > 1 else ""
        return UserError(f"{first}{rest}; correct or remove the record, or set invalid to 'skip'", "invalid")

    def _described(self, records: list[_Invalid]) -> list[str]:
        """File, record, identifier, line and reason of each."""
        lines = self._lines(records)
        return [
            f"{self._shown}, record {one.record}{f' ({one.name})' if one.name else ''}"
            f"{f', line {line}' if line else ''}: {one.reason}"
            for one, line in zip(records, lines, strict=True)
        ]

    def _lines(self, records: list[_Invalid]) -> list[int]:
        """The line of each record, found by reading the file again; 0 for a pipe, which can be read only once."""
        if not Path(self._path).is_file():
            return [0] * len(records)
        sought = {one.record: one for one in records}
        lines = dict.fromkeys(sought, 0)
        record, position, last = 0, -1, max(sought)
        with Source(self._path) as source, source.text() as text:
            for number, line in enumerate(text, start=1):
                if line.startswith(">"):
                    record += 1
                    if record > last:
                        break
                    one = sought.get(record)
                    position = -1
                    if one is not None and one.offset is None:
                        lines[record] = number
                    elif one is not None and one.offset is not None:
                        position = one.offset
                elif position >= 0:
                    length = len(line.rstrip().replace(" ", ""))
                    if position < length:
                        lines[record] = number
                    position -= length
        return [lines[one.record] for one in records]
