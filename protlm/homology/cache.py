"""Alignments of earlier searches, kept in a folder by query, databases and options."""

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import xxhash

from protlm.errors import ProtlmWarning, UserError
from protlm.files import BusyError
from protlm.homology.alignment import Alignment, read_alignment, write_alignment
from protlm.homology.options import SearchOptions
from protlm.strict_json import dumps

VERSION = 1
"""Increased when the same search gives other alignments than before."""
_ENDS = 1 << 20  # bytes at the start and the end of a database that are hashed


def default_folder() -> Path:
    """`$XDG_CACHE_HOME/protlm/homologs`, by default `~/.cache/protlm/homologs`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "protlm" / "homologs"


class AlignmentCache:
    """Files in A3M format, named by a hash of everything that the alignment depends on.

    A database is recognised by its size, the time of its last change, and its first and last MiB; its path does not
    matter. Several processes may use a folder at the same time; files may be deleted at any time.

    Args:
        folder: created if necessary.
        databases: paths of the files that are searched.
        options: of the search.
        reading: of the databases, if other than the default, see `Targets.reading`.
    """

    def __init__(
        self,
        folder: str | Path,
        databases: Sequence[Path],
        options: SearchOptions,
        reading: Mapping[str, bool | str] | None = None,
    ) -> None:
        self._folder = Path(folder)
        self._search: dict[str, object] = {
            "version": VERSION,
            "options": asdict(options),
            "databases": [_described(path) for path in databases],
        }
        if reading:
            self._search["reading"] = reading

    def path(self, query: str) -> Path:
        """Where the alignment of a query is kept."""
        name = xxhash.xxh3_128_hexdigest(dumps({**self._search, "query": query}).encode())
        return self._folder / f"{name}.a3m"

    def load(self, query: str) -> Alignment | None:
        """The alignment of an earlier search; None if there is none, or only a damaged one."""
        path = self.path(query)
        if not path.is_file():
            return None
        try:
            alignment = read_alignment(path)
        except UserError:
            return None
        return alignment if alignment.query == query else None

    def store(self, alignment: Alignment) -> None:
        """Keeps an alignment. If the folder cannot be written, that is a warning."""
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_alignment(self.path(alignment.query), alignment)
        except BusyError:  # another process stores the same
            pass
        except (UserError, OSError) as error:
            warnings.warn(f"alignments are not cached: {error}", ProtlmWarning, stacklevel=2)


def _described(path: Path) -> dict[str, int | str]:
    """What a database is recognised by."""
    with path.open("rb") as file:
        about = os.fstat(file.fileno())
        ends = xxhash.xxh3_128(file.read(_ENDS))
        file.seek(max(0, about.st_size - _ENDS))
        ends.update(file.read(_ENDS))
    return {"bytes": about.st_size, "changed": about.st_mtime_ns, "ends": ends.hexdigest()}
