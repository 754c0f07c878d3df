"""Options that Lightning would take without a word, or refuse with a stack trace."""

from collections.abc import Mapping
from typing import Any

from protlm.errors import UserError


def check_options(seed: int, trainer: Mapping[Any, Any]) -> None:
    """Looks at numbers.

    Args:
        seed: of the run.
        trainer: options of `pytorch_lightning.Trainer`.

    Raises:
        UserError: for the first that makes no sense.
    """
    if not 0 <= seed < 2**32:
        raise UserError(f"seed {seed}: expected a whole number from 0 to 4,294,967,295")
    for name in ("max_steps", "log_every_n_steps", "accumulate_grad_batches"):
        value = trainer.get(name, 1)
        if not isinstance(value, int) or (value < 1 and (name, value) != ("max_steps", -1)):
            raise UserError(f"trainer.{name} {value}: expected a whole number from 1")
    for name in ("val_check_interval", "gradient_clip_val"):
        value = trainer.get(name)
        if isinstance(value, int | float) and (value < 0 or (value == 0 and name == "val_check_interval")):
            raise UserError(f"trainer.{name} {value}: expected a number above 0")
    if str(precision := trainer.get("precision")).startswith("16"):
        raise UserError(f"trainer.precision {precision}: expected bf16-mixed or 32-true")
