"""The LightningDataModule of fine-tuning: labelled proteins, split, and the probe from which training starts."""

import math
import os
from collections.abc import Sequence
from itertools import pairwise
from tempfile import TemporaryFile
from typing import Any, cast

import numpy as np
from torch.utils.data import DataLoader

from protlm.batching.samplers import Plan
from protlm.embedding.in_memory import embed
from protlm.errors import UserError
from protlm.performer import Performer
from protlm.progress import Progress, reported, summed
from protlm.supervised.fit import Fitted, layers_of, probed
from protlm.supervised.fit_options import FitOptions
from protlm.supervised.kinship import are_variants
from protlm.supervised.labels import LabelledSet, read_labels
from protlm.supervised.split import Split, split_of
from protlm.supervised.tuning.batches import LabelledBatch, LabelledBatches
from protlm.training.data import TrainingData

EVALUATED = ("valid", "test")
_STEPS, _LEAST, _MOST = 50, 1_000, 4_000
"""Steps in an epoch that the default token budget aims at, and its limits."""


def _silent(done: int, total: int) -> None:
    """Reports nothing."""


def _texts(classes: Any) -> dict[str, str]:
    """Classes of letters, some of which are digits, which Hydra reads as numbers."""
    return {str(name): str(letters) for name, letters in (classes or {}).items()}


class LabelledDataModule(TrainingData):
    """Labelled proteins in batches of similar length.

    Args:
        labels, sequences, mask, split, classes: see `read_labels`.
        target: a column or several; by default the only one that is left.
        kind: "classification", "multilabel" or "regression", or target -> kind, instead of the kind found.
        split_by, folds, clusters, identity, layers, relatives, threads: see `FitOptions`.
        max_length: in residues, of training; longer proteins are cropped at random. Others are never cropped.
        token_budget: maximum number of tokens in a training batch on one device, including padding; by default such
            that an epoch has some fifty steps, from 1,000 to 4,000.
        workers: see `TrainingData`.
        seed: of the split, the order and the crops.
    """

    def __init__(
        self,
        labels: str | None = None,
        sequences: str | None = None,
        mask: str | None = None,
        target: str | Sequence[str] | None = None,
        split: str | None = None,
        kind: Any = None,
        classes: Any = None,
        split_by: str = "auto",
        folds: int = 5,
        clusters: str | None = None,
        identity: float = 0.3,
        layers: Sequence[int] | None = None,
        relatives: bool = True,
        threads: int | None = None,
        max_length: int = 2048,
        token_budget: int | None = None,
        workers: int | str = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(workers)
        if not labels:
            raise UserError("no labels: set data.labels=TABLE, with a column for sequences and one for labels")
        for name, value in {"max_length": max_length, "token_budget": token_budget or 1}.items():
            if not isinstance(value, int) or value < 1:
                raise UserError(f"data.{name} {value!r}: expected a positive integer")
        targets = [target] if isinstance(target, str) else list(target or ())
        kinds = {"": kind} if isinstance(kind, str) else kind
        self._read = (labels, sequences, mask, targets, split, kinds, _texts(classes))
        self.options = FitOptions(
            split_by, folds, clusters, identity, layers, relatives, seed, threads, max(token_budget or 0, _MOST)
        )
        self.max_length, self._token_budget, self.seed = max_length, token_budget, seed
        self._split: Split | None = None
        self.model: Performer | None = None
        self.blocks: Sequence[str] = ()
        """Features without a model that batches have."""
        self.stored: list[np.ndarray] | None = None

    @property
    def split(self) -> Split:
        """The labelled proteins and their only round, read and split on first use."""
        if self._split is None:
            report = self._report("comparing", "proteins")
            self._split = split_of(read_labels(*self._read), self.options, report, single=True)
        return self._split

    def _report(self, label: str, unit: str) -> Progress:
        """Where the first rank reports; the others do not."""
        return _silent if self._rank()[0] else reported(label, unit)

    @property
    def labelled(self) -> LabelledSet:
        """The labelled proteins."""
        return self.split.labelled

    @property
    def token_budget(self) -> int:
        """Maximum number of tokens in a training batch."""
        if self._token_budget is not None:
            return self._token_budget
        train = np.flatnonzero(self.split.partition.final.train)
        tokens = sum(min(len(self.labelled.sequences[number]), self.max_length) + 2 for number in train)
        return min(_MOST, max(_LEAST, tokens // _STEPS))

    @property
    def fingerprints(self) -> list[str]:
        """That of the labels."""
        return [self.labelled.fingerprint]

    @property
    def training_proteins(self) -> int:
        """Number of proteins for training."""
        return int(self.split.partition.final.train.sum())

    @property
    def validates(self) -> bool:
        """True: there always is a validation part."""
        return True

    def prepare_data(self) -> None:
        """Reads and splits the labels."""
        assert self.split

    def evaluated_splits(self) -> tuple[str, ...]:
        """Validation, which calibrates probabilities, and the test."""
        return EVALUATED

    def probe(self, model: Performer) -> Fitted:
        """A probe of the frozen model, evaluated on the same proteins; of what `store` has computed, if anything."""
        return probed(self.split, model, self.options, self._report("embedding", "residues"), self.stored)

    def store(self, model: Performer) -> list[int]:
        """Computes the representations of a frozen model once, in a temporary file, instead of in every epoch.

        Returns:
            Their layers: those that a probe may read, and the last.
        """
        layers = sorted({*layers_of(model, self.options), model.config.layers})
        edges = np.cumsum([0, *map(len, self.labelled.sequences)])
        shape = (int(edges[-1]), len(layers), model.config.width)
        try:
            with TemporaryFile() as file:  # the system removes it once nothing refers to it
                if hasattr(os, "posix_fallocate"):  # otherwise a full disk would end the process later
                    os.posix_fallocate(file.fileno(), 0, 2 * math.prod(shape))
                values = np.memmap(cast("Any", file), np.float16, "w+", shape=shape)
        except OSError as error:
            raise UserError(f"no space for the representations of {shape[0]:,} residues ({error.strerror})") from error
        each = embed(model, self.labelled.sequences, self.options.token_budget, layers, None)
        advance = summed(self._report("embedding", "residues"), shape[0])
        for (first, last), x in zip(pairwise(edges.tolist()), each, strict=True):
            values[first:last] = x.reshape(len(layers), -1, shape[2]).swapaxes(0, 1)
            advance(last - first)
        self.stored = [values[first:last].swapaxes(0, 1) for first, last in pairwise(edges.tolist())]
        return layers

    def val_dataloader(self) -> list[DataLoader[LabelledBatch]]:
        return self._evaluation(EVALUATED[:1])

    def test_dataloader(self) -> list[DataLoader[LabelledBatch]]:
        return self._evaluation(EVALUATED)

    def _training_batches(self) -> LabelledBatches:
        whole = are_variants(self.labelled.sequences)  # whose sites have to stay in place
        return self._batches("train", None if whole else self.max_length)

    def _evaluation(self, splits: Sequence[str]) -> list[DataLoader[LabelledBatch]]:
        each = [self._batches(split, None, max(self.token_budget, _MOST)) for split in splits]
        return [self._loader(batches, Plan(batches, *self._rank())) for batches in each]  # type: ignore[arg-type]

    def _batches(self, split: str, max_length: int | None = None, token_budget: int | None = None) -> LabelledBatches:
        part = getattr(self.split.partition.rounds[0], split)
        start = 0 if self.model is None else self.model.config.start_id
        return LabelledBatches(
            self.labelled,
            np.flatnonzero(part),
            start,
            self.blocks,
            token_budget or self.token_budget,
            self.seed,
            max_length,
            self.stored,
        )

    def _order(self) -> dict[str, Any]:
        names = ("seed", "max_length", "token_budget")
        return {**{name: getattr(self, name) for name in names}, "labels": self.fingerprints}
