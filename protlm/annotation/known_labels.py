"""Labels of the proteins of a reference: GO terms, EC numbers, families; several per protein.

Legend: n proteins, K labels, m pairs.
"""

import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from protlm.errors import ProtlmWarning, UserError, counted
from protlm.sequence.containers import ID, SEQUENCE
from protlm.sequence.headers import accession
from protlm.supervised.labels import table_of
from protlm.supervised.target import SEPARATOR
from protlm.tables import BLANKS, Table


@dataclass(frozen=True)
class KnownLabels:
    """Which protein has which labels.

    Attributes:
        names: K labels, sorted.
        starts: (n + 1,) int64; labels of protein i are `numbers[starts[i]:starts[i + 1]]`.
        numbers: of labels, ascending for each protein.
    """

    names: list[str]
    starts: np.ndarray
    numbers: np.ndarray

    @classmethod
    def of_lists(cls, labels: Sequence[Sequence[str]]) -> "KnownLabels":
        """From the labels of each protein.

        >>> KnownLabels.of_lists([["b", "a"], [], ["b"]]).numbers.tolist()
        [0, 1, 1]
        """
        names = sorted({name for own in labels for name in own})
        number = {name: position for position, name in enumerate(names)}
        own = [sorted({number[name] for name in each}) for each in labels]
        starts = np.concatenate(([0], np.cumsum([len(each) for each in own]))).astype(np.int64)
        return cls(names, starts, np.array([one for each in own for one in each], dtype=np.int64))

    @property
    def counts(self) -> np.ndarray:
        """(n,) int64: labels of each protein."""
        return np.diff(self.starts)

    def of(self, proteins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The labels of proteins (m,), which may repeat: for each label the index into `proteins`, and its number."""
        counts = self.counts[proteins]
        index = np.repeat(np.arange(len(proteins)), counts)
        offset = np.arange(len(index)) - np.repeat(np.cumsum(counts) - counts, counts)
        return index, self.numbers[np.repeat(self.starts[proteins], counts) + offset]

    def have(self, proteins: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """(m,) bool: whether each protein (m,) has the label (m,)."""
        known = np.repeat(np.arange(len(self.counts)), self.counts) * len(self.names) + self.numbers
        return np.isin(proteins * len(self.names) + labels, known)

    def take(self, proteins: np.ndarray) -> "KnownLabels":
        """Those of some proteins, by their numbers; names are kept."""
        counts = self.counts[proteins]
        return KnownLabels(self.names, np.concatenate(([0], np.cumsum(counts))), self.of(proteins)[1])


def read_known_labels(
    given: Any, ids: Sequence[str], reference: str, columns: Sequence[str] = ()
) -> dict[str, KnownLabels]:
    """Column -> labels of the n proteins of a reference; those without a row have none.

    Args:
        given: CSV, TSV or Parquet file, or a pandas DataFrame, with a column `id` and others of labels; several labels
            of a protein are separated by `;`.
        ids: (n,) of the reference. Identifiers of the table may be whole UniProt names, such as `sp|P69905|HBA_HUMAN`.
        reference: its name, for messages.
        columns: to read, by default the only one beside `id` and `sequence`.

    Raises:
        UserError: for a table without rows, columns or labels, duplicate identifiers, or none of the reference. That
            some are not in the reference is a warning.
    """
    table = table_of(given)
    if ID not in table:
        raise UserError(f"{table.path}: no column {ID!r}; found: {', '.join(table.columns[:8])}")
    names = [accession(name) for name in table[ID]]
    _check_distinct(table, names)
    chosen, known = _chosen(table, columns), set(ids)
    missing = [name for name in names if name not in known]
    if missing:
        what = (
            f"{table.path}: {len(missing):,} of {counted(len(names), 'id')} not in {reference}, such as "
            f"{missing[0]!r}; identifiers there look like {ids[0]!r}"
        )
        if len(missing) == len(names):
            raise UserError(what)
        warnings.warn(what, ProtlmWarning, stacklevel=2)
    row = {name: number for number, name in enumerate(names)}
    found = {}
    for column in chosen:
        cells = table[column]
        labels = [_labels(cells[row[name]]) if name in row else [] for name in ids]
        if not any(labels):
            raise UserError(f"{table.path}: no protein of {reference} has a label in column {column!r}")
        found[column] = KnownLabels.of_lists(labels)
    return found


def _labels(cell: str) -> list[str]:
    names = [name.strip() for name in cell.split(SEPARATOR)]
    return [name for name in names if name.casefold() not in BLANKS]


def _check_distinct(table: Table, names: list[str]) -> None:
    name, count = Counter(names).most_common(1)[0]
    if count > 1:
        rows = [number + 1 for number, one in enumerate(names) if one == name]
        raise UserError(
            f"{table.path}: duplicate id {name!r} (rows {rows[0]} and {rows[1]}); expected one row per protein, its "
            f"labels separated by {SEPARATOR!r}"
        )


def _chosen(table: Table, columns: Sequence[str]) -> list[str]:
    """The names, as the table spells them, of the given columns or of the only one."""
    if not columns:
        left = [name for name in table.columns if name.casefold() not in (ID, SEQUENCE)]
        if len(left) != 1:
            found = ", ".join(left[:8]) or "none beside id"
            raise UserError(
                f"{table.path}: expected one column of labels, found {found}; choose one or more with column", "column"
            )
        return left
    for name in columns:
        if name not in table and len(parts := name.split(",")) > 1 and all(part.strip() in table for part in parts):
            raise UserError(f"column {name!r}: several columns; give column once for each", "column")
    chosen = [table.columns[table.number(name)] for name in columns]
    for name in chosen:
        if name.casefold() == ID:
            raise UserError(
                f"column {name!r}: identifies the proteins of {table.path}; expected one of labels", "column"
            )
        if chosen.count(name) > 1:
            raise UserError(f"column {name!r}: given twice; expected each column of {table.path} once", "column")
    return chosen
