"""Homologs by iterated profile search, as by phmmer (one iteration) and jackhmmer (several)."""

import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from protlm.homology.alignment import Alignment
from protlm.homology.cache import AlignmentCache
from protlm.homology.hits import Hits, Inclusion
from protlm.homology.hmmer import AMINO, alignment_hmm, easel, plan7, sequence_hmm
from protlm.homology.options import SearchOptions
from protlm.homology.targets import Targets
from protlm.progress import Progress
from protlm.sequence.containers import protein_of

TOGETHER = 20
"""Queries that share a pass over the databases."""
CELLS = 40_000_000
"""Residues of the query times those of a target, at most: HMMER may need 24 bytes for each pair of residues."""
QUERY_ID = "query"


def find_homologs(
    query: str,
    databases: Targets | str | Path | Sequence[str | Path],
    *,
    options: SearchOptions | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    cache: str | Path | None = None,
) -> Alignment:
    """The alignment of a protein with its homologs in FASTA files.

    Args:
        query: L residues in one-letter code, without gaps.
        databases: path or paths of the files, plain or compressed. They are streamed, once for each iteration.
        options: see `SearchOptions`.
        threads: that compare sequences, by default one for each core.
        progress: called with the bytes read, and those to read in all iterations.
        cache: folder in which the alignment is kept, and looked for first, see `AlignmentCache`. By default none.

    Returns:
        The query and its homologs, the best first, named `ID/START-END`; the query alone if there are none.

    Raises:
        UserError: for a query or a database that cannot be used.
    """
    query = protein_of(query, gaps=False, name="the query")
    paths = [databases] if isinstance(databases, str | Path) else databases
    targets = paths if isinstance(paths, Targets) else Targets(paths)
    return next(search([query], targets, options or SearchOptions(), threads, progress, cache))


def search(
    queries: Sequence[str],
    targets: Targets,
    options: SearchOptions,
    threads: int | None = None,
    progress: Progress | None = None,
    cache: str | Path | None = None,
) -> Iterator[Alignment]:
    """As `find_homologs`, for several queries, in order; `TOGETHER` of them share each pass over the databases."""
    kept = AlignmentCache(cache, targets.paths, options, targets.reading) if cache is not None else None
    queries = [query.upper() for query in queries]
    passes = options.iterations * -(-len(queries) // TOGETHER)
    for start in range(0, len(queries), TOGETHER):
        group = queries[start : start + TOGETHER]
        known = {query: kept.load(query) if kept else None for query in group}
        new = [query for query in known if known[query] is None]

        def report(iteration: int, position: int, before: int = start // TOGETHER * options.iterations) -> None:
            if progress:
                progress((before + iteration) * targets.size + position, passes * targets.size)

        for alignment in _searched(new, targets, options, threads or cores(), report):
            known[alignment.query] = alignment
            if kept:
                kept.store(alignment)
        report(options.iterations, 0)
        for query in group:
            alignment = known[query]
            assert alignment is not None
            yield alignment


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _searched(
    queries: list[str],
    targets: Targets,
    options: SearchOptions,
    threads: int,
    report: Callable[[int, int], None],
) -> list[Alignment]:
    """The alignments of queries that share each pass."""
    hmms = {query: sequence_hmm(query) for query in queries}
    alignments = {query: Alignment(query, [QUERY_ID], [query]) for query in queries}
    for iteration in range(options.iterations):
        if not hmms:
            break
        found = {query: Hits(len(query), _inclusion(options, query), options.most) for query in hmms}
        pairs = [(hmms[query], found[query]) for query in hmms]
        _compare_all(pairs, targets, threads, lambda position, iteration=iteration: report(iteration, position))
        last = iteration + 1 == options.iterations
        hmms = {}
        for query, hits in found.items():
            domains = hits.included()
            ids = [QUERY_ID, *(domain.name for domain in domains)]
            converged = set(ids) == set(alignments[query].ids)
            alignments[query] = Alignment(query, ids, [query, *(domain.row for domain in domains)])
            if not (converged or last):
                hmms[query] = alignment_hmm(alignments[query])
    return list(alignments.values())


def _inclusion(options: SearchOptions, query: str) -> Inclusion:
    bits = options.bits_per_residue
    return Inclusion(options.evalue, None if bits is None else bits * len(query))


def _compare_all(
    pairs: list[tuple[plan7.HMM, Hits]], targets: Targets, threads: int, report: Callable[[int], None]
) -> None:
    """Compares each HMM with all targets: blocks in threads, and what is found is added in the order of the targets."""
    waiting: deque[tuple[Hits, int, Future[plan7.TopHits]]] = deque()
    skipped: Counter[int] = Counter()

    def take() -> None:
        hits, proteins, future = waiting.popleft()
        hits.add(future.result(), proteins)

    with _pool(threads) as pool:
        for block in targets.blocks():
            longest = len(block.largest())
            for hmm, hits in pairs:
                compared = block if hmm.M * longest <= CELLS else _shorter(block, CELLS // hmm.M)
                skipped[hmm.M] += len(block) - len(compared)
                waiting.append((hits, len(block), pool.submit(_compare, hmm, hits.inclusion, compared)))
                while len(waiting) > 2 * threads:
                    take()
            report(targets.position)
        while waiting:
            take()
    for length, count in skipped.items():
        why = f"longer than {CELLS // length:,} residues, too long to compare with a query of {length:,}"
        targets.tally.add(f"left out, {why}", 0, count)


def _shorter(block: easel.DigitalSequenceBlock, longest: int) -> easel.DigitalSequenceBlock:
    return easel.DigitalSequenceBlock(AMINO, [target for target in block if len(target) <= longest])


def _compare(hmm: plan7.HMM, inclusion: Inclusion, block: easel.DigitalSequenceBlock) -> plan7.TopHits:
    return inclusion.pipeline().search_hmm(hmm, block)


@contextmanager
def _pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that begin nothing more when the block ends, also by an error or Ctrl-C."""
    pool = ThreadPoolExecutor(threads)
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
