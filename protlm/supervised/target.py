"""A target: the labels of one property, of proteins or of residues.

Legend: n proteins, r labelled rows (proteins, or residues), K classes.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from protlm.errors import UserError
from protlm.tables import BLANKS

KINDS = ("classification", "multilabel", "regression", "ranking")
VALUED = ("regression", "ranking")
"""Kinds whose labels are numbers; of a ranking, only their order counts."""
SEPARATOR = ";"
"""Between the labels of a protein that has several."""
UNRESOLVED = "-?"
"""Letters of a string of residue labels that stand for no label; also numbers that are missing."""
_BETWEEN = re.compile(r"[;,\s]+")
_MOST_CLASSES = 20  # distinct integers that are taken for classes


@dataclass(frozen=True)
class Target:
    """The labels of one property; only labelled rows are stored.

    Attributes:
        name: of the column.
        kind: one of `KINDS`.
        per_residue: rows are residues, not proteins.
        classes: names, sorted; none for values.
        y: (r,) int64 classes, (r,) float64 values, or (r, K) float64 0 or 1 for multi-label.
        owner: (r,) int64, the protein of each row, ascending.
        position: (r,) int64, the residue of each row, from 0; 0 for proteins.
    """

    name: str
    kind: str
    per_residue: bool
    classes: tuple[str, ...]
    y: np.ndarray
    owner: np.ndarray
    position: np.ndarray

    def take(self, rows: np.ndarray) -> "Target":
        """Some rows, by their numbers or a mask."""
        return replace(self, y=self.y[rows], owner=self.owner[rows], position=self.position[rows])

    def of(self, proteins: np.ndarray) -> np.ndarray:
        """(r,) bool: the rows of some proteins, given as (n,) bool."""
        return proteins[self.owner]

    @property
    def described(self) -> str:
        """Kind and level in words, with the number of classes.

        >>> target_of("fold", ["a", "b", "a"], ["MK", "MKT", "M"]).described
        'classification per protein, 2 classes'
        """
        level = "residue" if self.per_residue else "protein"
        kind = {"multilabel": "multi-label classification"}.get(self.kind, self.kind)
        return f"{kind} per {level}" + (f", {_classes(len(self.classes))}" if self.classes else "")


def target_of(
    name: str, cells: Sequence[str], sequences: Sequence[str], kind: str | None = None, source: str = "labels"
) -> Target:
    """The target of a column of text, one cell per protein; blank cells are missing labels.

    A column whose cells are as long as their sequences has a label per residue, `-` and `?` where there is none. So has
    one with as many numbers as residues, separated by `;`, `,` or blanks, also in brackets, `nan` where there is none.
    Other cells with `;` have several labels. Numbers are regression, unless they are at most 20 distinct integers.

    Args:
        name: of the column.
        cells: (n,).
        sequences: (n,).
        kind: instead of the one found.
        source: of the column, for messages.

    Raises:
        UserError: for a column without labels, or one that is neither numbers nor classes.

    >>> target_of("ss", ["HH-", "EEHH"], ["MKT", "MKTA"]).y.tolist()
    [1, 1, 0, 0, 1, 1]
    """
    if kind is not None and kind not in KINDS:
        raise UserError(f"kind {kind!r}: expected one of {', '.join(KINDS)}", "kind")
    cells = [cell.strip() for cell in cells]
    known = [row for row, cell in enumerate(cells) if cell.casefold() not in BLANKS]
    where = f"{source}: column {name!r}"
    if not known:
        raise UserError(f"{where} has no labels; all its cells are blank")
    if kind in (None, *VALUED):
        target = value_target(name, cells, sequences, kind, source)
        if target is not None:
            return target
    fitting = [row for row in known if len(cells[row]) == len(sequences[row])]
    if kind in (None, "classification") and any(len(cells[row]) > 1 for row in known):
        if len(fitting) == len(known):
            return residue_target(name, cells, sequences, source)
        if len(fitting) > len(known) / 2 and len(known) > 2:
            row = next(row for row in known if row not in set(fitting))
            raise UserError(
                f"{source}, row {row + 1}: {name} has {len(cells[row]):,} letters for {len(sequences[row]):,} "
                "residues; expected one per residue"
            )
    numbers = {row: _number(cells[row]) for row in known}
    if kind is None:
        kind = _kind([cells[row] for row in known], list(numbers.values()))
    owner = np.array(known, dtype=np.int64)
    position = np.zeros_like(owner)
    if kind in VALUED:
        for row, number in numbers.items():
            if not math.isfinite(number):
                raise UserError(f"{source}, row {row + 1}: {name} is {cells[row]!r}; expected a finite number")
        return Target(name, kind, False, (), np.array([numbers[row] for row in known]), owner, position)
    labels = [[part.strip() for part in cells[row].split(SEPARATOR) if part.strip()] for row in known]
    if kind == "classification":
        labels = [[cells[row]] for row in known]
    classes = tuple(sorted({label for row in labels for label in row}))
    if kind == "classification" and len(classes) > 20 and len(classes) > len(known) / 2:
        stray = next((row for row in known if not math.isfinite(numbers[row])), known[0])
        raise UserError(
            f"{where} has {len(classes):,} distinct values in {len(known):,} rows, such as {cells[stray]!r} in row "
            f"{stray + 1}; expected numbers only, or classes that repeat"
        )
    index = {label: number for number, label in enumerate(classes)}
    if kind == "classification":
        return Target(name, kind, False, classes, np.array([index[row[0]] for row in labels]), owner, position)
    y = np.zeros((len(known), len(classes)))
    for row, own in enumerate(labels):
        y[row, [index[label] for label in own]] = 1
    return Target(name, kind, False, classes, y, owner, position)


def residue_target(name: str, letters: Sequence[str], sequences: Sequence[str], source: str = "labels") -> Target:
    """The target of strings with a letter per residue; a blank string is a protein without labels.

    Raises:
        UserError: for a string that is shorter or longer than its sequence, or if there are no labels at all.
    """
    owner, position, found = [], [], []
    for number, (text, sequence) in enumerate(zip(letters, sequences, strict=True)):
        if text.casefold() in BLANKS and len(text) != len(sequence):
            continue
        if len(text) != len(sequence):
            raise UserError(
                f"{source}, record {number + 1}: {len(text):,} labels for {len(sequence):,} residues; expected one each"
            )
        codes = np.array([ord(letter) for letter in text], dtype=np.int64)
        labelled = np.flatnonzero(~np.isin(codes, [ord(letter) for letter in UNRESOLVED]))
        owner.append(np.full(len(labelled), number))
        position.append(labelled)
        found.append(codes[labelled])
    codes = np.concatenate([np.zeros(0, dtype=np.int64), *found])
    if not len(codes):
        raise UserError(f"{source}: no residue of {name!r} has a label")
    distinct, y = np.unique(codes, return_inverse=True)
    classes = tuple(chr(code) for code in distinct)
    return Target(name, "classification", True, classes, y, np.concatenate(owner), np.concatenate(position))


def value_target(
    name: str, cells: Sequence[str], sequences: Sequence[str], kind: str | None = None, source: str = "labels"
) -> Target | None:
    """The target of cells with a number per residue; None if these are something else.

    Args:
        name, cells, sequences, source: see `target_of`.
        kind: "regression", the default, or "ranking".

    Raises:
        UserError: for a cell with more or fewer numbers than residues, where others fit or the kind is given.

    >>> value_target("b", ["0.5;1;nan", "[2.0, 3.5]"], ["MKT", "MK"]).y.tolist()
    [0.5, 1.0, 2.0, 3.5]
    """
    found = {row: _numbers(cell) for row, cell in enumerate(cells) if cell.casefold() not in BLANKS}
    if not found or any(values is None for values in found.values()) or all(len(v or ()) == 1 for v in found.values()):
        return None
    lists = {row: np.array(values) for row, values in found.items()}
    wrong = [row for row, values in lists.items() if len(values) != len(sequences[row])]
    if wrong and kind is None and 2 * len(wrong) >= len(lists):
        return None  # labels that are numbers
    if wrong:
        raise UserError(
            f"{source}, row {wrong[0] + 1}: {name} has {len(lists[wrong[0]]):,} numbers for "
            f"{len(sequences[wrong[0]]):,} residues; expected one per residue, nan where there is none"
        )
    if infinite := [row for row, values in lists.items() if np.isinf(values).any()]:
        raise UserError(f"{source}, row {infinite[0] + 1}: {name} has an infinite number; expected finite ones or nan")
    positions = [np.flatnonzero(np.isfinite(values)) for values in lists.values()]
    y = np.concatenate([values[own] for values, own in zip(lists.values(), positions, strict=True)])
    if not len(y):
        raise UserError(f"{source}: no residue of {name!r} has a value")
    owner = np.repeat(np.array(list(lists), dtype=np.int64), list(map(len, positions)))
    return Target(name, kind or "regression", True, (), y, owner, np.concatenate(positions))


def training_values(target: Target) -> np.ndarray:
    """(r,) or (r, K): what a model is fitted to: the labels, of a ranking their ranks."""
    return fractional_ranks(target.y) if target.kind == "ranking" else target.y


def fractional_ranks(y: np.ndarray) -> np.ndarray:
    """(r,) ranks from 0 to 1, ties at their mean.

    >>> fractional_ranks(np.array([3.0, 9.0, 9.0, -1.0])).tolist()
    [0.375, 0.75, 0.75, 0.125]
    """
    _, inverse, sizes = np.unique(y, return_inverse=True, return_counts=True)
    return ((np.cumsum(sizes) - sizes / 2) / len(y))[inverse]


def _numbers(cell: str) -> list[float] | None:
    """The numbers of a cell, NaN for those that are missing; None if it has anything else."""
    parts = [part for part in _BETWEEN.split(cell.strip("[]() ")) if part]
    try:
        return [math.nan if part.casefold() in BLANKS or part in UNRESOLVED else float(part) for part in parts]
    except ValueError:
        return None


def _classes(count: int) -> str:
    return f"{count:,} class{'es' * (count != 1)}"


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan


def _kind(cells: list[str], numbers: list[float]) -> str:
    if not any(map(math.isnan, numbers)):
        whole = all(math.isfinite(number) and number == int(number) for number in numbers)
        return "classification" if whole and len(set(numbers)) <= _MOST_CLASSES else "regression"
    return "multilabel" if any(SEPARATOR in cell for cell in cells) else "classification"
