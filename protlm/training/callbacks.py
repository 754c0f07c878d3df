"""Callbacks: redrawing features, seeding dropout, throughput, results, learning curve."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from protlm.batching.batches import Batch
from protlm.errors import UserError
from protlm.files import atomic_output
from protlm.metrics import format_metrics
from protlm.performer import Performer
from protlm.performer.cost import flops_per_token
from protlm.performer.segments import Packed
from protlm.sequence.alphabets import alphabet_of
from protlm.strict_json import dumps
from protlm.training.base_task import TrainingTask
from protlm.training.ranks import reduced


class RedrawFeatures(Callback):
    """Redraws the random directions of all layers at regular intervals, identically on every rank.

    Draw n starts at step n x `every_n_steps`, so a resumed run has the same draws as an uninterrupted one.

    Args:
        every_n_steps: optimizer steps between two draws; 0 keeps the first draw; None uses the default of the
            attention kind, `PerformerConfig.redraw_every`.
        until: fraction of `trainer.max_steps` after which the directions no longer change.
    """

    def __init__(self, every_n_steps: int | None = None, until: float = 1.0) -> None:
        if every_n_steps is not None and (not isinstance(every_n_steps, int) or every_n_steps < 0):
            name = f"callbacks.redraw.every_n_steps {every_n_steps!r}"
            raise UserError(f"{name}: expected a non-negative integer, or null")
        if not isinstance(until, float | int) or not 0 <= until <= 1:
            raise UserError(f"callbacks.redraw.until {until!r}: expected a number from 0 to 1")
        self.every_n_steps, self.until = every_n_steps, until
        self._interval, self._draw = 0, 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        model = self._model(pl_module)
        self._interval = model.config.redraw_every if self.every_n_steps is None else self.every_n_steps
        self._draw = model.draw_number

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
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
    def _model(pl_module: LightningModule) -> Performer:
        assert isinstance(pl_module, TrainingTask)
        return pl_module.model


class SeededSteps(Callback):
    """Seeds dropout for every batch from the run's `seed` and the number of the batch.

    A resumed run then has the same dropout as an uninterrupted one without saving any random state. Batches are
    numbered across ranks and accumulated gradients in the order in which the data module deals them, so two processes
    have the same dropout as one process that accumulates two batches.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self._step, self._part = -1, 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step
        self._part = self._part + 1 if step == self._step else 0
        self._step = step
        # Lightning's own counter of logged steps can be one short after a resume
        trainer.fit_loop.epoch_loop._batches_that_stepped = step
        key = (self.seed, step, self._part * trainer.world_size + trainer.global_rank)
        torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]))


class Throughput(Callback):
    """Logs throughput every `trainer.log_every_n_steps`, summed over all ranks; padding does not count.

    - throughput/tokens_per_second and throughput/flops_per_second since the previous row, without the time spent on
      validation; a training step counts as three forward passes of `flops_per_token`;
    - train/residues: residues seen since the start of the run, including those before a resume.
    """

    def __init__(self) -> None:
        self._residues = 0  # before this process started
        self._total = [0, 0, 0]  # tokens, residues and kFLOPs of all ranks since then, up to the last sum over them
        self._counts: Tensor | None = None  # the same of this rank, after that sum
        self._previous = (0, 0)  # tokens and kFLOPs at the previous row
        self._start = self._paused = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"residues": self._residues + self._summed()[1]}  # Lightning calls it on all ranks

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._residues = state_dict["residues"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._counts, self._total = None, [0, 0, 0]
        self._previous, self._start = (0, 0), time.perf_counter()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._paused = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start += time.perf_counter() - self._paused

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, TrainingTask)
        alphabet, inputs = alphabet_of(pl_module.model.config.alphabet), batch.inputs
        letters = (inputs != alphabet.cls) & (inputs != alphabet.eos) & (inputs != alphabet.pad)
        tokens, residues = batch.key_mask.sum(), letters.sum()
        # integers of 1,000 operations do not overflow
        segments = batch.segments
        length = segments.max_length if isinstance(segments, Packed) else batch.inputs.shape[1]
        work = tokens * (3 * flops_per_token(pl_module.model.config, length)) // 1000
        counts = torch.stack((tokens, residues, work))
        self._counts = counts if self._counts is None else self._counts + counts
        if trainer.global_step % trainer.log_every_n_steps:  # type: ignore[attr-defined]
            return
        done = self._summed()
        seconds = max(time.perf_counter() - self._start, 1e-9)
        values = {
            "throughput/tokens_per_second": (done[0] - self._previous[0]) / seconds,
            "throughput/flops_per_second": (done[2] - self._previous[1]) * 1000 / seconds,
            "train/residues": float(self._residues + done[1]),
        }
        pl_module.log_dict(values)
        self._previous, self._start = (done[0], done[2]), time.perf_counter()

    def _summed(self) -> list[int]:
        """The counts of all ranks; waits for the device."""
        if self._counts is not None:
            new = reduced(self._counts).tolist()
            self._total = [before + one for before, one in zip(self._total, new, strict=True)]
            self._counts = None
        return self._total


class Results(Callback):
    """Prints the test metrics with their unigram baseline, and writes them as JSON to `path`."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # not in on_test_end, so that the table follows the progress bar
        if stage == "test" and trainer.is_global_zero and isinstance(pl_module, TrainingTask):
            with atomic_output(self.path) as partial:
                partial.write_text(dumps(pl_module.results, indent=2) + "\n")
            print(format_metrics(pl_module.results))


class LearningCurve(Callback):
    """Plots training loss, validation accuracy and perplexity, with the unigram baseline, at the end of a run.

    The training loss has a point every `every_n_steps`.
    """

    def __init__(self, path: str, every_n_steps: int = 10) -> None:
        self.path, self.every_n_steps = Path(path), every_n_steps
        self._training: list[list[float]] = []
        self._unread: list[tuple[int, Tensor, int]] = []  # step, loss and divisor of points that are on the device
        self._validation: list[dict[str, float]] = []

    def state_dict(self) -> dict[str, Any]:
        return {"training": self._read(), "validation": self._validation}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._training, self._validation, self._unread = state_dict["training"], state_dict["validation"], []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step % self.every_n_steps == 0 or not (self._training or self._unread):
            # Lightning divides the loss of an accumulated gradient
            self._unread.append((trainer.global_step, outputs["loss"].detach(), trainer.accumulate_grad_batches))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            values = {name: float(x) for name, x in trainer.callback_metrics.items() if name.startswith("valid/")}
            self._validation.append({"step": trainer.global_step, **values})

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero and (self._read() or self._validation):
            draw_learning_curve(self._training, self._validation, self.path)

    def _read(self) -> list[list[float]]:
        """The points of the training loss; waits for the device."""
        losses = torch.stack([loss for _, loss, _ in self._unread]).tolist() if self._unread else []
        for (step, _, parts), loss in zip(self._unread, losses, strict=True):
            self._training.append([step, loss * parts])
        self._unread = []
        return self._training


def draw_learning_curve(training: list[list[float]], validation: list[dict[str, float]], path: Path) -> None:
    """Writes the figure of `LearningCurve`; the suffix of `path` sets the format.

    Args:
        training: pairs of step and loss in nats.
        validation: rows with "step" and valid/... accuracy, perplexity, unigram_accuracy and unigram_perplexity.
    """
    from matplotlib.figure import Figure  # no pyplot: no global state, no display

    figure = Figure(figsize=(11, 3.4), layout="constrained")
    loss, accuracy, perplexity = figure.subplots(1, 3)
    steps, values = [step for step, _ in training], [value for _, value in training]
    loss.plot(steps, values, color="0.75", lw=0.8)
    loss.plot(steps, _smoothed(values), color="C0", lw=1.8)
    loss.set(title="training loss", ylabel="nats per residue")
    for axes, name, factor in ((accuracy, "accuracy", 100), (perplexity, "perplexity", 1)):
        for key, label, style in (
            (f"valid/{name}", "model", {"color": "C0", "marker": "o", "ms": 3}),
            (f"valid/unigram_{name}", "unigram", {"color": "C1", "ls": "--"}),
        ):
            points = [(point["step"], factor * point[key]) for point in validation if key in point]
            axes.plot([step for step, _ in points], [value for _, value in points], **style, label=label)
        axes.set(title=f"validation {name}", ylabel="%" if name == "accuracy" else None)
        if validation:
            axes.legend(frameon=False)
    for axes in (loss, accuracy, perplexity):
        axes.set_xlabel("step")
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def _smoothed(values: list[float], keep: float = 0.9) -> list[float]:
    """Exponential moving average with bias correction."""
    smooth: list[float] = []
    total = weight = 0.0
    for value in values:
        total, weight = keep * total + value, keep * weight + 1
        smooth.append(total / weight)
    return smooth
