"""A run: its options, its name shared by all processes, its folder, and the record of how it was made."""

import datetime
import json
import os
import platform
import shlex
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, Timer

import protlm
from protlm.errors import UserError
from protlm.files import atomic_output
from protlm.strict_json import dumps
from protlm.training.warm_start import INIT

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

FILES = ("run.json", "config.yaml", "results.json", "learning_curve.png")
OUTPUTS = ("checkpoints", "metrics", "tensorboard", "wandb", *FILES)
"""Files and folders that a run writes."""
RECORD = "run.json"
LOCK = ".run.lock"
PACKAGES = ("torch", "pytorch-lightning", "hydra-core", "numpy", "h5py", "biopython")


def is_first() -> bool:
    """Whether this process has rank 0, as set by torchrun, Lightning's launcher or SLURM."""
    names = ("RANK",) if "RANK" in os.environ else ("LOCAL_RANK", "NODE_RANK", "SLURM_PROCID")
    return all(os.environ.get(name, "0") == "0" for name in names)


def run_name() -> str:
    """The same name in all processes of a run: the time of its start, or the number of its SLURM job.

    Processes of torchrun agree on it through torchrun's store, those of SLURM through their environment. A requeued
    SLURM job keeps its name, and so do processes restarted by torchrun.
    """
    environment = os.environ
    interactive = environment.get("SLURM_JOB_NAME") in (None, "bash", "interactive")  # several runs in one job
    if (job := environment.get("SLURM_JOB_ID")) and not interactive:
        step = environment.get("SLURM_STEP_ID", "0")
        return f"slurm-{job}" if step in ("0", "") else f"slurm-{job}-{step}"
    now = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    if environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        store = TCPStore(environment["MASTER_ADDR"], int(environment["MASTER_PORT"]), is_master=False)
        name = store.compare_set("protlm/run", "", now).decode()  # the first process sets it; it survives a restart
        restart = environment["TORCHELASTIC_RESTART_COUNT"]
        if restart != "0" and environment["GROUP_WORLD_SIZE"] == "1":
            _use_new_store(store, f"protlm/port/{restart}")
        return name
    return now


def _use_new_store(store: object, key: str) -> None:
    """Makes torch.distributed use a new store, hosted by rank 0.

    torchrun's store (torch 2.13) keeps the addresses of processes that have died, and restarted ones would wait for
    them. Nodes count restarts separately, so this is for one node only.
    """
    if os.environ["RANK"] == "0":
        with socket.socket() as free:
            free.bind(("", 0))
            store.set(key, str(free.getsockname()[1]))  # type: ignore[attr-defined]
    os.environ["MASTER_PORT"] = store.get(key).decode()  # type: ignore[attr-defined]
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"


@contextmanager
def lock_run_folder(folder: Path, remove_unused: bool) -> Iterator[None]:
    """Keeps other runs out of a run folder; with `remove_unused`, removes it at the end if the run did not start."""
    with (folder / LOCK).open("w") as lock:
        os.register_at_fork(after_in_child=lock.close)  # a worker that survives its run must not keep the lock
        try:
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{folder}: another run is writing there; choose another hydra.run.dir") from error
        except OSError:  # a file system without locks
            pass
        try:
            yield
        finally:
            if remove_unused and {path.name for path in folder.iterdir()} <= {".hydra", LOCK, "train.log"}:
                shutil.rmtree(folder, ignore_errors=True)


def move_earlier_outputs(folder: Path) -> None:
    """Moves the outputs of an earlier run in this folder to its subfolder earlier-1 (-2, ...)."""
    found = [folder / name for name in OUTPUTS if (folder / name).exists()]
    if not found:
        return
    number = 1
    while (target := folder / f"earlier-{number}").exists():
        number += 1
    target.mkdir()
    for path in found:
        path.rename(target / path.name)
    print(f"{folder}: moved the outputs of an earlier run to {target}", flush=True)


def describe_run(
    config: dict[str, Any],
    overrides: Sequence[str],
    folder: Path,
    fingerprints: Sequence[str],
    resumed: str | None,
    processes: int,
) -> dict[str, Any]:
    """Everything needed to repeat a run.

    Args:
        config, overrides: resolved configuration, and options of the command line.
        folder, processes: of the run.
        fingerprints: of the corpora.
        resumed: checkpoint from which the run is resumed, if it is.
    """
    return {
        "command": shlex.join(["python", "-m", "protlm.train", *overrides]),
        "working_directory": os.getcwd(),
        "folder": str(folder),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "resumed_from": resumed,
        "overrides": list(overrides),
        "seed": config["seed"],
        "corpus_fingerprint": list(fingerprints),
        "git_commit": git_commit(),
        "versions": {
            "protlm": protlm.__version__,
            "python": platform.python_version(),
            **{name: version(name) for name in PACKAGES},
        },
        "host": socket.gethostname(),
        "processes": processes,
        "threads": torch.get_num_threads(),
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
        "config": config,
    }


def write_run(about: dict[str, Any], folder: Path) -> None:
    """Writes run.json; the records of earlier starts of a resumed run are kept as "earlier"."""
    path = folder / RECORD
    earlier: list[Any] = []
    if about["resumed_from"] and path.exists():
        try:
            before = json.loads(path.read_text())
            earlier = [*before.pop("earlier", []), before]
        except ValueError:  # truncated by a kill
            pass
    _replace(path, {**about, "earlier": earlier})


class RunRecorder(Callback):
    """Writes run.json and config.yaml, and tells the loggers, once training starts.

    A run that is refused, such as one resumed with other options, leaves the records of the run before.

    Attributes:
        about: from `describe_run`.
        config: the configuration as YAML.
        init: what the run started from, which its checkpoints store.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.about: dict[str, Any] = {}
        self.config = ""
        self.init: str | None = None
        self._written = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            self.write(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint[INIT] = self.init

    def write(self, trainer: pl.Trainer) -> None:
        """Writes the records, the first time that it is called."""
        if self._written:
            return
        self._written = True
        write_run(self.about, self.folder)
        with atomic_output(self.folder / "config.yaml") as partial:
            partial.write_text(self.config)
        for logger in trainer.loggers:
            logger.log_hyperparams(self.about)


def record_end(folder: Path, steps: int, stopped: str | None) -> None:
    """Adds to run.json the number of steps trained, and the reason if trainer.max_time ended the run early."""
    path = folder / RECORD
    _replace(path, {**json.loads(path.read_text()), "steps": steps, "stopped": stopped})


def _replace(path: Path, content: dict[str, Any]) -> None:
    with atomic_output(path) as partial:
        partial.write_text(dumps(content, indent=2) + "\n")


def time_limit_message(trainer: pl.Trainer, reference: str) -> str | None:
    """Says that trainer.max_time stopped a run before its last step; None for other runs.

    `reference` names the results of the full run, such as "README's".
    """
    step, last = trainer.global_step, trainer.max_steps
    left = [timer.time_remaining() for timer in trainer.callbacks if isinstance(timer, Timer)]  # type: ignore[attr-defined]
    if not trainer.should_stop or not any(seconds is not None and seconds <= 0 for seconds in left):
        return None
    if last < 0:
        return f"stopped by trainer.max_time at step {step:,}"
    if step >= last:
        return None
    return f"stopped by trainer.max_time at step {step:,} of {last:,}: results will be lower than {reference}"


def git_commit() -> str | None:
    """The commit of the checkout that protlm runs from, with "+changes" if files differ from it; None without git."""
    root = Path(protlm.__file__).parents[1]
    if not (root / ".git").exists():
        return None
    try:
        commands = (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        options: Any = {"capture_output": True, "text": True, "check": True, "timeout": 20}
        commit, status = (subprocess.run(["git", "-C", root, *command], **options).stdout for command in commands)
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.strip() + "+changes" * bool(status.strip())
