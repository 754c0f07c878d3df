"""What happens around the steps: redrawing, seeds of dropout, stopping on a signal, progress, the learning curve."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.callbacks import Callback, RichProgressBar

from protlm.errors import UserError
from protlm.metrics import format_results
from protlm.performer import Performer
from protlm.training.task import LanguageModelTask


class RedrawFeatures(Callback):
    """Replaces the random directions of all layers every so many steps, the same on every rank.

    Draw n begins at step n x `every_n_steps`, so a resumed run draws what the uninterrupted one would have.

    Args:
        every_n_steps: optimizer steps between two draws; 0 keeps the first; None takes what suits the kind of
            attention, `PerformerConfig.redraw_every`.
        until: share of `trainer.max_steps` in which there are draws; behind it the model settles on the last ones.
    """

    def __init__(self, every_n_steps: int | None = None, until: float = 1.0) -> None:
        if every_n_steps is not None and (not isinstance(every_n_steps, int) or every_n_steps < 0):
            raise UserError(
                f"callbacks.redraw.every_n_steps {every_n_steps!r}: expected a whole number from 0, or null"
            )
        if not isinstance(until, float | int) or not 0 <= until <= 1:
            raise UserError(f"callbacks.redraw.until {until!r}: expected a number from 0 to 1")
        self.every_n_steps, self.until = every_n_steps, until
        self._interval, self._draw = 0, 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        model = self._model(pl_module)
        self._interval = model.config.redraw_every if self.every_n_steps is None else self.every_n_steps
        self._draw = model.draw_number

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if self.until < 1 and trainer.max_steps > 0:
            step = min(step, int(self.until * trainer.max_steps))
        draw = step // self._interval if self._interval else 0
        if draw != self._draw:
            if dist.is_available() and dist.is_initialized():
                self._model(pl_module).share_observations()
            self._model(pl_module).redraw(draw)
            self._draw = draw

    @staticmethod
    def _model(pl_module: pl.LightningModule) -> Performer:
        assert isinstance(pl_module, LanguageModelTask)
        return pl_module.model


class SeededSteps(Callback):
    """Seeds dropout anew for every batch, from the seed and the batch's number in the run.

    A resumed run then draws what the uninterrupted one would have, and no state of a random number generator has to be
    saved. Batches are numbered over ranks and over the parts of an accumulated gradient, in the order in which the data
    module deals them: two processes draw what one does that accumulates two batches.

    Args:
        seed: of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._step, self._part = -1, 0

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        self._part = self._part + 1 if step == self._step else 0
        self._step = step
        # Lightning counts the steps of its loggers apart, and loses one at some resumptions
        trainer.fit_loop.epoch_loop._batches_that_stepped = step
        key = (self.seed, step, self._part * trainer.world_size + trainer.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]))


class StepProgressBar(RichProgressBar):
    """Lightning's rich progress bar without epochs, since training batches have no end, and without v_num."""

    @property
    def total_train_batches(self) -> int | float:
        """All batches of the run, also those before it was resumed."""
        if self.trainer.max_steps > 0:
            return self.trainer.max_steps * self.trainer.accumulate_grad_batches
        return super().total_train_batches

    def _get_train_description(self, current_epoch: int) -> str:
        return "training".ljust(len(self.validation_description))

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Any:
        return {name: value for name, value in super().get_metrics(trainer, pl_module).items() if name != "v_num"}


class Results(Callback):
    """Prints the table of a test beside the unigram baseline, and writes it as JSON.

    Args:
        path: the JSON file.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        # here, not at the end of the test, so that the table comes behind the progress bar
        if stage == "test" and trainer.is_global_zero and isinstance(pl_module, LanguageModelTask):
            self.path.write_text(json.dumps(pl_module.results, indent=2) + "\n")
            print(format_results(pl_module.results))


class LearningCurve(Callback):
    """Draws training loss, accuracy and perplexity against steps, with the unigram baseline, as a PNG when a run ends.

    Args:
        path: the picture.
        every_n_steps: steps between two points of the training loss.
    """

    def __init__(self, path: str, every_n_steps: int = 10) -> None:
        self.path, self.every_n_steps = Path(path), every_n_steps
        self._training: list[list[float]] = []
        self._validation: list[dict[str, float]] = []

    def state_dict(self) -> dict[str, Any]:
        return {"training": self._training, "validation": self._validation}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._training, self._validation = state_dict["training"], state_dict["validation"]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % self.every_n_steps == 0 or not self._training:
            self._training.append([trainer.global_step, outputs["loss"].item()])

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            values = {
                name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("valid/")
            }
            self._validation.append({"step": trainer.global_step, **values})

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero and (self._training or self._validation):
            draw_learning_curve(self._training, self._validation, self.path)


def draw_learning_curve(training: list[list[float]], validation: list[dict[str, float]], path: Path) -> None:
    """Writes the picture.

    Args:
        training: [step, loss in nats].
        validation: "step" and valid/accuracy, valid/perplexity and the same with unigram_ before the last word.
        path: a file whose ending says the format, such as .png.
    """
    from matplotlib.figure import Figure  # no pyplot: no global state, no display

    figure = Figure(figsize=(11, 3.4), layout="constrained")
    loss, accuracy, perplexity = figure.subplots(1, 3)
    loss.plot([step for step, _ in training], [value for _, value in training], color="0.75", lw=0.8)
    smooth = _smoothed([value for _, value in training])
    loss.plot([step for step, _ in training], smooth, color="C0", lw=1.8)
    loss.set(title="training loss", ylabel="nats per residue")
    steps = [point["step"] for point in validation]
    for axes, name, factor in ((accuracy, "accuracy", 100), (perplexity, "perplexity", 1)):
        for key, style in (
            (name, {"color": "C0", "marker": "o", "ms": 3}),
            (f"unigram_{name}", {"color": "C1", "ls": "--"}),
        ):
            values = [factor * point[f"valid/{key}"] for point in validation if f"valid/{key}" in point]
            axes.plot(steps[: len(values)], values, **style, label="unigram" if "unigram" in key else "model")
        axes.set(title=f"validation {name}", ylabel="%" if name == "accuracy" else None)
        if steps:
            axes.legend(frameon=False)
    for axes in (loss, accuracy, perplexity):
        axes.set_xlabel("step")
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def _smoothed(values: list[float], keep: float = 0.9) -> list[float]:
    """Exponential moving average, corrected for its start."""
    smooth: list[float] = []
    total = weight = 0.0
    for value in values:
        total, weight = keep * total + value, keep * weight + 1
        smooth.append(total / weight)
    return smooth
