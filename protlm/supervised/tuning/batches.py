"""Batches of labelled proteins, planned like those of pre-training.

Legend: B proteins, L tokens of the longest, with both ends; K classes; S layers of width D.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from protlm.batching.batches import POOL, Cursor, Key, length_buckets
from protlm.sequence.alphabet import PAD, encode, with_ends
from protlm.supervised.features import COMPOSITION, SITES, WINDOW, composition, sites, window
from protlm.supervised.labels import LabelledSet
from protlm.supervised.target import Target

MISSING = -100
"""Class of a protein or residue without a label; missing values and labels of several classes are NaN."""
_OF_SEQUENCE = {COMPOSITION: composition, WINDOW: window, SITES: sites}


class LabelledBatch(NamedTuple):
    """B proteins."""

    inputs: Tensor
    """(B, L) int64 tokens."""
    key_mask: Tensor
    """(B, L) bool, false at padding."""
    residues: Tensor
    """(B, L) bool, true at residues: neither ends nor padding."""
    labels: tuple[Tensor, ...]
    """Of each target: (B,) int64 classes, (B,) float32 values or (B, K) float32 0 or 1; of residues (B, L, ...)."""
    blocks: dict[str, Tensor]
    """Features that need no model: (B, d), or of residues (B, L, d)."""
    stored: Tensor | None = None
    """(B, S, L, D) float32, representations of a frozen model, if they were computed before."""
    segments: Any = None
    key: np.ndarray | None = None
    """(B, 2) int64, pass and protein."""


class LabelledBatches(Dataset[LabelledBatch]):
    """Batches of some labelled proteins.

    Args:
        labelled: all proteins.
        proteins: numbers of those to use.
        start: token before each protein.
        blocks: names of features without a model.
        token_budget: maximum number of tokens in a batch, including padding.
        seed: of order and crops.
        max_length: in residues; longer proteins are cropped at random. None does not crop.
        stored: representations by number of the protein, (S, length, D) each.
    """

    first: Cursor = (0,)

    def __init__(
        self,
        labelled: LabelledSet,
        proteins: np.ndarray,
        start: int,
        blocks: Sequence[str],
        token_budget: int,
        seed: int,
        max_length: int | None = None,
        stored: Sequence[np.ndarray] | None = None,
    ) -> None:
        self.corpora, self.split = labelled.source, "training"  # for messages
        self.labelled, self.proteins, self.blocks = labelled, proteins, list(blocks)
        self.token_budget, self.seed, self.max_length, self.stored = token_budget, seed, max_length, stored
        self.start = start
        lengths = np.array([len(labelled.sequences[number]) for number in proteins], dtype=np.int64)
        self.lengths = (lengths if max_length is None else np.minimum(lengths, max_length)) + 2
        rows = np.arange(len(labelled.ids) + 1)
        self.edges = [np.searchsorted(target.owner, rows) for target in labelled.targets]

    def pools(self, epoch: int, cursor: Cursor) -> Iterator[tuple[Cursor, list[Key]]]:
        """The pools of an epoch from `cursor`: the start and the batches of each."""
        order = np.random.default_rng((self.seed, 7, epoch)).permutation(len(self.proteins))
        size = max(1, round(POOL * self.token_budget / self.lengths.mean()))
        for start in range(cursor[0], len(order), size):
            rows = order[start : start + size]
            batches = length_buckets(self.lengths[rows], self.token_budget)
            shuffled = np.random.default_rng((self.seed, 8, epoch, start)).permutation(len(batches))
            keys = np.stack((np.full(len(rows), epoch), self.proteins[rows]), axis=1)
            yield (start,), [keys[batches[number]] for number in shuffled]

    def plan(self, epoch: int) -> Iterator[Key]:
        """All batches of one epoch."""
        for _, batches in self.pools(epoch, self.first):
            yield from batches

    def count(self, pools: int | None = None) -> tuple[int, bool]:
        """Number of batches in the first epoch, and that it is exact."""
        return sum(1 for _ in self.plan(0)), True

    def names(self, key: Key) -> list[str]:
        """Identifiers of the proteins of a batch."""
        return [self.labelled.ids[number] for number in key[:, 1].tolist()]

    def __getitem__(self, key: Key) -> LabelledBatch:
        if key[0, 0] < 0:  # not scored; see `Plan`
            batch = self[~key]
            return batch._replace(labels=tuple(torch.full_like(one, _missing(one)) for one in batch.labels))
        items = [self._protein(*row) for row in key.tolist()]
        length = max(len(tokens) for tokens, *_ in items)
        inputs = _stacked([tokens for tokens, *_ in items], length, PAD).long()
        inner = [np.arange(len(tokens)) for tokens, *_ in items]
        inner = [(one > 0) & (one < len(one) - 1) for one in inner]
        labels = tuple(
            _stacked([own[number] for _, own, *_ in items], length if target.per_residue else 0, *_filling(target))
            for number, target in enumerate(self.labelled.targets)
        )
        blocks = {
            name: _stacked([own[name] for *_, own, _ in items], length if name == WINDOW else 0, 0.0)
            for name in self.blocks
        }
        stored = None
        if self.stored is not None:
            rows = [own for *_, own in items]
            stored = torch.stack([torch.nn.functional.pad(x, (0, 0, 1, length - 1 - x.shape[1])) for x in rows])
        residues = _stacked(inner, length, False)
        return LabelledBatch(inputs, inputs != PAD, residues, labels, blocks, stored, None, key)

    def _protein(self, epoch: int, number: int) -> tuple[np.ndarray, list[np.ndarray], dict[str, np.ndarray], Any]:
        """Tokens, labels of each target, blocks and stored representations of a protein, perhaps cropped."""
        sequence, start = self.labelled.sequences[number], 0
        length = min(len(sequence), self.max_length or len(sequence))
        if length < len(sequence):
            start = int(np.random.default_rng((self.seed, 9, epoch, number)).integers(len(sequence) - length + 1))
        crop = slice(start, start + length)
        tokens = with_ends(encode(sequence[crop]), self.start)
        labels = []
        for target, edges in zip(self.labelled.targets, self.edges, strict=True):
            rows, (missing, dtype) = slice(edges[number], edges[number + 1]), _filling(target)
            size = len(sequence) if target.per_residue else 1
            own = np.full((size, *target.y.shape[1:]), missing, dtype=dtype)
            own[target.position[rows]] = target.y[rows]
            labels.append(np.pad(own[crop], (1, 1), constant_values=missing) if target.per_residue else own[0])
        blocks = {name: _OF_SEQUENCE[name](sequence) for name in self.blocks}
        if WINDOW in blocks:
            blocks[WINDOW] = np.pad(blocks[WINDOW][crop], ((1, 1), (0, 0)))
        stored = None if self.stored is None else torch.from_numpy(np.array(self.stored[number][:, crop])).float()
        return tokens, labels, blocks, stored


def _filling(target: Target) -> tuple[Any, Any]:
    """What a missing label of a target is, and the dtype of its labels."""
    return (MISSING, np.int64) if target.kind == "classification" else (np.nan, np.float32)


def _missing(labels: Tensor) -> float:
    return float("nan") if labels.is_floating_point() else MISSING


def _stacked(arrays: Sequence[np.ndarray], length: int, value: Any, dtype: Any = None) -> Tensor:
    """(B, ...) of arrays of equal shape, or (B, length, ...) of those whose first axis is padded with `value`."""
    if not length:
        return torch.from_numpy(np.stack([np.asarray(array, dtype=dtype) for array in arrays]))
    rows = np.full((len(arrays), length, *arrays[0].shape[1:]), value, dtype=dtype or arrays[0].dtype)
    for row, array in zip(rows, arrays, strict=True):
        row[: len(array)] = array
    return torch.from_numpy(rows)
