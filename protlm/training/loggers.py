"""Where the curves go: a CSV file, TensorBoard, wandb. A run that goes on in its folder continues them."""

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


class RunLogger(Logger):
    """A logger of one run in one folder. Nothing happens before the first metrics, and only on rank zero.

    Args:
        folder: made when it is needed.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        self.folder = Path(folder)

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.folder)

    def log_hyperparams(self, params: dict[str, Any]) -> None:  # type: ignore[override]
        """What describes the run, such as its configuration and the git commit; any nesting of plain values."""

    def log_results(self, results: dict[str, dict[str, float]], checkpoint: str | None) -> None:
        """The end of a run that went well.

        Args:
            results: split -> metrics.
            checkpoint: the Lightning checkpoint that was tested.
        """


class CsvLogger(RunLogger):
    """metrics.csv: a row for each call, complete on disk when the call returns.

    The first row of a process, at step s, replaces the rows from s on that a killed run has left.
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
        """Adds columns and keeps the rows of steps lower than `before`."""
        text = self.path.read_text() if self.path.exists() else ""
        lines = csv.DictReader(text[: text.rfind("\n") + 1].splitlines())  # without a row that a kill has cut
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
    """Event files. Those of a process that begins at step s hide what a killed run has left from s on."""

    def __init__(self, folder: str | Path) -> None:
        super().__init__(folder)
        self._writer: Any = None
        self._params: dict[str, Any] = {}

    def log_hyperparams(self, params: dict[str, Any]) -> None:  # type: ignore[override]
        self._params.update(params)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self.folder), purge_step=step)
            text = json.dumps(self._params, indent=2, default=str)
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
            self._writer.close()  # opens itself again for a test


class WandbLogger(RunLogger):
    """wandb, offline if there is no login or no server; an error of wandb's never ends or delays training for long.

    A run that goes on keeps its id; of rows that the server has already, wandb keeps the earlier ones.

    Args:
        folder: of the run; wandb's files and the id are in its folder wandb.
        project, name, entity, group, tags: as in `wandb.init`.
        offline: keep the run on disk, for `wandb sync`, without asking the server.
        log_model: `log_results` also sends the model, as an artifact.
        init_timeout: seconds until a run whose server does not answer goes on offline.
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
        self._params: dict[str, Any] = {}
        self._run: Any = None
        self._failed = False

    @property
    def _place(self) -> Path:
        return self.folder / "wandb" / "run.json"

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any]) -> None:  # type: ignore[override]
        self._params.update(params)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        step = step or 0
        with self._spared():
            if self._run is None and not self._failed:
                self._run = self._start(step)
            if self._run is not None and not self._failed:
                self._run.log(dict(metrics), step=step)

    @rank_zero_only
    def log_results(self, results: dict[str, dict[str, float]], checkpoint: str | None) -> None:
        """Sends the table of the results, and the model if asked; ends the run."""
        with self._spared():
            if self._run is not None and not self._failed:
                import wandb

                names = list(dict.fromkeys(name for row in results.values() for name in row))
                rows: list[Any] = [[split, *(row.get(name) for name in names)] for split, row in results.items()]
                if rows:
                    self._run.log({"results": wandb.Table(columns=["split", *names], data=rows)})
                if self.log_model and checkpoint:
                    with tempfile.TemporaryDirectory() as folder:
                        export(load(checkpoint), Path(folder) / "model")
                        artifact = wandb.Artifact(f"model-{self._run.id}", type="model")
                        artifact.add_dir(f"{folder}/model")
                        self._run.log_artifact(artifact)
        self._finish(0)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if status != "success":  # else a test may follow
            self._finish(1)

    def _start(self, step: int) -> Any:
        """Begins the run, or goes on with the one of this folder unless that one was begun at this step or later."""
        # its reports to wandb about itself would hold back the end of the process if the server does not answer
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        place = json.loads(self._place.read_text()) if self._place.exists() else {}
        if place.get("first", step) >= step:
            place = {"id": secrets.token_hex(4), "first": step}
        self._place.parent.mkdir(parents=True, exist_ok=True)
        with atomic_output(self._place) as partial:
            partial.write_text(json.dumps(place) + "\n")

        # silent: otherwise wandb asks the server for the user's name first, 10 more seconds if there is no answer
        settings = wandb.setup(settings=wandb.Settings(silent=True)).settings
        limits = wandb.Settings(
            silent=True, console="off", init_timeout=self.init_timeout, finish_timeout=self.finish_timeout
        )
        how = {"settings": limits, "resume": "allow", "reinit": "create_new"}
        options: dict[str, Any] = {**self._options, **how, "dir": self.folder, "id": place["id"]}
        run, why = None, "as configured"
        if not self.offline and settings.mode not in ("offline", "dryrun"):
            try:
                why = "no login"
                if settings.mode == "disabled" or wandb.login(prompt=False, verify=False):
                    run = wandb.init(**options)
            except Exception as error:
                why = _line(error)
                wandb.teardown()  # which otherwise says that the run's id is in use
        if run is None:
            run = wandb.init(**options, mode="offline")
            files = self.folder / "wandb" / f"offline-run-*-{place['id']}"
            print(f"wandb: offline ({why}); send the run later with: wandb sync {files}")
        elif run.url:
            print(f"wandb: {run.url}")
        run.config.update(self._params, allow_val_change=True)
        return run

    def _finish(self, code: int) -> None:
        run, self._run = self._run, None
        if run is not None:
            with self._spared():
                run.finish(exit_code=code)

    @contextmanager
    def _spared(self) -> Iterator[None]:
        """An error of wandb's ends the tracking with wandb, not the run."""
        try:
            yield
        except Exception as error:
            if not self._failed:
                print(f"wandb: stopped ({_line(error)}); training is not affected; what is there: {self.folder}/wandb")
            self._failed = True


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
