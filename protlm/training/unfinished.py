"""A run in a folder beside the output of a command, which resumes it when it is repeated, until it is complete."""

import json
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from protlm.checkpoint import check_absent
from protlm.errors import UserError
from protlm.files import atomic_output
from protlm.strict_json import dumps

ADVICE = "repeat the command to resume"
_OPTIONS = "options.json"


def run_folder(output: Path) -> Path:
    """The folder of an unfinished run."""
    return output.with_name(f".{output.name}.run")


@contextmanager
def complete_run(output: Path, what: str, overrides: Sequence[str], ending: Mapping[str, Any]) -> Iterator[Path]:
    """Trains to the end; within the context, the outputs are in the folder that it returns, which is removed after it.

    What is printed goes to standard error.

    Args:
        output: must not exist; its parent must.
        what: name of the run in messages, such as "fit".
        overrides: the command line that determines the result.
        ending: more options, which do not.

    Raises:
        UserError: for options that cannot be used; for an unfinished run with others.
    """
    from protlm.training.composed import run_composed

    check_absent(output)
    if not output.parent.is_dir():
        raise UserError(f"{output}: there is no folder {output.parent}; create it first")
    folder = run_folder(output)
    _check_same(folder, output, what, overrides)
    own = [*(override(name, value) for name, value in ending.items()), "ckpt_path=auto"]
    try:
        with redirect_stdout(sys.stderr):
            run_composed([*overrides, override("callbacks.stop.advice", ADVICE), *own], folder)
    except BaseException as stop:
        if not (folder / "checkpoints").exists():  # nothing to resume
            shutil.rmtree(folder, ignore_errors=True)
        elif isinstance(stop, KeyboardInterrupt):  # outside of training, which says it itself
            print(f"interrupted; {ADVICE}", file=sys.stderr, flush=True)
            sys.exit(130)
        else:
            stop.add_note(f"the unfinished {what} is kept in {folder}; {ADVICE}")
        raise
    yield folder
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


def _check_same(folder: Path, output: Path, what: str, overrides: Sequence[str]) -> None:
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
            f"{output}: an unfinished {what} with other options is in {folder} (different: {', '.join(odd)}); repeat "
            "it with the same options to resume it, or remove that folder"
        )
    print(f"{output}: resuming the {what} in {folder}", file=sys.stderr, flush=True)
