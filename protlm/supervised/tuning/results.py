"""The end of fine-tuning: the folder of the fitted model, and a table of its test."""

from pathlib import Path

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback

from protlm.supervised.tuning.task import FineTuningTask


class PredictorWriter(Callback):
    """Writes the fitted model to the folder `path` after the test, and prints how it did beside baselines.

    Args:
        path: must not exist.
        copy_base: store the base model in the folder, too.
        table: print a table.
    """

    def __init__(self, path: str, copy_base: bool = False, table: bool = True) -> None:
        self.path, self.copy_base, self.table = Path(path), copy_base, table
        self._steps = self._epochs = 0

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._steps, self._epochs = trainer.global_step, trainer.current_epoch

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # not in on_test_end, so that the table follows the progress bar
        if stage != "test" or not isinstance(pl_module, FineTuningTask) or pl_module.outcome is None:
            return
        if trainer.is_global_zero:
            pl_module.write(self.path, {"steps": self._steps, "epochs": self._epochs}, self.copy_base)
            for evaluation in pl_module.outcome.evaluations if self.table else ():
                print(evaluation.table())
