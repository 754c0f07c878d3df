"""The bytes of a file or of standard input: decompressed by content, counted and hashed in one pass."""

import bz2
import gzip
import io
import lzma
import os
import sys
import zlib
from pathlib import Path
from typing import IO, Any

import xxhash
from isal import igzip, isal_zlib

from protlm.errors import UserError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

STDIN = "-"
"""The path that means standard input."""

_ISAL_ERROR: Any = isal_zlib.error  # a class, which its stubs call an instance
DAMAGED: tuple[type[Exception], ...] = (
    *(EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error, zstd.ZstdError, OSError, _ISAL_ERROR),
)
"""What reading a damaged or truncated file raises."""

_BUFFER = 1 << 16
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_COMPRESSIONS: dict[bytes, Any] = {
    b"\x1f\x8b": lambda packed: igzip.IGzipFile(fileobj=packed),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
    b"\x28\xb5\x2f\xfd": zstd.ZstdFile,
}


class Source(io.RawIOBase):
    """The raw bytes of a file, read once; `position` counts them and `checksum` hashes them.

    Args:
        path: a file, or "-" for standard input.

    Attributes:
        path: as given.
        name: of the file, without its folders.
        size: in bytes; 0 if unknown, as for a pipe.
        position: bytes read so far.

    Raises:
        UserError: for a file that is missing, a folder, or unreadable.
    """

    _raw: IO[bytes] | None = None

    def __init__(self, path: str | Path) -> None:
        self.path, self.position = path, 0
        self._hash = xxhash.xxh3_128()
        if str(path) == STDIN:
            self.name = STDIN
            if sys.stdin is None:
                raise UserError("standard input is closed; expected FASTA")
            self._raw = open(sys.stdin.fileno(), "rb", buffering=0, closefd=False)  # noqa: SIM115
            self.size = 0
            return
        check_readable(path)
        self.name = Path(path).name
        try:
            self._raw = open(path, "rb", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror})") from error
        self.size = os.fstat(self._raw.fileno()).st_size

    @property
    def checksum(self) -> str:
        """XXH3-128 of the bytes read so far, in hexadecimal, as `xxh128sum` prints it."""
        return self._hash.hexdigest()

    def describe(self) -> dict[str, Any]:
        """Name, bytes read and checksum, ready for JSON."""
        return {"name": self.name, "bytes": self.position, "xxh3_128": self.checksum}

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        assert self._raw is not None
        count: int = self._raw.readinto(buffer)  # type: ignore[attr-defined]
        self._hash.update(memoryview(buffer)[:count])
        self.position += count
        return count

    def close(self) -> None:
        if self._raw is not None:  # None if it could not be opened: Python 3.13 closes such an object, too
            self._raw.close()
        super().close()

    def content(self) -> "io.BufferedReader[Any]":
        """The bytes, decompressed if their start shows gzip, bzip2, xz or zstandard, without a byte order mark."""
        packed = io.BufferedReader(self, _BUFFER)
        start = packed.peek(6)[:6]
        content: io.BufferedReader[Any] = packed
        for magic, reader in _COMPRESSIONS.items():
            if start.startswith(magic):
                content = io.BufferedReader(reader(packed), _BUFFER)
        if content.peek(3)[:3] == _BYTE_ORDER_MARK:
            content.read(3)
        return content

    def text(self) -> io.TextIOWrapper:
        """The decompressed text; bytes that are not UTF-8 become U+FFFD."""
        return io.TextIOWrapper(self.content(), "utf-8", "replace")


def read_through(path: str | Path) -> dict[str, Any]:
    """Name, bytes and checksum of a whole file."""
    with Source(path) as source:
        while source.read(_BUFFER):
            pass
        return source.describe()


def check_readable(path: str | Path) -> None:
    """Raises `UserError` for a missing path or a folder; standard input is accepted."""
    if str(path) != STDIN and not Path(path).exists():
        raise UserError(f"{path}: no such file")
    if Path(path).is_dir():
        raise UserError(f"{path}: is a folder; expected a file")
