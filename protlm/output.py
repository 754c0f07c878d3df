"""Outputs that appear whole or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from protlm.errors import UserError


@contextmanager
def unfinished(target: Path) -> Iterator[Path]:
    """A folder beside `target` to write into; what is finished is moved out of it by `os.replace`.

    The folder is `.NAME.partial`, and is gone at the end. A run that was killed may leave it; the next one with the
    same target removes it first.

    Raises:
        UserError: if the folder cannot be made, or for an `OSError` inside, such as a full disk.
    """
    if not target.parent.is_dir():
        raise UserError(f"{target}: there is no folder {target.parent}; make it first")
    folder = target.with_name(f".{target.name}.partial")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir()
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror})") from error
    try:
        yield folder
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror or error}); nothing was left behind") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
