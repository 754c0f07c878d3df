"""Outputs that appear whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from protlm.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


class BusyError(UserError):
    """Another process is writing the same output."""


@contextmanager
def unfinished(target: Path) -> Iterator[Path]:
    """A folder beside `target` to write into; what is finished is moved out of it by `os.replace`.

    The folder is `.NAME.partial`, and is gone at the end. A run that was killed may leave it; the next one with the
    same target empties it first.

    Raises:
        BusyError: if another process writes the same target.
        UserError: if the folder cannot be made, or for an `OSError` inside, such as a full disk.
    """
    if not target.parent.is_dir():
        raise UserError(f"{target}: there is no folder {target.parent}; make it first")
    folder = target.with_name(f".{target.name}.partial")
    try:
        lock = locked(folder)
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror})") from error
    if lock is None:
        raise BusyError(f"{target}: another process is writing it; wait for its end, or name another file")
    try:
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        yield folder
    except OSError as error:
        raise UserError(f"{target}: cannot be written ({error.strerror or error}); nothing was left behind") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def locked(folder: Path) -> int | None:
    """Makes a folder and locks it for as long as the returned descriptor is open; None if another process has it."""
    while True:
        folder.mkdir(exist_ok=True)
        if fcntl is None:
            return os.open(os.devnull, os.O_RDONLY)
        try:
            lock = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # another process has just finished
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if folder.exists() and os.fstat(lock).st_ino == folder.stat().st_ino:
                return lock
        except BlockingIOError:
            os.close(lock)
            return None
        os.close(lock)


@contextmanager
def atomic_output(target: Path) -> Iterator[Path]:
    """A path at which to write a file; it is renamed to `target` when the block ends without an error.

    Raises:
        UserError: as `unfinished`.
    """
    with unfinished(target) as folder:
        yield folder / target.name
        os.replace(folder / target.name, target)
