"""Loggers of metrics: a CSV file, TensorBoard, and wandb. A resumed run continues its curves."""

import csv
import json
import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only

from protlm.checkpoint import export, load
from protlm.files import atomic_output
from protlm.strict_json import dumps


class RunLogger(Logger):
    """A logger that writes into one run's folder, made when needed, on rank zero only, from the first metrics on."""

    name = version = ""  # type: ignore[assignment]

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        self.folder = Path(folder)
        self._params: dict[str, Any] = {}

    @property
    def save_dir(self) -> str:
        return str(self.folder)

    def log_hyperparams(self, params: dict[str, Any]) -> None:  # type: ignore[override]
        """Takes the description of the run, such as its configuration and git commit: nested plain values."""
        self._params.update(params)

    def log_results(self, results: dict[str, dict[str, float]], checkpoint: str | None) -> None:
        """Takes the test results by split, and the Lightning checkpoint tested, at the end of a successful run."""


class CsvLogger(RunLogger):
    """Writes metrics.csv, one row per call, which is on disk when the call returns.

    The first row of a process replaces all rows from its step on, which a killed run has left.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder)
        self.path = self.folder / "metrics.csv"
        self._columns: list[str] = []

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        row = {"step": step or 0, **metrics}
        if not self._columns:
            self._columns = ["step"]
            self._rewrite(list(row), before=row["step"])
        elif new := [name for name in row if name not in self._columns]:
            self._rewrite(new)
        with self.path.open("a", newline="") as file:
            self._writer(file).writerow(row)

    def _rewrite(self, columns: list[str], before: float = float("inf")) -> None:
        """Adds columns and keeps the rows of steps below `before`."""
        text = self.path.read_text() if self.path.exists() else ""
        lines = csv.DictReader(text[: text.rfind("\n") + 1].splitlines())  # without a row truncated by a kill
        rows = [line for line in lines if (line.get("step") or "").isdigit() and int(line["step"]) < before]
        known = list(lines.fieldnames or []) if rows else []
        self._columns = list(dict.fromkeys([*self._columns, *known, *columns]))
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_output(self.path) as partial, partial.open("w", newline="") as file:
            writer = self._writer(file)
            writer.writeheader()
            writer.writerows(rows)

    def _writer(self, file: Any) -> "csv.DictWriter[str]":
        return csv.DictWriter(file, self._columns, lineterminator="\n")


class TensorBoardLogger(RunLogger):
    """Writes TensorBoard event files. Those of a resumed run hide what a killed run has logged from its step on."""

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder)
        self._writer: Any = None

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self.folder), purge_step=step)
            text = dumps(self._params, indent=2, default=str)
            self._writer.add_text("run", "    " + text.replace("\n", "\n    "), step)  # indented: Markdown for code
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    @rank_zero_only
    def save(self) -> None:
        if self._writer:
            self._writer.flush()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self._writer:
            self._writer.close()  # a test reopens it


class WandbLogger(RunLogger):
    """Logs to wandb, offline without a login or a server; errors in wandb never end training or delay it for long.

    A resumed run keeps its id; of rows that the server already has, wandb keeps the earlier ones.

    Args:
        folder: folder of the run; wandb's files and the id are in its subfolder wandb.
        project, name, entity, group, tags: as in `wandb.init`.
        offline: keep the run on disk, for `wandb sync`, without contacting the server.
        log_model: also upload the tested model as an artifact.
        init_timeout: seconds to wait for the server before the run continues offline.
        finish_timeout: seconds to wait for uploads at the end.
    """

    def __init__(
        self,
        folder: str | Path,
        project: str = "protlm",
        name: str | None = None,
        entity: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
        offline: bool = False,
        log_model: bool = False,
        init_timeout: float = 10,
        finish_timeout: float = 120,
    ) -> None:
        super().__init__(folder)
        self._options = {"project": project, "name": name, "entity": entity, "group": group, "tags": list(tags)}
        self.offline, self.log_model = offline, log_model
        self.init_timeout, self.finish_timeout = init_timeout, finish_timeout
        self._run: Any = None
        self._failed = False

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        step = step or 0
        with self._contained_errors():
            if self._run is None and not self._failed:
                self._run = self._start(step)
            if self._run is not None and not self._failed:
                self._run.log(dict(metrics), step=step)

    @rank_zero_only
    def log_results(self, results: dict[str, dict[str, float]], checkpoint: str | None) -> None:
        """Uploads the table of results, and the model with `log_model`; ends the wandb run."""
        with self._contained_errors():
            if self._run is not None and not self._failed:
                import wandb

                names = list(dict.fromkeys(name for row in results.values() for name in row))
                rows: list[Any] = [[split, *(row.get(name) for name in names)] for split, row in results.items()]
                if rows:
                    self._run.log({"results": wandb.Table(columns=["split", *names], data=rows)})
                if self.log_model and checkpoint:
                    with tempfile.TemporaryDirectory() as folder:
                        export(load(checkpoint, any_alphabet=True), Path(folder) / "model")
                        artifact = wandb.Artifact(f"model-{self._run.id}", type="model")
                        artifact.add_dir(f"{folder}/model")
                        self._run.log_artifact(artifact)
        self._finish(0)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if status != "success":  # otherwise a test may follow
            self._finish(1)

    def _start(self, step: int) -> Any:
        """Starts a run, or resumes the run of this folder unless that one started at this step or later."""
        # wandb's error reports about itself would delay the end of the process if the server does not answer
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        path = self.folder / "wandb" / "run.json"
        stored = json.loads(path.read_text()) if path.exists() else {}
        if stored.get("first", step) >= step:
            stored = {"id": secrets.token_hex(4), "first": step}
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_output(path) as partial:
            partial.write_text(dumps(stored) + "\n")

        # silent: otherwise wandb first asks the server for the user's name, which may take 10 more seconds
        settings = wandb.setup(settings=wandb.Settings(silent=True)).settings
        limits = wandb.Settings(
            silent=True, console="off", init_timeout=self.init_timeout, finish_timeout=self.finish_timeout
        )
        how = {"settings": limits, "resume": "allow", "reinit": "create_new"}
        options: dict[str, Any] = {**self._options, **how, "dir": self.folder, "id": stored["id"]}
        run, why = None, "as configured"
        if not self.offline and settings.mode not in ("offline", "dryrun"):
            try:
                why = "no login"
                if settings.mode == "disabled" or wandb.login(prompt=False, verify=False):
                    run = wandb.init(**options)
            except Exception as error:  # whatever goes wrong, the run is kept offline
                why = _line(error)
                wandb.teardown()  # otherwise wandb reports that the run's id is in use
        if run is None:
            run = wandb.init(**options, mode="offline")
            files = self.folder / "wandb" / f"offline-run-*-{stored['id']}"
            print(f"wandb: offline ({why}); upload the run later with: wandb sync {files}")
        elif run.url:
            print(f"wandb: {run.url}")
        run.config.update(self._params, allow_val_change=True)
        return run

    def _finish(self, code: int) -> None:
        run, self._run = self._run, None
        if run is not None:
            with self._contained_errors():
                run.finish(exit_code=code)

    @contextmanager
    def _contained_errors(self) -> Iterator[None]:
        """After an error in wandb, tracking ends and training continues."""
        try:
            yield
        except Exception as error:  # wandb raises errors of many kinds
            if not self._failed:
                print(f"wandb: stopped ({_line(error)}); training continues; logged so far: {self.folder}/wandb")
            self._failed = True


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
