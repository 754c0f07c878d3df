"""Where a distillation came to: its students at the ends of stages, and the errors of the last one."""

from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback

from protlm.checkpoint import export
from protlm.distillation.task import DistillationTask
from protlm.files import atomic_output
from protlm.strict_json import dumps
from protlm.tables import aligned


class StudentReport(Callback):
    """Writes the student at the end of each stage but the last, and the errors of the best one as JSON and as a table.

    Args:
        path: of the JSON file.
        stages: folder in which each student is a model folder, named by its stage.
    """

    def __init__(self, path: str, stages: str) -> None:
        self.path, self.stages = Path(path), Path(stages)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not isinstance(pl_module, DistillationTask) or pl_module.stages is None or not trainer.is_global_zero:
            return
        stage, done, count = pl_module.stages.place(trainer.global_step - 1)
        folder = self.stages / stage
        if done + 1 == count and trainer.global_step < sum(pl_module.stages) and not folder.exists():
            self.stages.mkdir(exist_ok=True)
            export(pl_module.model, folder)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # not in on_test_end, so that the table follows the progress bar
        if stage == "test" and trainer.is_global_zero and isinstance(pl_module, DistillationTask):
            with atomic_output(self.path) as partial:
                partial.write_text(dumps(pl_module.results, indent=2) + "\n")
            for split, values in pl_module.results.items():
                layers = [value for name, value in values.items() if name != "error"]
                header = ["layer", *map(str, range(1, len(layers) + 1))]
                print(aligned(header, [[f"error, {split}", *(f"{value:.3f}" for value in layers)]]))
