"""Parallel map over processes, with progress and clean termination; a single worker is this process."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from protlm.errors import UserError

_REPORT = 0.1  # seconds between two reports of progress


class Workers:
    """Runs functions of (job..., report), at most `jobs` of a `map`, in `count` processes; a context ends them.

    Processes are forked if this process has no other thread, which could hold a lock that they would copy; else they
    are spawned, which takes half a second longer. They end when this process is interrupted or killed. With a count of
    one, functions run in this process.
    """

    def __init__(self, count: int, jobs: int) -> None:
        self.count, self._jobs = count, jobs
        self._pool: Any = None

    def __enter__(self) -> "Workers":
        if self.count > 1:
            import multiprocessing  # imported here since a single process does not need it
            from concurrent.futures import ProcessPoolExecutor

            alone = sys.platform == "linux" and threading.active_count() == 1
            context = multiprocessing.get_context("fork" if alone else "spawn")
            # progress of each job; the last value asks workers to stop
            self._done = context.Array("q", self._jobs + 1, lock=False)
            self._pool = ProcessPoolExecutor(self.count, context, _begin, (self._done, os.getpid()))
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if self._pool is not None:
            self._done[-1] = kind is not None
            self._pool.shutdown(cancel_futures=True)

    def map(
        self, function: Callable[..., Any], jobs: Sequence[tuple[Any, ...]], report: Callable[[int], None] | None = None
    ) -> list[Any]:
        """The results of function(*job, report) for each job, in order.

        Args:
            function: a module-level function; it calls its last argument regularly with its progress.
            jobs: picklable arguments.
            report: called regularly with the total progress of all jobs.

        Raises:
            Exception: the first one that a job raises. UserError: if a process is killed.
        """
        report = report or (lambda done: None)
        if self._pool is None:
            return [function(*job, report) for job in jobs]
        from concurrent.futures.process import BrokenProcessPool

        for number in range(len(jobs)):
            self._done[number] = 0
        futures = [self._pool.submit(_run, function, number, job) for number, job in enumerate(jobs)]
        try:
            while not all(future.done() for future in futures):
                for future in futures:
                    if future.done():
                        future.result()
                report(sum(self._done[: len(jobs)]))
                time.sleep(_REPORT / 5)
            results = [future.result() for future in futures]
            report(sum(self._done[: len(jobs)]))
            return results
        except BrokenProcessPool as error:
            raise UserError("a worker was killed, possibly because memory ran out; try fewer workers") from error


_done: Any = None
_parent = 0


def _begin(done: Any, parent: int) -> None:
    """Initialises a worker; the parent handles Ctrl-C and asks it to stop."""
    global _done, _parent
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _done, _parent = done, parent
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends a waiting worker when its parent has ended or asks it to stop."""
    while os.getppid() == _parent and not _done[len(_done) - 1]:
        time.sleep(_REPORT)
    time.sleep(5 * _REPORT)  # a computing worker ends in `report`
    os._exit(1)


def _run(function: Callable[..., Any], number: int, job: tuple[Any, ...]) -> Any:
    def report(done: int) -> None:
        _done[number] = done
        if _done[len(_done) - 1]:
            raise KeyboardInterrupt  # the result is no longer needed

    return function(*job, report)
