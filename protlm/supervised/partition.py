"""Which proteins are for training, validation and testing: rounds of evaluation, in which no protein is on two sides.

Legend: n proteins.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from protlm.corpus import splits
from protlm.errors import UserError, counted
from protlm.sequence.stream import Source

METHODS = ("auto", "column", "random", "homology")
FOLDS = 5


@dataclass(frozen=True)
class Round:
    """Proteins of one evaluation, each (n,) bool; `valid` may be empty."""

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray


@dataclass(frozen=True)
class Partition:
    """All rounds of an evaluation, and what the model to keep is fitted to.

    Attributes:
        rounds: one for a test part, several for cross-validation.
        final: fit and calibration of the model to keep; its test part is empty.
        groups: (n,) int64, proteins that stay together in cross-validation.
        described: a line.
    """

    rounds: list[Round]
    final: Round
    groups: np.ndarray
    described: str


def by_column(parts: np.ndarray, groups: np.ndarray, folds: int = FOLDS, seed: int = 0) -> Partition:
    """The parts of a split column; without a test part, cross-validation of the others.

    Raises:
        UserError: without a training part.
    """
    train, valid, test = (parts == part for part in ("train", "valid", "test"))
    if not train.any():
        raise UserError("the split column has no training part; expected train in some rows")
    if not test.any():
        return by_groups(groups, folds, seed, f"{folds}-fold cross-validation, since the split has no test part")
    only = Round(train, valid, test)
    return Partition([only], Round(train, valid, np.zeros_like(test)), groups, "the split of the labels")


def by_groups(groups: np.ndarray, folds: int, seed: int, described: str) -> Partition:
    """Cross-validation that keeps groups together; the model to keep is fitted to all proteins."""
    fold, none = folds_of(groups, folds, seed), np.zeros(len(groups), dtype=bool)
    rounds = [Round(fold != number, none, fold == number) for number in range(folds)]
    return Partition(rounds, Round(~none, none, none), groups, described)


def folds_of(groups: np.ndarray, folds: int = FOLDS, seed: int = 0) -> np.ndarray:
    """(n,) int64: the fold of each protein; groups stay together, the largest are dealt first to the smallest fold.

    Raises:
        UserError: if there are fewer groups than folds.

    >>> folds_of(np.array([7, 7, 7, 2, 3, 9]), 2).tolist() in ([0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0])
    True
    """
    distinct, inverse, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    if len(distinct) < folds:
        raise UserError(
            f"{counted(len(distinct), 'group')} of related proteins; expected at least {folds}, one for each fold"
        )
    shuffled = np.random.default_rng(seed).permutation(len(distinct))
    order = shuffled[np.argsort(-sizes[shuffled], kind="stable")]
    fold_of, filled = np.zeros(len(distinct), dtype=np.int64), np.zeros(folds, dtype=np.int64)
    for group in order:
        fold_of[group] = filled.argmin()
        filled[fold_of[group]] += sizes[group]
    return fold_of[inverse]


def equal_sequences(sequences: Sequence[str]) -> np.ndarray:
    """(n,) int64: the same number for the same sequence."""
    return np.unique(np.array(sequences, dtype=object).astype(str), return_inverse=True)[1]


def read_clusters(path: str | Path, ids: Sequence[str]) -> np.ndarray:
    """(n,) int64 clusters of proteins from a table of MMseqs2, plain or compressed: representative, tab, member.

    Raises:
        UserError: for a file that is not such a table, a protein without a cluster, or one in two clusters.
    """
    of: dict[str, str] = {}
    for members, representatives in splits.read_clusters(Source(path)):
        for member, representative in zip(members, representatives, strict=True):
            name, cluster = member.decode(), representative.decode()
            if of.setdefault(name, cluster) != cluster:
                raise UserError(f"{path}: {name!r} is in two clusters, {of[name]!r} and {cluster!r}; expected one")
    if missing := [name for name in ids if name not in of]:
        raise UserError(f"{path}: {len(missing):,} of {len(ids):,} proteins have no cluster, such as {missing[0]!r}")
    return np.unique([of[name] for name in ids], return_inverse=True)[1]
