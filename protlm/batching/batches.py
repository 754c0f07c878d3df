"""From draws to batches: length buckets under a token budget, padding, blocks.

All randomness depends only on (seed, epoch, index), never on worker, batch or rank. Batches are planned pool by pool,
so memory does not grow with the corpus.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from protlm.batching.masking import IGNORE, Masking, next_token
from protlm.batching.randomness import KeyedGenerator
from protlm.batching.sampling import Draws
from protlm.corpus.reader import Corpora, Corpus
from protlm.errors import UserError
from protlm.sequence.alphabet import CLS, EOS, PAD
from protlm.sequence.alphabets import PROTEIN
from protlm.sequence.letters import Alphabet

POOL = 64
"""Batches planned together: a uniform draw from the epoch is sorted by length and cut into batches, which are shuffled.
A larger pool needs less padding and mixes lengths over more steps."""


class Batch(NamedTuple):
    """One batch; B sequences, L positions."""

    inputs: Tensor
    """(B, L) int64."""
    targets: Tensor
    """(B, L) int64, -100 at positions without loss."""
    scored: Tensor
    """(B, L) bool, the positions counted in accuracy and perplexity."""
    key_mask: Tensor
    """(B, L) bool, false at padding."""
    segments: Any = None
    """(B, L) int64, protein number within the row if attention must not cross proteins; else None. In a packed batch,
    the boundaries of the sequences of its only row, a `protlm.performer.segments.Packed`."""
    key: np.ndarray | None = None
    """(B, 2) or (B, 4) int64, what the batch was made from, see `Batches.names`; stays on the CPU."""


Key = np.ndarray
"""(B, 2) or (B, 4) int64, one row per sequence: enough to make the batch in any process."""

Cursor = tuple[int, ...]
"""Start of a pool within its epoch; (0,) or (0, 0, 0) is the start of the epoch."""


class Objective(NamedTuple):
    """The training objective: masked language modelling, or next-token prediction for a causal model."""

    causal: bool
    masking: Masking

    def __call__(
        self, tokens: np.ndarray, generator: np.random.Generator, alphabet: Alphabet = PROTEIN
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return next_token(tokens, alphabet) if self.causal else self.masking(tokens, generator, alphabet)

    def for_evaluation(self) -> "Objective":
        """The objective for reported metrics: every selected residue is masked."""
        return Objective(self.causal, self.masking.for_evaluation())


def check_sizes(max_length: int, token_budget: int) -> None:
    """Raises a UserError if the longest sequence does not fit into a batch, or has no room for a residue."""
    if not 3 <= max_length <= token_budget:
        expected = f"expected 3 to {token_budget}; for longer sequences, raise token_budget"
        raise UserError(f"max_length {max_length}: {expected}", "max_length", "token_budget")


class Batches(Dataset[Batch]):
    """Batches of one split, made from keys; subclasses define a sequence.

    Args:
        corpus: the source of the proteins.
        split: one of "train", "valid", "test", "ood".
        objective: masked language modelling or next-token prediction.
        max_length: maximum length of a sequence, in tokens.
        token_budget: maximum number of tokens in a batch, including padding.
        seed: of order, crops and masks.
        sample_by, weights, min_cluster_size: see `Draws`.
        reverse_complement: read every other sequence, at random, on the opposite strand.

    Attributes:
        start: the token that begins a sequence; of the class, that of proteins.
    """

    first: Cursor
    start: int

    def __init__(
        self,
        corpus: Corpus | Corpora,
        split: str,
        objective: Objective,
        max_length: int,
        token_budget: int,
        seed: int,
        sample_by: str = "protein",
        weights: Sequence[float] | None = None,
        min_cluster_size: int | Sequence[int] = 1,
        reverse_complement: bool = False,
    ) -> None:
        check_sizes(max_length, token_budget)
        self.corpora = corpus if isinstance(corpus, Corpora) else Corpora([corpus])
        self.alphabet, self.reverse_complement = self.corpora.alphabet, reverse_complement
        self.start = self.start_of(self.alphabet)
        if reverse_complement:
            _ = self.alphabet.complements  # raises for an alphabet without
        self.split, self.objective, self.seed = split, objective, seed
        self.max_length, self.token_budget = max_length, token_budget
        self.draws = Draws(self.corpora, split, seed, sample_by, weights, min_cluster_size)
        proteins, residues = self.corpora.count(split)
        self.mean_length = residues / max(1, proteins)
        self._chance = KeyedGenerator(seed, 2)

    @classmethod
    def start_of(cls, alphabet: Alphabet) -> int:
        """The token that begins a sequence of an alphabet."""
        raise NotImplementedError

    def pools(self, epoch: int, cursor: Cursor) -> Iterator[tuple[Cursor, list[Key]]]:
        """The pools of an epoch starting at `cursor`: the start and the batches of each."""
        raise NotImplementedError

    def sequence(self, key: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
        """Tokens (at most max_length,) uint8 of the sequence of one key row."""
        raise NotImplementedError

    def plan(self, epoch: int) -> Iterator[Key]:
        """All batches of one epoch."""
        for _, batches in self.pools(epoch, self.first):
            yield from batches

    def count(self, pools: int | None = None) -> tuple[int, bool]:
        """Number of batches in the first epoch, and whether it is exact.

        `pools` is the maximum number of pools to plan; the rest of the epoch is estimated from them.
        """
        total = 0
        for number, (cursor, batches) in enumerate(self.pools(0, self.first)):
            if number == pools:
                draw = cursor[-2:][0]  # the first of the pool
                return round(total * self.draws.size / draw), False
            total += len(batches)
        return total, True

    def __getitem__(self, key: Key) -> Batch:
        if key[0, 0] < 0:  # not scored; see `Plan`
            batch = self[~key]
            return batch._replace(targets=torch.full_like(batch.targets, IGNORE), scored=torch.zeros_like(batch.scored))
        self.corpora.check_unchanged()
        samples = []
        for row in key.tolist():
            generator = self._chance(row[0], row[1])
            samples.append(self.objective(self.sequence(row, generator), generator, self.alphabet))
        return collate(samples, self.alphabet.pad)._replace(key=key)

    def _opposite(self, generator: np.random.Generator) -> bool:
        """Whether to read the opposite strand of a sequence; draws nothing unless there is a choice."""
        return self.reverse_complement and generator.random() < 0.5

    def names(self, key: Key) -> list[str]:
        """Identifiers of the sequences of a batch: of the protein, or of the first protein of each block."""
        raise NotImplementedError


class ProteinBatches(Batches):
    """Single proteins as `<cls>` residues `<eos>`, cropped at random to `max_length`, in batches of similar length.

    A row of a key is (pass, protein).
    """

    first = (0,)
    start = CLS

    @classmethod
    def start_of(cls, alphabet: Alphabet) -> int:
        return alphabet.cls

    def pools(self, epoch: int, cursor: Cursor) -> Iterator[tuple[Cursor, list[Key]]]:
        for start, batches in self._pools(epoch, cursor[0]):
            yield (start,), batches

    def _pools(self, epoch: int, first: int, shortest: int = 0) -> Iterator[tuple[int, list[Key]]]:
        """The pools from draw `first`, less sequences of fewer tokens than `shortest`."""
        size = max(1, round(POOL * self.token_budget / min(self.mean_length + 2, self.max_length)))
        for start in range(first, self.draws.size, size):
            passes, proteins = self.draws(epoch, start, start + size)
            lengths = np.minimum(self.corpora.lengths_of(proteins) + 2, self.max_length)
            kept = lengths >= shortest
            rows, lengths = np.stack((passes, proteins), axis=1)[kept], lengths[kept]
            batches = length_buckets(lengths, self.token_budget)
            order = np.random.default_rng((self.seed, 6, epoch, start)).permutation(len(batches))
            yield start, [rows[batches[i]] for i in order]

    def sequence(self, key: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
        letters = self.corpora[key[1]]
        first = int(generator.integers(max(0, len(letters) + 2 - self.max_length) + 1))
        # only the part of a record that is used is copied: it may have a million letters
        begin, end = max(0, first - 1), min(len(letters), first + self.max_length - 1)
        if self._opposite(generator):
            part = self.alphabet.reverse_complement(letters[len(letters) - end : len(letters) - begin])
        else:
            part = letters[begin:end]
        framed = self.alphabet.with_ends(part, self.start)
        return framed[int(first > 0) :][: self.max_length]

    def names(self, key: Key) -> list[str]:
        return [self.corpora.id(protein) for protein in key[:, 1].tolist()]


class BlockBatches(Batches):
    """All proteins of a split joined by `<eos>` and cut into blocks of `max_length`, without gap or overlap.

    Proteins are reshuffled every epoch. The last, shorter block is dropped in training and kept otherwise. A row of a
    key is (epoch, block, first draw, number of its tokens that belong to the previous block).

    Args:
        of_batches, more_of_batches: those of `Batches`.
        separate: number the proteins of a block, so that attention can be restricted to each.
    """

    first = (0, 0, 0)
    start = EOS

    @classmethod
    def start_of(cls, alphabet: Alphabet) -> int:
        return alphabet.eos

    def __init__(self, *of_batches: Any, separate: bool = False, **more_of_batches: Any) -> None:
        super().__init__(*of_batches, **more_of_batches)
        self.separate = separate
        tokens = sum(self.corpora.count(self.split))
        if self.split == "train" and 0 < tokens < self.max_length:
            raise UserError(
                f"{self.corpora}: the train split has {tokens:,} tokens, not enough for a block of "
                f"{self.max_length:,}; lower data.max_length"
            )

    def pools(self, epoch: int, cursor: Cursor) -> Iterator[tuple[Cursor, list[Key]]]:
        size = self.token_budget // self.max_length  # blocks in a batch
        block, draw, offset = cursor
        while draw < self.draws.size:
            begins, ends = self._stream(epoch, draw, offset + POOL * size * self.max_length)
            count = min(POOL * size, (int(ends[-1]) - offset) // self.max_length)
            last = draw + len(ends) >= self.draws.size
            rest = int(ends[-1]) - offset - count * self.max_length
            partial = last and count < POOL * size and rest > 1 and self.split != "train"
            starts = offset + self.max_length * np.arange(count + 1)
            first = np.searchsorted(ends, starts, side="right")
            inside = starts - begins[np.minimum(first, len(begins) - 1)]
            rows = np.stack((np.full_like(starts, epoch), block + np.arange(count + 1), draw + first, inside), axis=1)
            blocks = rows[: count + partial]
            blocks = blocks[np.random.default_rng((self.seed, 6, epoch, block)).permutation(len(blocks))]
            if len(blocks):
                yield (block, draw, offset), [blocks[i : i + size] for i in range(0, len(blocks), size)]
            if last and count < POOL * size:
                return
            block, draw, offset = block + count, int(rows[count, 2]), int(rows[count, 3])

    def _stream(self, epoch: int, draw: int, tokens: int) -> tuple[np.ndarray, np.ndarray]:
        """Where the draws from `draw` begin and end in the stream of tokens, for at least `tokens` tokens."""
        ends = np.zeros(0, dtype=np.int64)
        while draw + len(ends) < self.draws.size and (not len(ends) or ends[-1] <= tokens):
            missing = tokens - (int(ends[-1]) if len(ends) else 0)
            more = 8 + int(1.1 * missing / (self.mean_length + 1))
            start = draw + len(ends)
            _, proteins = self.draws(epoch, start, start + more)
            before = ends[-1] if len(ends) else 0
            ends = np.concatenate((ends, before + np.cumsum(self.corpora.lengths_of(proteins) + 1)))
        return np.concatenate(([0], ends[:-1])), ends

    def sequence(self, key: tuple[int, ...], generator: np.random.Generator) -> np.ndarray:
        epoch, _, draw, offset = key
        pieces: list[np.ndarray] = []
        end = np.array([self.alphabet.eos], dtype=self.alphabet.dtype)
        missing = offset + self.max_length
        while missing > 0 and draw < self.draws.size:
            more = 4 + int(missing / (self.mean_length + 1))
            for protein in self.draws(epoch, draw, draw + more)[1].tolist():
                tokens = self.corpora[protein]
                pieces.append(tokens)
                pieces.append(end)
                missing -= len(tokens) + 1
                if missing <= 0:
                    break
            draw += more
        block = np.concatenate(pieces)[offset : offset + self.max_length]
        return self.alphabet.reverse_complement(block) if self._opposite(generator) else block

    def names(self, key: Key) -> list[str]:
        first = [(block, int(self.draws(epoch, draw, draw + 1)[1][0])) for epoch, block, draw, _ in key.tolist()]
        return [f"block {block:,} (from {self.corpora.id(protein)})" for block, protein in first]

    def __getitem__(self, key: Key) -> Batch:
        batch = super().__getitem__(key)
        if not self.separate:
            return batch
        ends = (batch.inputs == self.alphabet.eos).long()
        return batch._replace(segments=ends.cumsum(1) - ends)


def length_buckets(lengths: np.ndarray, token_budget: int) -> list[np.ndarray]:
    """Groups sequences of similar length (n,) so that their number times the longest stays within the budget.

    Returns indices into `lengths`, each once. A sequence longer than the budget gets a batch of its own.
    """
    order = np.argsort(lengths, kind="stable")[::-1]
    longest = lengths[order].tolist()
    batches, start = [], 0
    while start < len(order):
        count = max(1, token_budget // longest[start])
        batches.append(order[start : start + count])
        start += count
    return batches


def collate(samples: list[tuple[np.ndarray, np.ndarray, np.ndarray]], padding: int = PAD) -> Batch:
    """Pads (inputs, targets, scored) of several sequences to the longest and stacks them."""
    inputs, targets, scored = (
        torch.from_numpy(pad([sample[part] for sample in samples], value))
        for part, value in enumerate((padding, IGNORE, False))
    )
    return Batch(inputs, targets, scored, inputs != padding)


def pad(arrays: list[np.ndarray], value: int | bool) -> np.ndarray:
    """Stacks arrays (n_i,) of one dtype into (B, max n_i), padded with `value` on the right."""
    rows = np.full((len(arrays), max(map(len, arrays))), value, dtype=arrays[0].dtype)
    for row, array in zip(rows, arrays, strict=True):
        row[: len(array)] = array
    return rows
