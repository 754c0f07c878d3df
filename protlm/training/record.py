"""What a run folder says of how it came about: configuration, versions, data, and the command to repeat it."""

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

import torch

import protlm
from protlm.errors import UserError
from protlm.files import atomic_output

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

OUTPUTS = (
    "checkpoints",
    "metrics",
    "tensorboard",
    "wandb",
    "results.json",
    "learning_curve.png",
    "run.json",
    "config.yaml",
)
"""What a run writes into its folder."""
LOCK = ".run.lock"
PACKAGES = ("torch", "pytorch-lightning", "hydra-core", "numpy", "h5py", "biopython")


def describe_run(
    config: dict[str, Any],
    overrides: Sequence[str],
    folder: Path,
    fingerprints: Sequence[str],
    resumed: str | None,
    processes: int,
) -> dict[str, Any]:
    """All that is needed to repeat a run.

    Args:
        config: resolved.
        overrides: of the command line.
        folder: of the run.
        fingerprints: of the corpora.
        resumed: the checkpoint that the run goes on from, if it does.
        processes: over which it is spread.
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
    """Writes run.json; what an earlier start of the same run said is kept as "earlier"."""
    path = folder / "run.json"
    earlier: list[Any] = []
    if about["resumed_from"] and path.exists():
        try:
            before = json.loads(path.read_text())
            earlier = [*before.pop("earlier", []), before]
        except ValueError:  # cut short by a kill
            pass
    with atomic_output(path) as partial:
        partial.write_text(json.dumps({**about, "earlier": earlier}, indent=2) + "\n")


def set_aside(folder: Path) -> None:
    """Moves what an earlier run left in its folder into earlier-1 (-2, ...) there, apart from what is to come."""
    found = [folder / name for name in OUTPUTS if (folder / name).exists()]
    if not found:
        return
    number = 1
    while (aside := folder / f"earlier-{number}").exists():
        number += 1
    aside.mkdir()
    for path in found:
        path.rename(aside / path.name)
    print(f"{folder}: what an earlier run left is now in {aside}", flush=True)


@contextmanager
def claimed(folder: Path, remove_unused: bool) -> Iterator[None]:
    """Keeps a second run out of a run folder.

    Args:
        folder: of the run.
        remove_unused: remove it at the end if the run has not begun.

    Raises:
        UserError: if there is another run already.
    """
    with (folder / LOCK).open("w") as lock:
        os.register_at_fork(after_in_child=lock.close)  # a worker may outlive a run that is killed, the claim must not
        try:
            if fcntl is not None:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{folder}: another run is writing there; name another hydra.run.dir") from error
        except OSError:  # a file system without locks
            pass
        try:
            yield
        finally:
            if remove_unused and {path.name for path in folder.iterdir()} <= {".hydra", LOCK, "train.log"}:
                shutil.rmtree(folder, ignore_errors=True)


def git_commit() -> str | None:
    """The commit of the checkout that protlm runs from, with "+changes" if files differ from it; None without git."""
    root = Path(protlm.__file__).parents[1]
    if not (root / ".git").exists():
        return None
    try:
        commit, status = (
            subprocess.run(
                ["git", "-C", root, *arguments], capture_output=True, text=True, check=True, timeout=20
            ).stdout
            for arguments in (("rev-parse", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.strip() + "+changes" * bool(status.strip())
