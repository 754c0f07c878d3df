"""What happens at a gradient that is not finite: the run stops before it harms the weights, or leaves the step out."""

import sys
from collections.abc import Sequence

import pytorch_lightning as pl
import torch.distributed as dist
from torch import Tensor

from protlm.batching.batches import Batch
from protlm.errors import UserError
from protlm.training.checkpoints import TrainingCheckpoint, stop_all

_NAMED = 12  # sequences of a batch in a message


class FiniteSteps:
    """Watches over the gradient of each step.

    Args:
        limit: so many steps in a row may be left out; with one more, the run stops.

    Attributes:
        skipped: steps that were left out in all.
    """

    def __init__(self, limit: int = 0) -> None:
        if not isinstance(limit, int) or limit < 0:
            raise UserError(f"task.skip_nonfinite {limit!r}: expected a whole number from 0")
        self.limit, self.skipped = limit, 0
        self._in_row = 0
        self._losses: list[tuple[Tensor, Batch]] = []

    def note(self, loss: Tensor, batch: Batch) -> None:
        """Takes the loss of one batch of the coming step."""
        self._losses.append((loss.detach(), batch))

    def check(self, norm: Tensor, trainer: pl.Trainer) -> bool:
        """Whether to take the step; called on all ranks.

        Args:
            norm: of the gradient; the same on all ranks, unlike the losses.
            trainer: knows the step and the checkpoint.

        Raises:
            UserError: if it is not finite once too often; names step, sequences and the last checkpoint.
        """
        losses, self._losses = self._losses, []
        if norm.isfinite():
            self._in_row = 0
            return True
        self.skipped, self._in_row = self.skipped + 1, self._in_row + 1
        told = f"step {trainer.global_step + 1:,}: the gradient is not finite; {self._batches(losses, trainer)}"
        if self._in_row > self.limit:
            saved = next((one.saved for one in trainer.callbacks if isinstance(one, TrainingCheckpoint)), None)  # type: ignore[attr-defined]
            stop_all(
                trainer,
                UserError(
                    f"{told}. Last good checkpoint: {saved or 'none yet'}. Lower optimizer.lr, or go on from there "
                    "with task.skip_nonfinite=10, which leaves such steps out"
                ),
            )
        if trainer.is_global_zero:
            print(f"left out {told}", file=sys.stderr, flush=True)
        return False

    def state(self) -> list[int]:
        """What a checkpoint keeps."""
        return [self.skipped, self._in_row]

    def go_on(self, state: Sequence[int]) -> None:
        """Takes what a checkpoint kept."""
        self.skipped, self._in_row = state

    @staticmethod
    def _batches(losses: list[tuple[Tensor, Batch]], trainer: pl.Trainer) -> str:
        """Loss and content of the batches whose loss is not finite, or of all, of all ranks."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        mine = [(loss.item(), bool(loss.isfinite()), data.names(batch)) for loss, batch in losses]
        entries = [mine]
        if dist.is_available() and dist.is_initialized():
            entries = [mine] * dist.get_world_size()
            dist.all_gather_object(entries, mine)
        everything = [entry for one in entries for entry in one]
        odd = [entry for entry in everything if not entry[1]] or everything
        return "; ".join(
            f"loss {loss:g} on {', '.join(names[:_NAMED])}" + f" and {len(names) - _NAMED} more" * (len(names) > _NAMED)
            for loss, _, names in odd
        )
