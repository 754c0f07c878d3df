"""A part of a benchmark in a process of its own: if it fails, crashes or hangs, the other parts still run."""

import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

PATIENCE = 10.0
"""Seconds that a process has to end after its last item."""


class PartError(Exception):
    """A part did not end as it should; the message says why."""


def items_of(part: Callable[[], Iterator[Any]], deadline: float) -> Iterator[Any]:
    """What a function yields in a new process, one by one; no process that it started is left at the end.

    Args:
        part: of a module, so that the process can import it.
        deadline: of `time.monotonic()`.

    Raises:
        PartError: after the last item, if the function raised an exception, its process died, or the deadline passed.
    """
    context = get_context("spawn")  # a forked process cannot use CUDA
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(part, sender))
    process.start()
    sender.close()
    try:
        while receiver.poll(max(0.0, deadline - time.monotonic())):
            try:
                kind, value = receiver.recv()
            except EOFError:
                process.join(PATIENCE)
                raise PartError(f"its process died (exit code {process.exitcode})") from None
            if kind == "error":
                raise PartError(value)
            if kind == "end":
                process.join(PATIENCE)
                return
            yield value
        raise PartError("stopped at its deadline")
    finally:
        for kill in (lambda: os.killpg(process.pid or 0, signal.SIGKILL), process.kill):
            with suppress(ProcessLookupError):  # it has ended, or has no group yet
                kill()
        process.join()
        receiver.close()


def _send(part: Callable[[], Iterator[Any]], sender: Connection) -> None:
    os.setpgid(0, 0)  # so that processes that it starts end with it
    try:
        for item in part():
            sender.send(("item", item))
        sender.send(("end", None))
    except Exception as error:
        traceback.print_exc()
        sender.send(("error", f"{type(error).__name__}: {(str(error).splitlines() or ['no message'])[0][:500]}"))
