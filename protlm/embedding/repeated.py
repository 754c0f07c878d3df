"""Identifiers that several shards have."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from protlm.corpus.splits import digests
from protlm.errors import UserError


def check_distinct(shards: Sequence[Path], names: Callable[[Path], Iterable[bytes]]) -> None:
    """Raises a UserError if an identifier occurs twice; keeps 16 bytes of each.

    Args:
        shards: files.
        names: the identifiers in one of them.
    """
    each = [digests(list(names(shard))) for shard in shards]
    every = np.concatenate(each)
    order = np.lexsort(every.T)
    equal = np.flatnonzero((every[order[1:]] == every[order[:-1]]).all(axis=1))
    if equal.size:
        index = int(order[equal + 1].min())
        ends = np.cumsum([len(one) for one in each])
        shard = int(np.searchsorted(ends, index, side="right"))
        name = list(names(shards[shard]))[index - int(ends[shard]) + len(each[shard])]
        raise UserError(repeated(shards[shard], name.decode()))


def repeated(shard: Path, name: str) -> str:
    """The error message for an identifier that an earlier shard has, too."""
    return f"{shard}: identifier {name!r} is also in an earlier shard; make identifiers unique and embed again"
