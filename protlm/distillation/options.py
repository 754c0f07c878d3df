"""How a student is made and trained."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protlm.distillation.budget import Budget
from protlm.distillation.choice import check_measure
from protlm.distillation.data import check_crops
from protlm.distillation.stages import Stages, check_tuning
from protlm.errors import UserError
from protlm.inference.engine import PRECISIONS

_OFTEN, _MOST = 250, 40  # steps between validations, at most, and number of validations


@dataclass(frozen=True)
class LineariseOptions:
    """How a student is made and trained.

    Attributes:
        steps, match, tune: of training in all, its first ones and its last ones; see `DistillationTask`.
        tune_method: "full" or "lora", what the last steps train.
        features, block, map: see `student_of`.
        exact_heads, exact_layers, window_heads, window_layers: shares without learned features; see `Budget`.
        choose_by: how they are chosen; see `chosen_heads`.
        max_length: in tokens; longer proteins are cropped at random.
        token_budget: maximum number of tokens in a batch.
        clusters: table of MMseqs2 (representative, tab, member); proteins of one cluster are in one part of the data.
        seed: of the order of proteins, crops and masks.
        precision: "float32", or "bfloat16" for mixed precision.
        device: "auto", "cpu", "cuda", "cuda:1" or "mps".
        attention_backend: of training; see `Performer.use_backend`.

    Raises:
        UserError: for options out of range.
    """

    steps: int = 2000
    match: int = 1000
    tune: int = 0
    tune_method: str = "full"
    features: int = 64
    block: int = 64
    map: str = "positive"
    exact_heads: float = 0.0
    exact_layers: float = 0.0
    window_heads: float = 0.0
    window_layers: float = 0.0
    choose_by: str = "error"
    max_length: int = 1024
    token_budget: int = 2048
    clusters: str | Path | None = None
    seed: int = 1
    precision: str = "float32"
    device: str = "auto"
    attention_backend: str = "auto"

    def __post_init__(self) -> None:
        check_measure(self.choose_by)
        _ = self.budget
        Stages.of(self.steps, self.match, self.tune)
        check_tuning(self.tune, self.tune_method)
        check_crops(self.match, self.block, self.max_length)
        if self.max_length > self.token_budget:
            raise UserError(
                f"max_length {self.max_length:,}: more than token_budget, {self.token_budget:,}",
                "max_length",
                "token_budget",
            )
        if self.precision not in PRECISIONS:
            raise UserError(f"precision {self.precision!r}: expected one of {', '.join(PRECISIONS)}", "precision")

    @property
    def budget(self) -> Budget:
        """How many heads have no learned features."""
        return Budget(self.exact_heads, self.exact_layers, self.window_heads, self.window_layers)

    @property
    def of_student(self) -> dict[str, Any]:
        """Arguments of `student_of`."""
        return {"map": self.map, "block": self.block, "num_features": self.features}

    @property
    def validation_interval(self) -> int:
        """Steps from one validation to the next: at the end of each stage, where that is not too often."""
        common = math.gcd(self.steps, self.match, self.tune)
        fitting = max(step for step in range(1, common + 1) if common % step == 0 and step <= _OFTEN)
        return fitting if self.steps // fitting <= _MOST else min(_OFTEN, self.steps)

    @property
    def named(self) -> dict[str, Any]:
        """Options of `python -m protlm.train +experiment=linearise` by name, less the heads that are chosen."""
        kind, _, number = self.device.partition(":")
        found = {f"model.{name}": value for name, value in self.of_student.items()}
        found |= {"trainer.max_steps": self.steps, "task.match": self.match, "task.tune": self.tune}
        found["task.tune_method"] = self.tune_method
        found |= {"data.max_length": self.max_length, "data.token_budget": self.token_budget, "seed": self.seed}
        found |= {"trainer.accelerator": kind, "trainer.devices": [int(number)] if number.isdigit() else 1}
        found["trainer.val_check_interval"] = self.validation_interval
        found["trainer.precision"] = "bf16-mixed" if self.precision == "bfloat16" else "32-true"
        if self.attention_backend != "auto":  # an interrupted run of an earlier version has no such option
            found["task.attention_backend"] = self.attention_backend
        if self.clusters is not None:
            found |= {"data.clusters": str(Path(self.clusters).resolve()), "data.split_by": "cluster"}
        return found
