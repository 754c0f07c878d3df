"""Columns and tables on disk for data larger than memory: appended to, read in blocks, sorted by partition."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

_ROWS = 1 << 16
"""Rows of a partition or block held in memory at once."""


class Column:
    """An array in a file, appended to and then read; a context manager that closes the file."""

    def __init__(self, path: Path, dtype: str) -> None:
        self.path, self.dtype = path, np.dtype(dtype)
        self._file: BinaryIO | None = None

    def __enter__(self) -> "Column":
        return self

    def __exit__(self, *error: object) -> None:
        self._close()

    def __len__(self) -> int:
        self._close()
        return self.path.stat().st_size // self.dtype.itemsize if self.path.exists() else 0

    def append(self, values: np.ndarray) -> None:
        """Appends values (n,)."""
        if self._file is None:
            self._file = self.path.open("ab")
        self._file.write(np.ascontiguousarray(values, dtype=self.dtype).data)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Reads values (stop - start,)."""
        self._close()
        return np.fromfile(self.path, self.dtype, stop - start, offset=start * self.dtype.itemsize)

    def blocks(self, rows: int = _ROWS) -> Iterator[np.ndarray]:
        """All values in order, a block at a time."""
        size = len(self)
        for start in range(0, size, rows):
            yield self.read(start, min(start + rows, size))

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class Partitions:
    """Rows of uint64 partitioned over files, so that each partition fits in memory.

    Rows that have to be compared go to the same partition, so a table of any size is joined or sorted one partition at
    a time. `count` is the number of partitions, see `parts_for`; the folder is created.
    """

    def __init__(self, folder: Path, columns: int, count: int) -> None:
        folder.mkdir()
        self.columns, self.count = columns, count
        self._paths = [folder / str(part) for part in range(self.count)]

    def by_hash(self, hashes: np.ndarray) -> np.ndarray:
        """Partition numbers (n,) for hashes (n,) uint64, ascending with the hash."""
        return ((hashes >> np.uint64(32)) * np.uint64(self.count)) >> np.uint64(32)

    def by_index(self, indices: np.ndarray, size: int) -> np.ndarray:
        """Partition numbers (n,) for indices (n,) below `size`, ascending with the index."""
        return indices.astype(np.uint64) * np.uint64(self.count) // np.uint64(max(1, size))

    def add(self, numbers: np.ndarray, *columns: np.ndarray) -> None:
        """Adds n rows to the partitions `numbers` (n,)."""
        rows = np.empty((len(numbers), self.columns), dtype=np.uint64)
        for index, column in enumerate(columns):
            rows[:, index] = column
        order = np.argsort(numbers, kind="stable")
        edges = np.searchsorted(numbers[order], np.arange(self.count + 1))
        for path, start, stop in zip(self._paths, edges, edges[1:], strict=False):
            if start < stop:
                with path.open("ab") as file:  # too many to be kept open
                    file.write(rows[order[start:stop]].data)

    def sorted(self, keys: Sequence[int]) -> Iterator[list[np.ndarray]]:
        """The columns of each partition in turn, sorted by `keys`, most significant first; removes the files."""
        for path in self._paths:
            if not path.exists():
                yield [np.zeros(0, dtype=np.uint64)] * self.columns
                continue
            rows = np.fromfile(path, np.uint64).reshape(-1, self.columns)
            path.unlink()
            order = np.lexsort([rows[:, key] for key in reversed(keys)])
            yield [rows[order, column] for column in range(self.columns)]


def parts_for(rows: int) -> int:
    """Number of partitions for a number of rows; with more than a thousand, opening files dominates."""
    return min(1000, 1 + rows // _ROWS)


def groups(*columns: np.ndarray) -> np.ndarray:
    """(n,) bool: where a group of equal rows begins in sorted columns (n,)."""
    first = np.ones(len(columns[0]), dtype=bool)
    if len(first):
        first[1:] = np.logical_or.reduce([column[1:] != column[:-1] for column in columns])
    return first
