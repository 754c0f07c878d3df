"""FASTA files to one corpus, in one call."""

import os
from collections.abc import Sequence
from pathlib import Path

from xxhash import xxh3_128_hexdigest

from protlm.corpus.assignment import assign, names_of, read_cluster_table
from protlm.corpus.ingest import Part, Selection, read_parts
from protlm.corpus.splits import SplitRule, read_clusters
from protlm.corpus.summary import PrepareSummary
from protlm.corpus.workers import Workers
from protlm.corpus.writer import write_corpus
from protlm.errors import UserError
from protlm.files import atomic_output
from protlm.progress import Progress
from protlm.sequence.fasta_files import check_distinct
from protlm.sequence.long_records import REGION
from protlm.sequence.stream import STDIN, Source, check_readable
from protlm.sequence.tally import Tally


def prepare_corpus(
    fastas: Sequence[str | Path],
    out: str | Path,
    rule: SplitRule | None = None,
    selection: Selection | None = None,
    deduplicate: bool = False,
    workers: int = 1,
    progress: Progress | None = None,
) -> PrepareSummary:
    """Writes the sequences of files into one corpus, in file order, in constant memory.

    The output is atomic: it appears under its final name when it is complete. An interrupted run leaves nothing; what
    a killed run leaves is removed by the next run with the same output.

    Args:
        fastas: one or more files, plain or compressed; "-" is standard input.
        out: the corpus to write; an existing one is replaced at the end.
        rule: how splits are assigned.
        selection: which records to keep, and how to identify them.
        deduplicate: keep the first record of each sequence, and the identifiers of the others.
        workers: number of reading processes; one file is read by one process.
        progress: called regularly with the bytes read and the total (0 if unknown).

    Raises:
        UserError: for a file that is missing or not FASTA, an output that cannot be written, no protein at all, only
            unknown residues in the train split, or a cluster table or list of identifiers to hold out that is not of
            these proteins.
    """
    rule, selection, out = rule or SplitRule(), selection or Selection(), Path(out)
    if rule.whole_records and selection.of_proteins:
        raise UserError("split_by record: is for records that are cut, of another alphabet than protein", "split_by")
    if workers < 1:
        raise UserError(f"workers {workers}: expected at least 1", "workers")
    used = (*fastas, *([rule.clusters] if rule.clusters else []))
    if list(map(str, used)).count(STDIN) > 1:
        raise UserError("standard input (-) can be read only once")
    for path in used:
        check_readable(path)
    check_distinct(fastas)
    if out.resolve() in (Path(path).resolve() for path in used):
        raise UserError(f"{out}: is one of the inputs; choose another output file")
    if out.exists() and not out.is_file():
        raise UserError(f"{out}: is {'a folder' if out.is_dir() else 'not a file'}; expected a file to write")
    # worker processes have no standard input
    count = 1 if STDIN in map(str, fastas) else min(workers, len(fastas))
    held_out = "\n".join(sorted(rule.held_out)).encode()
    with atomic_output(out) as partial, Workers(count, len(fastas)) as crew:
        folder = partial.parent
        if (
            rule.clusters
            and Path(rule.clusters).is_file()  # not a pipe, which can be read only once
            and next(read_clusters(Source(rule.clusters)), None) is None  # reports a mistake in its first lines, too
        ):
            raise UserError(f"{rule.clusters}: no clusters; expected lines of representative, tab, member")
        parts = read_parts(fastas, folder, selection, crew, progress)
        summary = PrepareSummary(Tally(), selection.alphabet)
        for part in parts:
            summary.tally.update(part.tally)
        if not any(part.records for part in parts):
            reasons = "; ".join(["no record is left", *summary.lines()])
            expected = f"at least one {selection.alphabet.record}"
            raise UserError(f"{', '.join(map(str, fastas))}: {reasons}; expected {expected}")
        spaces, records = selection.identifier == "header", sum(part.records for part in parts)
        clusters = _records_of(parts, folder / "pieces") if rule.whole_records else rule.clusters
        table = read_cluster_table(clusters, folder, records, spaces) if clusters else None
        attributes = {
            "sources": [source for part in parts for source in part.sources],
            "changes": summary.tally.to_dict(),
            "options": {
                **selection.to_dict(),
                "deduplicate": deduplicate,
                "valid": rule.valid,
                "test": rule.test,
                "clusters": table.description if table else None,
                "whole_clusters": clusters is not None and rule.whole_clusters,
                "held_out": {"ids": len(rule.held_out), "xxh3_128": xxh3_128_hexdigest(held_out)},
            },
        }
        assignment = assign(parts, table, folder, rule, deduplicate, summary, spaces)
        os.replace(write_corpus(parts, assignment, folder, attributes, crew, summary, selection.alphabet), partial)
    return summary


def _records_of(parts: Sequence[Part], path: Path) -> Path:
    """Writes a table of clusters, each the pieces of one long record, and returns its path."""
    with path.open("wb") as file:
        for part in parts:
            for names in names_of(part):
                file.writelines(b"%b\t%b\n" % (REGION.sub(b"", name), name) for name in names)
    return path
