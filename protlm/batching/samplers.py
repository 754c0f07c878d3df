"""Samplers of batches: endless and resumable in training, one pass for evaluation; both distributed over ranks."""

import signal
from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import Sampler

from protlm.batching.batches import Batches, Cursor, Key
from protlm.errors import UserError

Position = tuple[int, Cursor, int]
"""Epoch, pool, and batch within the pool: a position in the endless sequence of batches."""

_EMPTY = 1_000  # consecutive empty epochs before giving up; draws too few for a block may differ by epoch


class EndlessBatches(Sampler[Key]):
    """Keys of batches, epoch after epoch without end, distributed over the ranks in turn.

    Ranks get disjoint batches, and none is left over at the end of an epoch.

    Args:
        samples: the dataset that plans the batches.
        rank, ranks: index of this process and number of processes.
        start: position of the first batch of the first rank, to resume a run.
        consumed: returns how many batches of this rank were used so far; a new iteration continues after them.
    """

    def __init__(
        self,
        samples: Batches,
        rank: int = 0,
        ranks: int = 1,
        start: Position | None = None,
        consumed: Callable[[], int] = lambda: 0,
    ) -> None:
        self.samples, self.rank, self.ranks, self.consumed = samples, rank, ranks, consumed
        self.start: Position = start or (0, samples.first, 0)
        self._before = 0  # consumed when the iteration began
        self._pools: list[tuple[int, int, Cursor]] = []

    def __iter__(self) -> Iterator[Key]:
        if (consumed := self.consumed()) != self._before:
            self.start, self._before = self.position(consumed), consumed
        self._pools = []
        epoch, cursor, skipped = self.start
        number = -skipped  # of the batch, counted from the start over all ranks
        empty = 0  # consecutive empty epochs
        while empty < _EMPTY:
            empty += 1
            for first, batches in self.samples.pools(epoch, cursor):
                empty = 0
                self._pools.append((number, epoch, first))
                for key in batches:
                    if number >= 0 and number % self.ranks == self.rank:
                        yield key
                    number += 1
            epoch, cursor = epoch + 1, self.samples.first
        raise UserError(f"{self.samples.corpora}: no batch in the {self.samples.split} split")

    def position(self, consumed: int | None = None) -> Position:
        """The `start` of a run that resumes after `consumed` batches of each rank; by default those used so far."""
        target = ((self.consumed() if consumed is None else consumed) - self._before) * self.ranks
        while len(self._pools) > 1 and self._pools[1][0] <= target:
            self._pools.pop(0)
        if not self._pools:
            return self.start
        number, epoch, cursor = self._pools[0]
        return epoch, cursor, target - number


class Plan(Sampler[Key]):
    """Keys of the batches of one epoch for one rank, for evaluation.

    All ranks get the same number, since sharded models compute together: a rank without a batch in the last round gets
    the first batch again, marked by a negative key and not scored.

    Args:
        samples: the dataset.
        rank, ranks: index of this process and number of processes.
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


def leave_signals_to_the_main_process(worker: int) -> None:
    """Ignores the signals that a terminal or SLURM sends to all processes: a run that stops still needs its workers.

    Defined here so that a spawned worker does not import Lightning, which takes longer than everything else.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def as_it_is(batch: Any) -> Any:
    """The batch; PyTorch's own function for loaders would make a tensor of its key, which then moves to the device."""
    return batch
