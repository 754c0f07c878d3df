"""A file that is cut short while its memory map is read: one line instead of a bus error."""

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

MESSAGE = "a file was cut short while it was read; do not overwrite a corpus or model in use, but write another"


@contextmanager
def truncation_in_one_line() -> Iterator[None]:
    """Within the block, a bus error ends the process with a line on standard error and exit code 2.

    A handler of the `signal` module would run only after the instruction that failed, which is repeated for ever; this
    one is called at once. It can only leave: no output is completed, as if the process had been killed.
    """
    if not hasattr(signal, "SIGBUS"):
        yield
        return
    libc = ctypes.CDLL(None)
    libc.signal.restype, libc.signal.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(_leave)
    before = libc.signal(signal.SIGBUS, ctypes.cast(handler, ctypes.c_void_p))
    try:
        yield
    finally:
        libc.signal(signal.SIGBUS, before)


def _leave(number: int) -> None:
    os.write(2, f"error: {MESSAGE}\n".encode())
    os._exit(2)
