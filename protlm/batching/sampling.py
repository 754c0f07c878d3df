"""Which proteins an epoch draws, and in which order; computed place by place, so nothing grows with the corpus.

Each protein (or each cluster) is drawn once an epoch. With weights, each corpus (or each part of one, by the size of
clusters) has its share of the draws, and takes all of its proteins once before it takes any again.
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
        seed: of the order, and of the members of clusters.
        by: "protein" draws every protein once an epoch; "cluster" every cluster once, and one of its proteins, each as
            likely.
        weights: share of each corpus in the draws; None takes every protein (or cluster) of all equally often.
        min_cluster_size: leaves out clusters with fewer proteins in the split; one number, or one for each corpus. Of a
            single corpus several numbers make as many overlapping parts, each with a weight of its own.

    Attributes:
        size: draws in an epoch.

    Raises:
        UserError: for weights that do not fit, or for clusters or a size of clusters that a corpus does not have.
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
            raise UserError(f"sample_by {by!r}: expected one of {', '.join(UNITS)}")
        self.corpora, self.split, self.seed = corpora, split, seed
        self._by, self._weights, self._least = by, weights, min_cluster_size
        parts = self._parts(min_cluster_size)
        self._starts = [corpora.starts[shard] for shard, _ in parts]
        self._members, groups = [], []
        for corpus, least in ((corpora.corpora[shard], least) for shard, least in parts):
            members = corpus.members(split)
            bounds = corpus.groups(split) if by == "cluster" or least > 1 else None
            if bounds is not None and least > 1:  # else what is mapped is not copied
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
        """A worker opens the corpora itself, instead of getting copies of what is mapped."""
        return Draws, (self.corpora, self.split, self.seed, self._by, self._weights, self._least)

    def _parts(self, least: int | Sequence[int]) -> list[tuple[int, int]]:
        """What the draws are shared by: numbers of corpora, and the smallest clusters of each."""
        number = len(self.corpora.corpora)
        sizes = [least] * number if isinstance(least, int | str) or not isinstance(least, Sequence) else list(least)
        if not all(isinstance(size, int) and size >= 1 for size in sizes):
            raise UserError(f"min_cluster_size {least!r}: expected a whole number from 1, or several")
        if (number > 1 and len(sizes) != number) or not sizes:
            raise UserError(f"min_cluster_size {least!r}: expected one number, or {number}, one for each corpus")
        return [(shard if number > 1 else 0, size) for shard, size in enumerate(sizes)]

    def _weighted(self, weights: Sequence[float]) -> np.ndarray:
        try:
            shares = np.array(weights, dtype=float)
        except (TypeError, ValueError):
            shares = np.zeros(0)
        if shares.shape != self._units.shape or not np.isfinite(shares).all() or (shares < 0).any() or not shares.any():
            of = "corpus" if len(self._units) == len(self.corpora.corpora) else "number in min_cluster_size"
            raise UserError(
                f"weights {weights}: expected {len(self._units)} numbers from 0, one for each {of}, not all 0"
            )
        shares = np.where(self._units > 0, shares, 0.0)
        if not shares.any():
            return np.zeros_like(self._units)
        draws = np.round(self._units.sum() * shares / shares.sum()).astype(np.int64)
        return np.where((shares > 0) & (draws == 0), 1, draws)

    def __call__(self, epoch: int, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """The draws from place `start` to before `stop` of an epoch.

        Returns:
            (n,) int64, how often the corpus was gone through before, plus 2^32 times the number of the part of a single
            corpus, which makes a protein drawn again another sample;
            (n,) int64, the proteins.
        """
        slots = permutation(self.size, (self.seed, 1, epoch))(np.arange(start, min(stop, self.size)))
        shards = np.searchsorted(self._ends, slots, side="right")
        passes, proteins = np.empty_like(slots), np.empty_like(slots)
        for shard in np.unique(shards).tolist():
            rows = shards == shard
            count, draws = int(self._units[shard]), int(self._draws[shard])
            units = slots[rows] - (self._ends[shard] - draws)
            rounds = np.full_like(units, epoch)
            if draws != count:
                rounds, places = np.divmod(epoch * draws + units, count)
                for number in np.unique(rounds).tolist():
                    now = rounds == number
                    units[now] = permutation(count, (self.seed, 4, shard, number))(places[now])
            if self._groups is not None:
                first, behind = self._groups[shard][units], self._groups[shard][units + 1]
                chance = mix(mix(units.astype(np.uint64) ^ self._key(shard)) + rounds.astype(np.uint64))
                units = first + (chance % (behind - first).astype(np.uint64)).astype(np.int64)
            # a protein that is in two parts of a corpus is another sample in each
            passes[rows] = rounds + (shard << 32 if len(self.corpora.corpora) == 1 else 0)
            proteins[rows] = self._starts[shard] + self._members[shard][units]
        return passes, proteins

    def _key(self, shard: int) -> np.uint64:
        return np.random.SeedSequence((self.seed, 5, shard)).generate_state(1, np.uint64)[0]
