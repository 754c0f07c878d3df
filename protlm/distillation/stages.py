"""The stages of a distillation, and their learning rates."""

import math
from typing import Any, NamedTuple

from torch import nn
from torch.optim import AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from protlm.errors import UserError
from protlm.training.optimizer import checked_numbers, fused_where_possible

FEATURES = ".features."
"""In the names of the parameters of learned features."""
TUNING = ("full", "lora")
"""What is trained in the last stage: all weights, or low-rank adapters."""
ADAPTERS = "adapters."
"""How the names of the parameters of `Adapters` begin."""


class Stages(NamedTuple):
    """Numbers of optimizer steps, in order.

    >>> plan = Stages.of(4, match=2, tune=1)
    >>> plan, [plan.place(step)[0] for step in range(4)]
    (Stages(match=2, distil=1, tune=1), ['match', 'match', 'distil', 'tune'])
    """

    match: int
    distil: int
    tune: int

    @classmethod
    def of(cls, total: int, match: int, tune: int) -> "Stages":
        """The stages of a run of `total` steps.

        Raises:
            UserError: for numbers that do not fit.
        """
        for name, value in (("match", match), ("tune", tune)):
            if not isinstance(value, int) or value < 0:
                raise UserError(f"{name} {value!r}: expected a number of steps")
        if total < 1:
            raise UserError("distillation requires trainer.max_steps or max_epochs")
        if match + tune > total:
            raise UserError(f"match {match:,} and tune {tune:,}: more than {total:,} steps in all")
        return cls(match, total - match - tune, tune)

    def place(self, step: int) -> tuple[str, int, int]:
        """The stage of a step, counted from 0; the step within that stage; and the stage's number of steps."""
        for stage, count in zip(self._fields, self, strict=True):
            if step < count:
                return stage, step, count
            step -= count
        last = [stage for stage, count in zip(self._fields, self, strict=True) if count][-1]
        return last, getattr(self, last), getattr(self, last)


def check_tuning(tune: int, method: str) -> None:
    """Raises a UserError for an unknown method of the last stage, or adapters without that stage."""
    if method not in TUNING:
        raise UserError(f"tune_method {method!r}: expected one of {', '.join(TUNING)}", "tune_method")
    if method == "lora" and not tune:
        raise UserError(
            "tune_method lora: there is no last stage; set tune, the number of its steps", "tune_method", "tune"
        )


def two_rate_adamw(
    module: nn.Module,
    lr: float = 2e-5,
    features_lr: float = 2e-2,
    adapters_lr: float = 2e-4,
    betas: tuple[float, float] = (0.9, 0.98),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> AdamW:
    """AdamW (Loshchilov & Hutter 2019) with rates of their own for learned features, adapters and all other weights.

    Args:
        module: the student, or a task with a student and adapters.
        lr: of weights that come from the teacher.
        features_lr: of the features while they alone are trained; see `stage_schedule` for later.
        adapters_lr: of low-rank adapters in the last stage.
        betas, eps, weight_decay: as in `torch.optim.AdamW`.
    """
    rates = {"features": features_lr, "weights": lr, "adapters": adapters_lr}
    checked_numbers(betas, lr=lr, features_lr=features_lr, adapters_lr=adapters_lr, eps=eps, weight_decay=weight_decay)
    groups: dict[str, list[nn.Parameter]] = {part: [] for part in rates}
    for name, weight in module.named_parameters():
        groups["features" if FEATURES in name else "adapters" if name.startswith(ADAPTERS) else "weights"].append(
            weight
        )
    made: list[dict[str, Any]] = [
        {"params": weights, "lr": rates[part], "part": part} for part, weights in groups.items() if weights
    ]
    return AdamW(made, lr, betas, eps, weight_decay, fused=fused_where_possible(module))


def stage_schedule(
    optimizer: Optimizer,
    total: int,
    match: int,
    tune: int = 0,
    warmup: int = 20,
    floor: float = 0.02,
    later: float = 0.025,
) -> LambdaLR:
    """Learning rates that start anew in each stage: a linear warm-up, then a cosine to `floor`.

    Args:
        optimizer: of `two_rate_adamw`.
        total, match, tune: see `Stages.of`.
        warmup: steps, at most a fifth of the stage.
        floor: factor at the end of a stage.
        later: factor for features after the first stage.
    """
    stages = Stages.of(total, match, tune)

    def factor(step: int) -> tuple[str, float]:
        stage, done, count = stages.place(step)
        rise = max(1, min(warmup, count // 5))
        if done < rise:
            return stage, (done + 1) / rise
        share = (done - rise) / max(1, count - rise)
        return stage, floor + (1 - floor) * (1 + math.cos(math.pi * share)) / 2

    def of_features(step: int) -> float:
        stage, value = factor(step)
        return value if stage == "match" else value * later

    def of_weights(step: int) -> float:
        stage, value = factor(step)
        return 0.0 if stage == "match" else value

    def of_adapters(step: int) -> float:
        stage, value = factor(step)
        return value if stage == "tune" else 0.0

    factors = {"features": of_features, "weights": of_weights, "adapters": of_adapters}
    return LambdaLR(optimizer, [factors[group.get("part", "weights")] for group in optimizer.param_groups])
