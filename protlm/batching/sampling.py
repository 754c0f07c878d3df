"""The proteins that an epoch draws, in order; computed on the fly, so memory does not grow with the corpus.

Each protein (or each cluster) is drawn once per epoch. With weights, each corpus (or each part of a corpus, by cluster
size) has its share of the draws, and draws all of its proteins once before it draws any again.
"""

from collections.abc import Sequence

import numpy as np

from protlm.batching.permutation import mix, permutation
from protlm.corpus.reader import Corpora
from protlm.errors import UserError

UNITS = ("protein", "cluster")


class Draws:
    """The draws of each epoch from one split.

    Args:
        corpora: where the proteins come from.
        split: one of "train", "valid", "test", "ood".
        seed: of the order, and of the choice of cluster members.
        by: "protein" draws every protein once per epoch; "cluster" draws one protein of every cluster, uniformly.
        weights: fraction of the draws from each corpus; None draws every protein (or cluster) equally often.
        min_cluster_size: excludes clusters with fewer proteins in the split; one number, or one for each corpus.
            Several numbers for a single corpus make as many overlapping parts, each with its own weight.

    Attributes:
        size: draws in an epoch.
    """

    def __init__(
        self,
        corpora: Corpora,
        split: str,
        seed: int,
        by: str = "protein",
        weights: Sequence[float] | None = None,
        min_cluster_size: int | Sequence[int] = 1,
    ) -> None:
        if by not in UNITS:
            raise UserError(f"sample_by {by!r}: expected one of {', '.join(UNITS)}", "sample_by")
        self.corpora, self.split, self.seed = corpora, split, seed
        self._by, self._weights, self._least = by, weights, min_cluster_size
        parts = self._parts(min_cluster_size)
        self._starts = [corpora.starts[shard] for shard, _ in parts]
        self._members, groups = [], []
        for corpus, least in ((corpora.corpora[shard], least) for shard, least in parts):
            members = corpus.members(split)
            bounds = corpus.groups(split) if by == "cluster" or least > 1 else None
            if bounds is not None and least > 1:  # otherwise keep the memory map
                sizes = np.diff(bounds)
                members = members[np.repeat(sizes >= least, sizes)]
                bounds = np.append(0, np.cumsum(sizes[sizes >= least]))
            self._members.append(members)
            groups.append(bounds)
        self._groups = groups if by == "cluster" else None
        units = [len(groups) - 1 for groups in self._groups] if self._groups else list(map(len, self._members))
        self._units = np.array(units, dtype=np.int64)
        self._draws = self._units if weights is None else self._weighted(weights)
        self._ends = np.cumsum(self._draws)
        self.size = int(self._draws.sum())

    def __reduce__(self) -> tuple[type["Draws"], tuple[object, ...]]:
        """Pickles paths instead of memory maps: a worker opens the corpora itself."""
        return Draws, (self.corpora, self.split, self.seed, self._by, self._weights, self._least)

    def _parts(self, least: int | Sequence[int]) -> list[tuple[int, int]]:
        """(corpus index, minimum cluster size) of each part that has a share of the draws."""
        number = len(self.corpora.corpora)
        sizes = [least] * number if isinstance(least, int | str) or not isinstance(least, Sequence) else list(least)
        if not all(isinstance(size, int) and size >= 1 for size in sizes):
            raise UserError(
                f"min_cluster_size {least!r}: expected an integer of at least 1, or several", "min_cluster_size"
            )
        if (number > 1 and len(sizes) != number) or not sizes:
            raise UserError(
                f"min_cluster_size {least!r}: expected one number, or {number}, one for each corpus", "min_cluster_size"
            )
        return [(shard if number > 1 else 0, size) for shard, size in enumerate(sizes)]

    def _weighted(self, weights: Sequence[float]) -> np.ndarray:
        try:
            shares = np.array(weights, dtype=float)
        except (TypeError, ValueError):
            shares = np.zeros(0)
        if shares.shape != self._units.shape or not np.isfinite(shares).all() or (shares < 0).any() or not shares.any():
            of = "corpus" if len(self._units) == len(self.corpora.corpora) else "number in min_cluster_size"
            expected = f"a non-negative number for each {of} ({len(self._units)}), not all 0"
            raise UserError(f"weights {weights}: expected {expected}", "weights")
        shares = np.where(self._units > 0, shares, 0.0)
        if not shares.any():
            return np.zeros_like(self._units)
        draws = np.round(self._units.sum() * shares / shares.sum()).astype(np.int64)
        return np.where((shares > 0) & (draws == 0), 1, draws)

    def __call__(self, epoch: int, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Draws `start` to `stop` (exclusive) of an epoch.

        Returns:
            (n,) int64, number of earlier passes through the corpus, plus 2^32 times the part number of a single corpus;
            it makes a protein that is drawn again a different sample;
            (n,) int64, the proteins.

        Raises:
            UserError: if a corpus was overwritten.
        """
        self.corpora.check_unchanged()
        slots = permutation(self.size, (self.seed, 1, epoch))(np.arange(start, min(stop, self.size)))
        shards = np.searchsorted(self._ends, slots, side="right")
        passes, proteins = np.empty_like(slots), np.empty_like(slots)
        for shard in np.unique(shards).tolist():
            rows = shards == shard
            count, draws = int(self._units[shard]), int(self._draws[shard])
            units = slots[rows] - (self._ends[shard] - draws)
            rounds = np.full_like(units, epoch)
            if draws != count:
                rounds, positions = np.divmod(epoch * draws + units, count)
                for number in np.unique(rounds).tolist():
                    now = rounds == number
                    units[now] = permutation(count, (self.seed, 4, shard, number))(positions[now])
            if self._groups is not None:
                first, end = self._groups[shard][units], self._groups[shard][units + 1]
                chance = mix(mix(units.astype(np.uint64) ^ self._key(shard)) + rounds.astype(np.uint64))
                units = first + (chance % (end - first).astype(np.uint64)).astype(np.int64)
            # a protein in two parts of a corpus is a different sample in each
            passes[rows] = rounds + (shard << 32 if len(self.corpora.corpora) == 1 else 0)
            proteins[rows] = self._starts[shard] + self._members[shard][units]
        return passes, proteins

    def _key(self, shard: int) -> np.uint64:
        return np.random.SeedSequence((self.seed, 5, shard)).generate_state(1, np.uint64)[0]
