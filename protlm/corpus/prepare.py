"""FASTA files to one corpus, in one call."""

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from xxhash import xxh3_128_hexdigest

from protlm.corpus.assemble import assemble
from protlm.corpus.ingest import Progress, Selection, read_parts
from protlm.corpus.placement import Assembled, place, read_table
from protlm.corpus.splits import SplitRule, read_clusters
from protlm.corpus.workers import Workers
from protlm.errors import UserError
from protlm.files import atomic_output
from protlm.sequence.stream import STDIN, Source, check_readable
from protlm.sequence.tally import Tally


@dataclass
class PrepareSummary(Assembled):
    """What became of the records of a `prepare`."""

    tally: Tally = field(default_factory=Tally)
    """What was changed or left out."""

    def describe(self, out: str | Path) -> list[str]:
        """Lines for a person: what is in the corpus `out`, and what was changed, left out, moved or not found."""
        splits = ", ".join(f"{name} {count:,}" for name, count in self.proteins_by_split.items())
        lines = [f"{out}: {_count(self.proteins, 'protein')}, {_count(self.residues, 'residue')} ({splits})"]
        lines += self.tally.describe()
        if self.merged:
            lines.append(f"{_count(self.merged, 'record')}: merged with an identical sequence")
        if self.moved_to_identical:
            lines.append(f"{_count(self.moved_to_identical, 'record')}: moved to the split of an identical sequence")
        if self.without_cluster:
            lines.append(f"{_count(self.without_cluster, 'record')}: not in the table, a cluster of its own")
        if self.not_found:
            some = ", ".join(self.not_found[:3]) + (", ..." if len(self.not_found) > 3 else "")
            lines.append(
                f"warning: not found in the files, though to be held out: {_count(len(self.not_found), 'id')}: {some}"
            )
        return lines


def prepare_corpus(
    fastas: Sequence[str | Path],
    out: str | Path,
    rule: SplitRule | None = None,
    selection: Selection | None = None,
    deduplicate: bool = False,
    workers: int = 1,
    progress: Progress | None = None,
) -> PrepareSummary:
    """Writes the proteins of FASTA files into one corpus, in order, in memory that does not grow with the input.

    The file appears under its final name only when it is complete; a run that is stopped leaves nothing, and what a
    killed one leaves, the next one with the same output removes.

    Args:
        fastas: one or more files, plain or compressed; "-" is standard input.
        out: the corpus to write; an existing one is replaced at the end.
        rule: how splits are assigned.
        selection: which records are taken, and by which name.
        deduplicate: keep one record of each sequence, the first, and the ids of the others.
        workers: processes that read; each file is read by one.
        progress: called now and then with the bytes read and the bytes in all (0: unknown).

    Raises:
        UserError: for a file that is missing or no FASTA, for an output that cannot be written, for no protein at all.
    """
    rule, selection, out = rule or SplitRule(), selection or Selection(), Path(out)
    if workers < 1:
        raise UserError(f"workers {workers}: expected a number from 1")
    used = (*fastas, *([rule.clusters] if rule.clusters else []))
    if list(map(str, used)).count(STDIN) > 1:
        raise UserError("standard input (-) can be read only once")
    for path in used:
        check_readable(path)
    if out.resolve() in (Path(path).resolve() for path in used):
        raise UserError(f"{out}: is one of the inputs; the corpus has to be another file")
    if out.exists() and not out.is_file():
        raise UserError(f"{out}: is {'a folder' if out.is_dir() else 'no file'}; expected the name of a file to write")
    # a worker has no standard input of its own
    count = 1 if STDIN in map(str, fastas) else min(workers, len(fastas))
    held_out = "\n".join(sorted(rule.held_out)).encode()
    with atomic_output(out) as partial, Workers(count, len(fastas)) as crew:
        folder = partial.parent
        if rule.clusters and Path(rule.clusters).is_file():
            next(read_clusters(Source(rule.clusters)), None)  # a mistake in its first lines is said at once
        parts = read_parts(fastas, folder, selection, crew, progress)
        tally = Tally()
        for part in parts:
            tally.update(part.tally)
        if not any(part.records for part in parts):
            reasons = "; ".join(["no record is left", *tally.describe()])
            raise UserError(f"{', '.join(map(str, fastas))}: {reasons}; expected at least one protein")
        table, described = None, None
        if rule.clusters:
            table, described = read_table(rule.clusters, folder, sum(part.records for part in parts))
        attributes = {
            "sources": [source for part in parts for source in part.sources],
            "changes": tally.to_dict(),
            "options": {
                **asdict(selection),
                "deduplicate": deduplicate,
                "valid": rule.valid,
                "test": rule.test,
                "clusters": described,
                "whole_clusters": rule.clusters is not None and rule.whole_clusters,
                "held_out": {"ids": len(rule.held_out), "xxh3_128": xxh3_128_hexdigest(held_out)},
            },
        }
        result = Assembled()
        placement = place(parts, table, folder, rule, deduplicate, result)
        os.replace(assemble(parts, placement, folder, attributes, crew, result), partial)
    return PrepareSummary(**vars(result), tally=tally)


def _count(number: int, name: str) -> str:
    return f"{number:,} {name}{'s' * (number != 1)}"
