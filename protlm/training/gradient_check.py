"""Steps whose gradient is not finite: skipped within a limit, with a message that names their proteins."""

import sys
from collections.abc import Sequence

import pytorch_lightning as pl
import torch.distributed as dist
from torch import Tensor

from protlm.batching.batches import Batch
from protlm.errors import UserError
from protlm.training.checkpoints import TrainingCheckpoint, stop_all

_NAMED = 12  # proteins of a batch named in a message


class GradientCheck:
    """Skips at most `limit` consecutive steps with a non-finite gradient; then stops the run before its next step.

    `skipped` is the number of steps skipped so far.
    """

    def __init__(self, limit: int = 0) -> None:
        if not isinstance(limit, int) or limit < 0:
            raise UserError(f"task.skip_nonfinite {limit!r}: expected a non-negative integer")
        self.limit, self.skipped = limit, 0
        self._consecutive = 0
        self._losses: list[tuple[Tensor, Batch]] = []

    def add(self, loss: Tensor, batch: Batch) -> None:
        """Remembers a batch of the current step and its loss, for the error message."""
        self._losses.append((loss.detach(), batch))

    def finite(self, norm: Tensor, trainer: pl.Trainer) -> bool:
        """Whether the gradient is finite, by its norm, which all ranks share (unlike the losses); all ranks call it.

        Raises a UserError with the step, the proteins and the last checkpoint if the limit is reached.
        """
        losses, self._losses = self._losses, []
        if norm.isfinite():
            self._consecutive = 0
            return True
        self.skipped, self._consecutive = self.skipped + 1, self._consecutive + 1
        message = f"step {trainer.global_step + 1:,}: the gradient is not finite; {self._batches(losses, trainer)}"
        if self._consecutive > self.limit:
            saved = next((one.saved for one in trainer.callbacks if isinstance(one, TrainingCheckpoint)), None)  # type: ignore[attr-defined]
            advice = "Lower optimizer.lr, or resume from it with task.skip_nonfinite=10 to skip such steps"
            stop_all(trainer, UserError(f"{message}. Last good checkpoint: {saved or 'none yet'}. {advice}"))
        if trainer.is_global_zero:
            print(f"skipped {message}", file=sys.stderr, flush=True)
        return False

    def state(self) -> list[int]:
        """What a checkpoint stores: steps skipped in total and consecutively."""
        return [self.skipped, self._consecutive]

    def load_state(self, state: Sequence[int]) -> None:
        """Restores `state`."""
        self.skipped, self._consecutive = state

    @staticmethod
    def _batches(losses: list[tuple[Tensor, Batch]], trainer: pl.Trainer) -> str:
        """Losses and proteins of the batches of all ranks whose loss is not finite, or of all batches if all are."""
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
