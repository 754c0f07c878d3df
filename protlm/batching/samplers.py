"""The order of batches: without end in training, dealt to ranks, gone on with at any place; once to evaluate."""

from collections.abc import Callable, Iterator

from torch.utils.data import Sampler

from protlm.batching.batches import Batches, Cursor, Key
from protlm.errors import UserError

Place = tuple[int, Cursor, int]
"""Epoch, pool, and batch within the pool: a place in the endless order of batches."""

_EMPTY = 1_000  # epochs without a batch; one that draws too little for a block may be followed by one that does not


class EndlessBatches(Sampler[Key]):
    """Keys of batches, epoch after epoch without end, dealt to the ranks in turn.

    So ranks get disjoint batches, equally many, and none is left over at the end of an epoch.

    Args:
        samples: the dataset whose pools are followed.
        rank, ranks: this process and their number.
        start: the place of the first batch of the first rank, to go on where a run stopped.
        consumed: says how many batches of this rank were used so far; one that is iterated anew goes on behind them.
    """

    def __init__(
        self,
        samples: Batches,
        rank: int = 0,
        ranks: int = 1,
        start: Place | None = None,
        consumed: Callable[[], int] = lambda: 0,
    ) -> None:
        self.samples, self.rank, self.ranks, self.consumed = samples, rank, ranks, consumed
        self.start: Place = start or (0, samples.first, 0)
        self._before = 0  # consumed when the iteration began
        self._pools: list[tuple[int, int, Cursor]] = []

    def __iter__(self) -> Iterator[Key]:
        if (consumed := self.consumed()) != self._before:
            self.start, self._before = self.place(consumed), consumed
        self._pools = []
        epoch, cursor, skipped = self.start
        number = -skipped  # of the batch, counted from the start over all ranks
        empty = 0  # epochs in a row
        while empty < _EMPTY:
            empty += 1
            for place, batches in self.samples.pools(epoch, cursor):
                empty = 0
                self._pools.append((number, epoch, place))
                for key in batches:
                    if number >= 0 and number % self.ranks == self.rank:
                        yield key
                    number += 1
            epoch, cursor = epoch + 1, self.samples.first
        raise UserError(f"{self.samples.corpora}: no batch in the {self.samples.split} split")

    def place(self, consumed: int | None = None) -> Place:
        """The `start` of a run that goes on behind so many batches of each rank; by default those that were used."""
        target = ((self.consumed() if consumed is None else consumed) - self._before) * self.ranks
        while len(self._pools) > 1 and self._pools[1][0] <= target:
            self._pools.pop(0)
        if not self._pools:
            return self.start
        number, epoch, cursor = self._pools[0]
        return epoch, cursor, target - number


class Plan(Sampler[Key]):
    """Keys of the batches of one epoch for one rank, to evaluate on.

    All ranks get equally many, since sharded models compute together: if the last round has none left for a rank, it
    gets the first batch once more, marked by a key below 0, of which nothing is asked.

    Args:
        samples: the dataset.
        rank, ranks: this process and their number.
    """

    def __init__(self, samples: Batches, rank: int = 0, ranks: int = 1) -> None:
        self.samples, self.rank, self.ranks = samples, rank, ranks
        self._size: int | None = None

    def __iter__(self) -> Iterator[Key]:
        first, number = None, -1
        for number, key in enumerate(self.samples.plan(0)):
            first = key if first is None else first
            if number % self.ranks == self.rank:
                yield key
        if first is not None and 0 < (number + 1) % self.ranks <= self.rank:
            yield ~first

    def __len__(self) -> int:
        if self._size is None:
            self._size = sum(1 for _ in self)
        return self._size
