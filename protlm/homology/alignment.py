"""A multiple sequence alignment (MSA) relative to a query.

Legend: L residues of the query, N sequences.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from protlm.errors import UserError, counted
from protlm.homology.aligned_rows import Rows
from protlm.homology.alignment_input import read_rows
from protlm.homology.alignment_output import write_rows
from protlm.sequence.alphabet import STANDARD

GAP = len(STANDARD)
"""Code of gaps, and of letters that are none of the twenty amino acids."""

_LOWER = b"abcdefghijklmnopqrstuvwxyz"
_LEAST = 10  # residues of a sequence that is taken for a part of the query
_CODES = np.full(256, GAP, dtype=np.uint8)
_CODES[np.frombuffer(STANDARD.encode(), dtype=np.uint8)] = np.arange(GAP)


@dataclass(frozen=True)
class Alignment:
    """Sequences aligned with a query: one column for each residue of the query.

    Attributes:
        query: its L residues, in upper case.
        ids: N names, the query's first; not necessarily distinct.
        rows: N sequences in A3M format: upper-case letters and "-" in the L columns, and lower-case letters between
            them, for residues that are not aligned with the query. The first row is the query.

    Raises:
        ValueError: for a first row that is not the query, or a row with another number of columns.

    >>> Alignment("MKT", ["query", "a", "b"], ["MKT", "M-T", "-KgaS"]).codes.tolist()
    [[10, 8, 16], [10, 20, 16], [20, 8, 15]]
    """

    query: str
    ids: list[str]
    rows: list[str]

    def __post_init__(self) -> None:
        if not self.query or self.rows[:1] != [self.query]:
            raise ValueError("alignment: expected the query as its first row")
        if len(self.ids) != len(self.rows):
            raise ValueError(f"alignment: {len(self.ids):,} ids for {len(self.rows):,} rows")
        for number, row in enumerate(self.rows, start=1):
            if (columns := len(_matched(row))) != len(self.query):
                raise ValueError(f"alignment, row {number}: {columns:,} columns; expected {len(self.query):,}")

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def codes(self) -> np.ndarray:
        """(N, L) uint8: indices in `STANDARD`; 20 for gaps and for other letters, such as X."""
        letters = np.frombuffer(b"".join(map(_matched, self.rows)), dtype=np.uint8)
        return _CODES[letters].reshape(len(self.rows), len(self.query))

    @property
    def coverage(self) -> np.ndarray:
        """(L,) int64: the number of sequences, including the query, that have one of the twenty at each position."""
        return (self.codes < GAP).sum(0)

    def select(self, keep: Iterable[bool]) -> "Alignment":
        """The sequences where `keep` (N,) is true; the query is always kept."""
        numbers = [number for number, kept in enumerate(keep) if kept or not number]
        return Alignment(self.query, [self.ids[i] for i in numbers], [self.rows[i] for i in numbers])


def read_alignment(path: str | Path, query: str | None = None) -> Alignment:
    """Reads an alignment in A2M, A3M, aligned FASTA, Stockholm or Clustal format, compressed or not.

    The columns are those in which the query has a residue; residues of other sequences elsewhere become insertions, as
    in HHsuite's `reformat.pl -M first`. Except in A3M, case does not matter where the query has a residue: EVcouplings
    writes columns with many gaps in lower case. In A3M, insertions of the query are not aligned with other sequences.

    Args:
        path: of the file. Its content tells the format.
        query: the protein, by default the first sequence of the file. It is looked for in all sequences: one that
            equals it, one of which it is a part, or one that is a part of it; the longest if there are several. Where
            that covers only a part of the query, all other sequences have gaps elsewhere.

    Raises:
        UserError: if the file cannot be read, is not an alignment, or does not contain the query.
    """
    found = read_rows(path)
    if query is None:
        number, start, skipped = 0, 0, 0
        query = found.residues(0)
        if not query:
            raise UserError(f"{path}: the first record has no residues; expected the query of the search")
    else:
        query = query.upper()
        number, start, skipped = _located(found, query)
    part = min(len(query) - start, len(found.residues(number)) - skipped)
    cut = found.cut(number, skipped, skipped + part)
    before, after = "-" * start, "-" * (len(query) - start - part)
    order = [other for other in range(len(found)) if other != number]
    ids = [found.ids[number], *(found.ids[other] for other in order)]
    return Alignment(query, ids, [query, *(f"{before}{cut[other]}{after}" for other in order)])


def write_alignment(path: str | Path, alignment: Alignment, file_format: str | None = None) -> None:
    """Writes an alignment; the file appears when it is complete.

    Args:
        path: of the file. Its suffix tells the format: .a3m, .a2m, .fasta, .afa, .fa, .sto, .stk or .aln.
        alignment: to write.
        file_format: "a3m", "a2m", "fasta", "stockholm" or "clustal", instead of that of the suffix. Except in A3M,
            insertions have columns of their own, in which they start from the left.

    Raises:
        UserError: for an unknown suffix or format, or a file that cannot be written.
    """
    write_rows(path, alignment.ids, alignment.rows, file_format)


def _matched(row: str) -> bytes:
    """The letters of a row in the columns of the query."""
    return row.encode("latin-1", "replace").translate(None, _LOWER)


def _located(found: Rows, query: str) -> tuple[int, int, int]:
    """The sequence that has the query, where in the query it starts, and where in it the query starts."""
    first = found.residues(0)
    longest, best = 0, None
    for number in range(len(found)):
        own = found.residues(number)
        if own == query:
            return number, 0, 0
        if (at := own.find(query)) >= 0:
            shared, place = len(query), (number, 0, at)
        elif len(own) >= _LEAST and (at := query.find(own)) >= 0:
            shared, place = len(own), (number, at, 0)
        else:
            continue
        if shared > longest:
            longest, best = shared, place
    if best is None:
        difference = ""
        if len(first) == len(query):
            difference = f" and differs at {counted(sum(map(str.__ne__, first, query)), 'position')}"
        raise UserError(
            f"{found.path}: none of its {counted(len(found), 'sequence')} is the protein of {len(query):,} residues or "
            f"a part of it (the first, {found.ids[0]}, has {counted(len(first), 'residue')}{difference}); expected an "
            "alignment that contains the protein"
        )
    return best
