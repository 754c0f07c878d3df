"""Fine-tuning as `protlm fit` and `protlm.fit` do it: a run of training in a folder beside the output, resumed if it is
there already, and then only the fitted model.
"""

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from protlm.checkpoint import check_absent
from protlm.errors import UserError
from protlm.files import atomic_output
from protlm.strict_json import dumps

KEPT = ("config.yaml", "run.json", "metrics")
"""Files and folders of the run that are moved to `training/` in the folder of the fitted model."""
_OPTIONS = "fit.json"


def run_folder(output: Path) -> Path:
    """The folder of an unfinished run."""
    return output.with_name(f".{output.name}.run")


def fine_tune(output: Path, method: str, options: Mapping[str, Any], settings: Sequence[str] = ()) -> None:
    """Fine-tunes, tests and writes the folder `output`; what is printed goes to standard error.

    An interrupted run is resumed, if the options are the same.

    Args:
        output: must not exist.
        method: see `FineTuningTask`.
        options: name of an option of `python -m protlm.train +experiment=finetune` -> value.
        settings: more of them, as on its command line.

    Raises:
        UserError: for options or labels that cannot be used; for an unfinished run with others.
    """
    from protlm.training.composed import run_composed

    check_absent(output)
    if not output.parent.is_dir():
        raise UserError(f"{output}: there is no folder {output.parent}; create it first")
    given = [*(override(name, value) for name, value in options.items()), *settings]
    overrides = ["+experiment=finetune", override("task.method", method), *given]
    folder = run_folder(output)
    _check_same(folder, output, overrides)
    advice = override("callbacks.stop.advice", "repeat the command to resume")
    try:
        with redirect_stdout(sys.stderr):
            run_composed([*overrides, advice, "ckpt_path=auto"], folder)
    except BaseException:
        if not (folder / "checkpoints").exists():  # nothing to resume
            shutil.rmtree(folder, ignore_errors=True)
        raise
    training = folder / "model" / "training"
    training.mkdir()
    for name in KEPT:
        if (folder / name).exists():
            shutil.move(folder / name, training / name)
    (folder / "model").rename(output)
    shutil.rmtree(folder)


def override(name: str, value: Any) -> str:
    """An option as on the command line of Hydra.

    >>> override("data.labels", "it's a=b.tsv"), override("data.kind", {"a": "regression"})
    ("data.labels='it\\\\'s a=b.tsv'", "data.kind={a:'regression'}")
    """
    return f"{name}={_value(value)}"


def _value(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{name}:{_value(one)}" for name, one in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_value, value)) + "]"
    if isinstance(value, int | float):
        return str(value)
    return "'" + str(value).replace("\\'", "\\\\'").replace("'", "\\'") + "'"


def _check_same(folder: Path, output: Path, overrides: Sequence[str]) -> None:
    """Notes the options of a run; refuses to resume one with others."""
    try:
        before = json.loads((folder / _OPTIONS).read_text())
    except (OSError, ValueError):
        folder.mkdir(exist_ok=True)
        with atomic_output(folder / _OPTIONS) as partial:
            partial.write_text(dumps(list(overrides), indent=2) + "\n")
        return
    if before != list(overrides):
        odd = sorted(set(before) ^ set(overrides))
        raise UserError(
            f"{output}: an unfinished fit with other options is in {folder} (different: {', '.join(odd)}); repeat it "
            "with the same options to resume it, or remove that folder"
        )
    print(f"{output}: resuming the fit in {folder}", file=sys.stderr, flush=True)
