"""Learning-rate schedule."""

import math

from protlm.errors import UserError


class Warmup:
    """Factor of the learning rate: a linear warm-up, then constant or a decay to `floor`.

    With `decay_steps` the factor stays constant until the last steps of the run (a trapezoid). Such a run can be
    extended from the checkpoint at which its decay starts, as if it had been planned longer.

    Args:
        steps: steps of warm-up; 0 for none.
        decay: "none", "linear" or "cosine".
        floor: factor at the end of the decay.
        decay_steps: steps of decay, at the end of the run; None decays from the end of the warm-up.

    Raises:
        UserError: for a value out of range.

    >>> [Warmup(steps=2, decay="linear")(step, 6) for step in range(6)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    >>> [Warmup(steps=2, decay="linear", decay_steps=2)(step, 6) for step in range(6)]
    [0.5, 1.0, 1.0, 1.0, 1.0, 0.5]
    """

    def __init__(self, steps: int = 0, decay: str = "none", floor: float = 0.0, decay_steps: int | None = None) -> None:
        if decay not in ("none", "linear", "cosine"):
            raise UserError(f"schedule.decay {decay!r}: expected 'none', 'linear' or 'cosine'")
        if not isinstance(steps, int) or steps < 0:
            raise UserError(f"schedule.steps {steps!r}: expected a non-negative integer")
        if not isinstance(floor, int | float) or not 0 <= floor <= 1:
            raise UserError(f"schedule.floor {floor!r}: expected a number from 0 to 1")
        if decay_steps is not None and (not isinstance(decay_steps, int) or decay_steps < 1):
            raise UserError(f"schedule.decay_steps {decay_steps!r}: expected a positive integer, or null")
        self.steps, self.decay, self.floor, self.decay_steps = steps, decay, floor, decay_steps

    def __call__(self, step: int, total: int) -> float:
        """The factor at `step` of `total` optimizer steps, counted from 0."""
        if step < self.steps:
            return (step + 1) / self.steps
        if self.decay == "none":
            return 1.0
        length = max(1, total - self.steps)
        if self.decay_steps is not None:
            length = min(length, self.decay_steps)
        done = min(1.0, max(0, step - total + length) / length)
        left = 1 - done if self.decay == "linear" else (1 + math.cos(math.pi * done)) / 2
        return self.floor + (1 - self.floor) * left
