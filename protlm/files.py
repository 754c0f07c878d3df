"""Atomic output: a file or folder appears under its name only once it is complete.

Tables, corpora, models, checkpoints and results go through `atomic_output`; pictures of training and logs, which are
redrawn or appended to, do not. Whatever happens in the meantime (an error, a kill, a full disk), the previous file
stays as it was, and no half-written file ever has the final name.
"""

import io
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from protlm.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

STDOUT = "-"
"""The path that means standard output."""
_NUMBER = re.compile(r"(?:errno = |os error )(\d+)")  # of the operating system, as HDF5 and safetensors report it


class BusyError(UserError):
    """Another process is writing the same output."""


class UnwritableError(UserError):
    """An output cannot be written: the disk is full, or permission is denied."""

    @classmethod
    def of(cls, target: Path | str, error: Exception) -> "UnwritableError":
        """The error to raise for one of the operating system, or one in which a library reports such an error."""
        if isinstance(error, UnwritableError) and isinstance(error.__cause__, OSError):
            error = error.__cause__  # a part of this output
        number = _NUMBER.search(str(error))
        reason = os.strerror(int(number[1])) if number else getattr(error, "strerror", None) or str(error)
        return cls(f"{target}: cannot be written ({reason.splitlines()[0]})")


@contextmanager
def atomic_output(target: Path) -> Iterator[Path]:
    """A path at which to write a file or folder; it is renamed to `target` when the block ends without an error.

    The path is in a folder `.NAME.partial` beside `target`. The folder may hold other temporary files as well; it is
    removed at the end. A folder left by a killed process is emptied by the next one.

    Args:
        target: an existing file of this name is replaced, and a folder by a folder.

    Raises:
        BusyError: if another process is writing the same target.
        UserError: if the folder that should hold `target` does not exist.
        UnwritableError: for an `OSError` inside the block, such as a full disk.

    >>> import tempfile
    >>> target = Path(tempfile.mkdtemp()) / "numbers.txt"
    >>> with atomic_output(target) as partial:
    ...     _ = partial.write_text("1 2 3")
    ...     target.exists()
    False
    >>> target.read_text()
    '1 2 3'
    """
    with partial_folder(target) as folder:
        try:
            for path in folder.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            yield folder / target.name
            publish(folder / target.name, target)
        except BrokenPipeError:  # of standard output
            raise
        except OSError as error:
            raise UnwritableError.of(target, error) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def publish(partial: Path, target: Path) -> None:
    """Renames a complete file or folder to `target`; a file is written to disk before, to survive a power failure."""
    if partial.is_file():
        with partial.open("r+b") as file:
            os.fsync(file.fileno())
    elif target.is_dir():
        os.replace(target, partial.with_name(f"{partial.name}.old"))  # a folder that is not empty cannot be replaced
    os.replace(partial, target)


def write_picture(path: str | Path, figure: Any, dpi: int = 150) -> None:
    """Writes a matplotlib figure, drawn in memory first: on a full disk matplotlib would raise errors of its own."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format=Path(path).suffix[1:].lower(), dpi=dpi)
    Path(path).write_bytes(drawn.getvalue())


@contextmanager
def partial_folder(target: Path) -> Iterator[Path]:
    """The folder `.NAME.partial` beside `target`, made if necessary and locked; its content is left alone."""
    if not target.parent.is_dir():
        raise UserError(f"{target}: there is no folder {target.parent}; create it first")
    folder = target.with_name(f".{target.name}.partial")
    lock = None
    try:
        try:
            lock = _locked(folder)
        except OSError as error:
            raise UnwritableError.of(target, error) from error
        if lock is None:
            what = f"{target}: another process is writing it"
            raise BusyError(f"{what}; wait until it has finished, or choose another file")
        yield folder
    except (KeyboardInterrupt, SystemExit):
        with suppress(OSError):
            folder.rmdir()  # empty if this came before anything was written
        raise
    finally:
        if lock is not None:
            os.close(lock)


def _locked(folder: Path) -> int | None:
    """Makes and locks a folder until the returned descriptor is closed; None if another process holds the lock."""
    while True:
        if folder.is_file():  # left by an earlier version
            folder.unlink()
        folder.mkdir(exist_ok=True)
        if fcntl is None:
            return os.open(os.devnull, os.O_RDONLY)
        try:
            lock = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:  # another process has just finished
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        except OSError:  # a file system without locks
            return lock
        if folder.exists() and os.fstat(lock).st_ino == folder.stat().st_ino:
            return lock
        os.close(lock)
