"""Proteins for a distillation: the first stage leaves out those that teach it nothing."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from protlm.batching.batches import Cursor, Key, ProteinBatches
from protlm.errors import UserError
from protlm.training.datamodule import TremblDataModule

_FIRST_PASS = 2**20
"""Number of the first pass of the first stage, so that its crops and masks differ from those of later stages."""
_TOGETHER = 1_000_000


def check_crops(match: int, block: int, max_length: int) -> None:
    """Raises a UserError for a first stage whose proteins are cropped to two blocks."""
    if match and max_length <= 2 * block:
        raise UserError(
            f"max_length {max_length:,}: at most two blocks of {block}, in which attention is exact: the stage match "
            "has nothing to learn; raise it, or lower block",
            "max_length",
            "block",
        )


class StagedBatches(ProteinBatches):
    """Batches of long proteins at first, as epoch 0, however often that takes all of them; then epochs of all proteins.

    Attributes:
        shortest: tokens of the shortest protein of epoch 0.
        matched: number of batches in epoch 0; 0 for none.
    """

    first = (0, 0, 0)
    shortest = matched = 0

    def pools(self, epoch: int, cursor: Cursor) -> Iterator[tuple[Cursor, list[Key]]]:
        number, place, done = cursor
        if not self.matched or epoch:
            for start, batches in self._pools(epoch - bool(self.matched), place):
                yield (0, start, 0), batches
            return
        while done < self.matched:
            for start, batches in self._pools(_FIRST_PASS + number, place, self.shortest):
                if batches := batches[: self.matched - done]:
                    yield (number, start, done), batches
                done += len(batches)
                if done == self.matched:
                    return
            number, place = number + 1, 0

    def long_proteins(self) -> int:
        """How many proteins of an epoch have at least `shortest` tokens."""
        found = 0
        for start in range(0, self.draws.size, _TOGETHER):
            lengths = self.corpora.lengths_of(self.draws(0, start, start + _TOGETHER)[1]) + 2
            found += int(np.count_nonzero(np.minimum(lengths, self.max_length) >= self.shortest))
        return found


class DistillationData(TremblDataModule):
    """Single proteins; in the first stage, those of more than two blocks of the student, since attention is exact else.

    Args:
        match: steps of the first stage.
        block: C of the student.
        **options: as for `TremblDataModule`.

    Raises:
        UserError: for crops of at most two blocks; before training, if no protein is longer.
    """

    batches = StagedBatches

    def __init__(self, match: int = 0, block: int = 64, **options: Any) -> None:
        super().__init__(**options)
        self.match, self.block = match, block
        check_crops(match, block, self.max_length)

    def _endless_batches(self) -> StagedBatches:
        samples: Any = self._training_batches()
        step = 0 if self.trainer is None else self.trainer.global_step
        if not self.match:
            return samples
        samples.shortest = 2 * self.block + 1
        long, total = samples.long_proteins(), samples.draws.size
        most = samples.shortest - 3
        if not long:
            raise UserError(
                f"{self.corpora}: no training protein has more than {most} residues, two blocks, in which attention is "
                "exact: the stage match has nothing to learn; give longer proteins, or set match to 0"
            )
        if long < total and step < self.match and self._rank()[0] == 0:
            print(
                f"match: leaves out {total - long:,} of {total:,} training proteins, those of at most {most} residues: "
                "within two blocks, attention is exact",
                flush=True,
            )
        together = 1 if self.trainer is None else self.trainer.accumulate_grad_batches
        samples.matched = self.match * self._rank()[1] * together
        return samples

    def _order(self) -> dict[str, Any]:
        return {**super()._order(), "match": self.match, "block": self.block}
