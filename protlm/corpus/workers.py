"""The same work on several things at once, in processes, or one after the other in this one."""

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
    """Runs functions of (job..., report) in `count` processes; a context that ends them. One is this process.

    Processes are forked if no thread could hold a lock that they would copy, else spawned, which takes half a second
    longer. They end when this one is interrupted or killed.

    Args:
        count: of processes.
        jobs: the most jobs that one `map` gets.
    """

    def __init__(self, count: int, jobs: int) -> None:
        self.count, self._jobs = count, jobs
        self._pool: Any = None

    def __enter__(self) -> "Workers":
        if self.count > 1:
            import multiprocessing  # here: the import takes time that one process need not spend
            from concurrent.futures import ProcessPoolExecutor

            alone = sys.platform == "linux" and threading.active_count() == 1
            context = multiprocessing.get_context("fork" if alone else "spawn")
            self._done = context.Array("q", self._jobs + 1, lock=False)  # reported by each job; the last says stop
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
            function: of a module; its last argument is to be called now and then with what it has done so far.
            jobs: arguments that can be pickled.
            report: called now and then with the sum of what all jobs have done.

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
            raise UserError("a worker was killed, maybe for want of memory; try fewer workers") from error


_done: Any = None
_parent = 0


def _begin(done: Any, parent: int) -> None:
    """In a new worker: Ctrl-C is the parent's business, which says stop."""
    global _done, _parent
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _done, _parent = done, parent
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends a worker that waits, for work or for a file, when its parent has ended or says stop."""
    while os.getppid() == _parent and not _done[len(_done) - 1]:
        time.sleep(_REPORT)
    time.sleep(5 * _REPORT)  # one that computes ends by itself
    os._exit(1)


def _run(function: Callable[..., Any], number: int, job: tuple[Any, ...]) -> Any:
    def report(done: int) -> None:
        _done[number] = done
        if _done[len(_done) - 1]:
            raise KeyboardInterrupt  # nobody waits for the result

    return function(*job, report)
