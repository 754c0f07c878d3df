"""What to say of a path that is not a model: where one is, or how to get one."""

import re
from pathlib import Path

from protlm.errors import UserError

BEST, LAST = "best.ckpt", "last.ckpt"
"""Checkpoints of a run; a run without validation has only the last."""


def no_such_model(path: Path) -> UserError:
    """The error of a path that does not exist.

    >>> str(no_such_model(Path("esm2_t6_8M_UR50D"))).partition("; ")[2]
    'to use ESM-2, import it: protlm import facebook/esm2_t6_8M_UR50D MODEL'
    """
    advice = esm_advice(path) or "; expected a folder from 'protlm export' or a checkpoint from training"
    if path.name == BEST and (last := path.with_name(LAST)).exists():
        advice = f", since nothing validated this training; use {last}"
    return UserError(f"{path}: no such model{advice}")


def check_not_a_run(path: Path) -> None:
    """Raises a UserError for the folder of a run; it names the checkpoint to use."""
    for name in (BEST, LAST):
        if (made := path / "checkpoints" / name).exists():
            raise UserError(f"{path}: the folder of a run, not a model; use {made}")


def esm_advice(path: Path) -> str:
    """How to import a model of ESM-2 that is named as on the Hugging Face Hub; empty for another name.

    >>> esm_advice(Path("proteins/model"))
    ''
    """
    if not re.fullmatch(r"esm2_t\d+_\d+[MB]_UR50D(\.pt)?", path.name):
        return ""
    return f"; to use ESM-2, import it: protlm import facebook/{path.name.removesuffix('.pt')} MODEL"
