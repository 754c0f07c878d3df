"""Homologs by iterated profile search, as by phmmer (one iteration) and jackhmmer (several)."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from protlm.errors import UserError
from protlm.homology.alignment import Alignment
from protlm.homology.hits import Hits, Inclusion
from protlm.homology.hmmer import alignment_hmm, easel, plan7, sequence_hmm
from protlm.homology.targets import Targets
from protlm.progress import Progress


@dataclass(frozen=True)
class SearchOptions:
    """How homologs are searched for.

    Attributes:
        iterations: passes over the database, at most; fewer if one finds what the one before has found.
        evalue: greatest E-value of included targets, and conditional E-value of their domains.
        bits_per_residue: least score of included targets and domains, divided by the length of the query; replaces
            `evalue`.
        most: greatest number of homologs; those of the targets with the best scores.

    Raises:
        UserError: for a value out of range.
    """

    iterations: int = 3
    evalue: float = 1e-3
    bits_per_residue: float | None = None
    most: int = 50_000

    def __post_init__(self) -> None:
        for name, least in (("iterations", 1), ("most", 1)):
            if getattr(self, name) < least:
                raise UserError(f"{name} {getattr(self, name)}: expected at least {least}", name)
        for name in ("evalue", "bits_per_residue"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise UserError(f"{name} {value:g}: expected a number above 0", name)


def find_homologs(
    query: str,
    databases: Sequence[str | Path],
    *,
    options: SearchOptions | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Alignment:
    """The alignment of a protein with its homologs in FASTA files.

    Args:
        query: L residues in one-letter code.
        databases: paths of the files, plain or compressed. They are streamed, once for each iteration.
        options: see `SearchOptions`.
        threads: that compare sequences, by default one for each core.
        progress: called with the bytes read, and those of all iterations.

    Returns:
        The query and its homologs, the best first, named `ID/START-END`; the query alone if there are none.

    Raises:
        UserError: for a query or a database that cannot be used.
    """
    return search([query], Targets(databases), options or SearchOptions(), threads, progress)[0]


def search(
    queries: Sequence[str],
    targets: Targets,
    options: SearchOptions,
    threads: int | None = None,
    progress: Progress | None = None,
) -> list[Alignment]:
    """As `find_homologs`, for several queries, which share each pass over the database."""
    alignments = [Alignment(query, ["query"], [query]) for query in queries]
    hmms = [sequence_hmm(query) for query in queries]
    active = list(range(len(queries)))
    for iteration in range(options.iterations):
        found = [Hits(len(queries[number]), _inclusion(options, queries[number]), options.most) for number in active]

        def report(position: int, done: int = iteration) -> None:
            if progress:
                progress(done * targets.size + position, options.iterations * targets.size)

        _scan([hmms[number] for number in active], found, targets, threads or cores(), report)
        changed = []
        for number, hits in zip(active, found, strict=True):
            before, query = alignments[number], queries[number]
            domains = hits.included()
            ids = ["query", *(domain.name for domain in domains)]
            alignments[number] = Alignment(query, ids, [query, *(domain.row for domain in domains)])
            if set(alignments[number].ids) != set(before.ids):
                changed.append(number)
        active = changed
        if not active:
            break
        if iteration + 1 < options.iterations:
            for number in active:
                hmms[number] = alignment_hmm(alignments[number])
    return alignments


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _inclusion(options: SearchOptions, query: str) -> Inclusion:
    bits = options.bits_per_residue
    return Inclusion(options.evalue, None if bits is None else bits * len(query))


def _scan(hmms: list[plan7.HMM], found: list[Hits], targets: Targets, threads: int, report) -> None:
    """Compares each HMM with all targets; blocks are compared in threads, and their hits added in order."""
    waiting: deque[tuple[Hits, int, Future[plan7.TopHits]]] = deque()

    def take() -> None:
        hits, proteins, future = waiting.popleft()
        hits.add(future.result(), proteins)

    with _pool(threads) as pool:
        for block in targets.blocks():
            for hmm, hits in zip(hmms, found, strict=True):
                waiting.append((hits, len(block), pool.submit(_compare, hmm, hits.inclusion, block)))
                while len(waiting) > 2 * threads:
                    take()
            report(targets.position)
        while waiting:
            take()


def _compare(hmm: plan7.HMM, inclusion: Inclusion, block: easel.DigitalSequenceBlock) -> plan7.TopHits:
    return inclusion.pipeline().search_hmm(hmm, block)


@contextmanager
def _pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that start nothing more once the block has failed or been interrupted."""
    pool = ThreadPoolExecutor(threads)
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
