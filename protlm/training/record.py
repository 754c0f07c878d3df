"""What a run folder says of how it came about: configuration, versions, data, and the command to repeat it."""

import datetime
import json
import os
import platform
import shlex
import socket
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import protlm

PACKAGES = ("torch", "pytorch-lightning", "hydra-core", "numpy", "h5py", "biopython")


def describe_run(
    config: dict[str, Any], overrides: Sequence[str], folder: Path, fingerprints: Sequence[str], resumed: str | None
) -> dict[str, Any]:
    """All that is needed to repeat a run.

    Args:
        config: resolved.
        overrides: of the command line.
        folder: of the run.
        fingerprints: of the corpora.
        resumed: the checkpoint that the run goes on from, if it does.
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
    partial = folder / ".run.json.partial"
    partial.write_text(json.dumps({**about, "earlier": earlier}, indent=2) + "\n")
    os.replace(partial, path)


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
