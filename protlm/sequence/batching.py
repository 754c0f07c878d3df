"""From proteins to batches: length buckets under a token budget, padding, endless deterministic order.

Everything random depends only on (seed, epoch, index of the protein), never on workers, batch or rank.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from protlm.errors import UserError
from protlm.sequence.alphabet import EOS, PAD, with_ends
from protlm.sequence.corpus import Corpus
from protlm.sequence.masking import IGNORE, Masking, next_token

_POOL = 64  # batches sorted by length together: little padding, and the order stays well mixed


class Batch(NamedTuple):
    """One batch; B sequences, L positions."""

    inputs: Tensor
    """(B, L) int64."""
    targets: Tensor
    """(B, L) int64, -100 where there is no loss."""
    scored: Tensor
    """(B, L) bool, the positions that accuracy and perplexity count."""
    key_mask: Tensor
    """(B, L) bool, false at padding."""


Key = tuple[int, np.ndarray]
"""(epoch, indices of the samples in the batch): all that is needed to make a batch, anywhere."""


class Question(NamedTuple):
    """How a sequence becomes inputs and targets: masked residues, or for a causal model the next token."""

    causal: bool
    masking: Masking

    def __call__(self, tokens: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return next_token(tokens) if self.causal else self.masking(tokens, generator)

    def for_evaluation(self) -> "Question":
        """The question whose answers are reported: every selected residue is masked."""
        return Question(self.causal, self.masking.for_evaluation())


class Batches(Dataset[Batch]):
    """Batches of one split, made from keys; what a sequence is, the subclasses say.

    Args:
        corpus: where the proteins come from.
        split: one of "train", "valid", "test", "ood".
        question: masked residues or next token.
        max_length: longest sequence in tokens.
        token_budget: most tokens in a batch, padding included.
        seed: of crops, masks and order.
    """

    def __init__(
        self, corpus: Corpus, split: str, question: Question, max_length: int, token_budget: int, seed: int
    ) -> None:
        if not 3 <= max_length <= token_budget:
            raise UserError(
                f"max_length {max_length}, token_budget {token_budget}: expected 3 <= max_length <= token_budget"
            )
        self.corpus, self.split, self.question, self.seed = corpus, split, question, seed
        self.max_length, self.token_budget = max_length, token_budget
        self.members = corpus.members(split)

    def plan(self, epoch: int) -> list[np.ndarray]:
        """The batches of one epoch, each as the indices of its sequences."""
        raise NotImplementedError

    def sequence(self, epoch: int, index: int, generator: np.random.Generator) -> np.ndarray:
        """Tokens (at most max_length,) uint8 of one sequence."""
        raise NotImplementedError

    def __getitem__(self, key: Key) -> Batch:
        epoch, indices = key
        samples = []
        for index in map(int, indices):
            generator = np.random.default_rng((self.seed, 2, epoch, index))
            samples.append(self.question(self.sequence(epoch, index, generator), generator))
        return collate(samples)


class ProteinBatches(Batches):
    """Single proteins as `<cls>` residues `<eos>`, cut at random to `max_length`, in batches of similar length."""

    def plan(self, epoch: int) -> list[np.ndarray]:
        generator = np.random.default_rng((self.seed, 1, epoch))
        order = generator.permutation(self.members)
        batches = length_buckets(np.minimum(self.corpus.lengths[order] + 2, self.max_length), self.token_budget)
        return [order[batches[i]] for i in generator.permutation(len(batches))]

    def sequence(self, epoch: int, index: int, generator: np.random.Generator) -> np.ndarray:
        tokens = with_ends(self.corpus[index])
        start = int(generator.integers(max(0, len(tokens) - self.max_length) + 1))
        return tokens[start : start + self.max_length]


class BlockBatches(Batches):
    """All proteins of a split joined by `<eos>` and cut into blocks of `max_length`, without gap or overlap.

    The order of the proteins is new in every epoch. The last, shorter block is left out in training and kept otherwise.
    """

    def __init__(
        self, corpus: Corpus, split: str, question: Question, max_length: int, token_budget: int, seed: int
    ) -> None:
        super().__init__(corpus, split, question, max_length, token_budget, seed)
        self.tokens = int(corpus.lengths[self.members].sum()) + len(self.members)
        if split == "train" and 0 < self.tokens < max_length:
            raise UserError(
                f"{corpus.path}: the train split has {self.tokens:,} tokens, not enough for one block of "
                f"{max_length:,}; lower data.max_length"
            )
        self._epoch, self._order, self._ends = -1, self.members, np.zeros(0, dtype=np.int64)

    def plan(self, epoch: int) -> list[np.ndarray]:
        whole, rest = divmod(self.tokens, self.max_length)
        blocks = whole + (rest > 1 and self.split != "train")
        order = np.random.default_rng((self.seed, 1, epoch)).permutation(blocks)
        size = self.token_budget // self.max_length
        return [order[start : start + size] for start in range(0, blocks, size)]

    def sequence(self, epoch: int, index: int, generator: np.random.Generator) -> np.ndarray:
        if epoch != self._epoch:
            self._order = np.random.default_rng((self.seed, 3, epoch)).permutation(self.members)
            self._ends = np.cumsum(self.corpus.lengths[self._order] + 1)
            self._epoch = epoch
        start = index * self.max_length
        first = int(np.searchsorted(self._ends, start, side="right"))
        last = int(np.searchsorted(self._ends, start + self.max_length, side="left"))
        begin = int(self._ends[first - 1]) if first else 0
        pieces = [part for protein in self._order[first : last + 1] for part in (self.corpus[protein], [EOS])]
        return np.concatenate(pieces).astype(np.uint8)[start - begin : start - begin + self.max_length]


class EndlessBatches(Sampler[Key]):
    """Keys of batches, epoch after epoch without end; ranks get disjoint batches, equally many.

    Args:
        samples: the dataset whose plans are followed.
        rank, ranks: this process and their number.
        start: (epoch, batch of this rank within it) to begin with, to go on where a run stopped.
    """

    def __init__(self, samples: Batches, rank: int = 0, ranks: int = 1, start: tuple[int, int] = (0, 0)) -> None:
        self.samples, self.rank, self.ranks, self.start = samples, rank, ranks, start
        self._sizes: dict[int, int] = {}

    def __iter__(self) -> Iterator[Key]:
        epoch, first = self.start
        while True:
            batches = self.samples.plan(epoch)
            if not batches:
                raise ValueError(f"{self.samples.corpus.path}: no batch in the {self.samples.split} split")
            # too few for one each: all ranks take the same ones rather than none
            share = batches[self.rank :: self.ranks][: len(batches) // self.ranks] or batches
            self._sizes[epoch] = len(share)
            for indices in share[first:]:
                yield epoch, indices
            epoch, first = epoch + 1, 0

    def place(self, consumed: int) -> tuple[int, int]:
        """The `start` of a run that goes on after `consumed` batches of this one."""
        epoch, batch = self.start[0], self.start[1] + consumed
        while epoch in self._sizes and batch >= self._sizes[epoch]:
            batch -= self._sizes[epoch]
            epoch += 1
        return epoch, batch


def length_buckets(lengths: np.ndarray, token_budget: int) -> list[np.ndarray]:
    """Groups sequences of similar length so that number x longest stays within the budget.

    Pools of about 64 batches, taken in the order given, are sorted by length and cut: sequences are mixed within a pool
    only, so a shuffled order stays shuffled, and padding stays small.

    Args:
        lengths: (n,) integers, in tokens.
        token_budget: most tokens in a batch, padding included; a longer sequence gets a batch of its own.

    Returns:
        Indices into `lengths`, each exactly once.
    """
    pools = np.cumsum(lengths) // (_POOL * token_budget)
    batches = []
    for pool in np.split(np.arange(len(lengths)), np.flatnonzero(np.diff(pools)) + 1):
        pool = pool[np.argsort(lengths[pool], kind="stable")[::-1]]
        while len(pool):
            count = max(1, token_budget // int(lengths[pool[0]]))
            batches.append(pool[:count])
            pool = pool[count:]
    return batches


def collate(samples: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Batch:
    """Pads (inputs, targets, scored) of several sequences to the longest."""
    inputs, targets, scored = (
        torch.from_numpy(pad([sample[part] for sample in samples], value))
        for part, value in enumerate((PAD, IGNORE, False))
    )
    return Batch(inputs, targets, scored, inputs != PAD)


def pad(arrays: list[np.ndarray], value: int | bool) -> np.ndarray:
    """Arrays (n_i,) of one dtype as rows of one (B, max n_i), filled up with `value` at the right."""
    rows = np.full((len(arrays), max(map(len, arrays))), value, dtype=arrays[0].dtype)
    for row, array in zip(rows, arrays, strict=True):
        row[: len(array)] = array
    return rows
