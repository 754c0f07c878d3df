"""Outputs that are written for hours: a kill at any moment leaves a draft that the same command goes on with."""

import json
import os
import re
import shutil
import struct
import time
from pathlib import Path
from typing import Any, NamedTuple

from protlm.errors import UserError
from protlm.files import BusyError
from protlm.files import _locked as locked

_ABOUT, _DATA, _JOURNAL, _SPOOL = "about.json", "data", "journal", "stdin"
_PLACE = struct.Struct("<4Q")
_SYNC = 30.0  # seconds between two calls that wait for the disk
_HDF5 = re.compile(r"errno = (\d+)")
_BOOT = Path("/proc/sys/kernel/random/boot_id")


class Place(NamedTuple):
    """How far a draft is: `proteins` are finished, and so many batches, under a token budget, of the window behind."""

    proteins: int
    batches: int
    token_budget: int


class Draft:
    """The folder `.NAME.partial` beside an output, and in it the output as far as it is; a context that locks it.

    At the end it is gone, unless something was computed and not yet published.

    Args:
        target: the output, a file or a folder.

    Attributes:
        data: the output to be.
        spool: for a copy of standard input.
        about: what the draft will be, see `provenance.about`; None until it is ready to be computed.

    Raises:
        BusyError: if another process writes the same target.
        UserError: if the folder cannot be made.
    """

    def __init__(self, target: Path) -> None:
        self.target, self.folder = target, target.with_name(f".{target.name}.partial")
        self.data, self.spool = self.folder / _DATA, self.folder / _SPOOL
        self.about: dict[str, Any] | None = None
        self.published = False
        self._journal = -1

    def __enter__(self) -> "Draft":
        if not self.target.parent.is_dir():
            raise UserError(f"{self.target}: there is no folder {self.target.parent}; make it first")
        try:
            lock = locked(self.folder)
        except OSError as error:
            raise self.unwritable(error) from error
        if lock is None:
            raise BusyError(f"{self.target}: another process is writing it; wait for its end, or name another file")
        self._lock = lock
        try:
            self.about = json.loads((self.folder / _ABOUT).read_text())
        except (OSError, ValueError):
            self.about = None  # nothing was computed yet, or it is none of ours
        if self.about is not None:
            if self.data.exists():
                self._open()
            else:  # killed right behind the last step
                self.clear()
        return self

    def __exit__(self, *error: object) -> None:
        if self.published or not self.begun:
            shutil.rmtree(self.folder, ignore_errors=True)
        self._close()
        os.close(self._lock)

    @property
    def begun(self) -> bool:
        """Something was computed."""
        return self.about is not None and self.place[:2] > (0, 0)

    def unwritable(self, error: OSError | RuntimeError) -> UserError:
        """What to raise for an error of the system's, or of HDF5's, while writing."""
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        if number := _HDF5.search(str(error)):  # HDF5 tells all of its troubles
            reason = os.strerror(int(number[1]))
        return UserError(f"{self.target}: cannot be written ({reason})")

    def clear(self) -> None:
        """Forgets all that was computed."""
        self._close()
        self.about = None
        (self.folder / _ABOUT).unlink(missing_ok=True)  # first: without it the rest is nothing
        for path in self.folder.iterdir():
            if path != self.spool:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def ready(self, about: dict[str, Any]) -> None:
        """Notes that values can now be written into `data`."""
        (self.folder / _JOURNAL).write_bytes(_PLACE.pack(0, 0, 0, 0))
        for path in self.folder.iterdir():
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())  # what is noted next must not be on the disk before it
        self._write(about)
        self._open()

    @property
    def place(self) -> Place:
        """How far the draft is."""
        return Place(*_PLACE.unpack(os.pread(self._journal, _PLACE.size, 0))[:3])

    def advance(self, place: Place, data: int | None = None) -> None:
        """Notes how far the draft is, in a single write; what is computed has been written before.

        Args:
            place: nothing before it will be written again.
            data: descriptor of the file of values; None for a folder.
        """
        if time.monotonic() - self._synced_at > _SYNC:
            os.sync() if data is None else os.fsync(data)
            self._synced, self._synced_at = place.proteins, time.monotonic()
        os.pwrite(self._journal, _PLACE.pack(*place, self._synced), 0)

    def publish(self) -> None:
        """Gives the output its name; an earlier output of that name is replaced."""
        old = self.folder / "old"
        if self.target.is_dir():
            os.replace(self.target, old)
        os.replace(self.data, self.target)
        self.published = True

    def _write(self, about: dict[str, Any]) -> None:
        draft = self.folder / f"{_ABOUT}.new"
        draft.write_text(json.dumps({**about, "boot": _boot()}))
        os.replace(draft, self.folder / _ABOUT)
        self.about = about

    def _open(self) -> None:
        assert self.about is not None
        self._journal = os.open(self.folder / _JOURNAL, os.O_RDWR)
        *place, self._synced = _PLACE.unpack(os.pread(self._journal, _PLACE.size, 0))
        boot = self.about.pop("boot", _boot())
        if not boot or boot != _boot():  # only what was waited for has surely reached the disk
            place = [self._synced, 0, 0]
            os.pwrite(self._journal, _PLACE.pack(*place, self._synced), 0)
            self._write(self.about)
        self._synced_at = time.monotonic()

    def _close(self) -> None:
        if self._journal >= 0:
            os.close(self._journal)
            self._journal = -1


def _boot() -> str:
    """Names the time since the machine was started; empty where that is not known."""
    return _BOOT.read_text().strip() if _BOOT.exists() else ""
