"""A labelled reference: proteins, their labels, and which of them belong together.

Legend: n labelled proteins.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from protlm.annotation.known_labels import KnownLabels, read_known_labels
from protlm.errors import UserError, counted
from protlm.sequence.containers import proteins_of
from protlm.sequence.fasta import FastaFile, Record, none_left


@dataclass(frozen=True)
class Reference:
    """n labelled proteins.

    Attributes:
        source: file name, for messages.
        records: (n,).
        labels: column -> those of each; every protein has one in some column.
        left_out: proteins of the file without a label, which have nothing to transfer.
        notes: what was changed or skipped in the file, a line each.
    """

    source: str
    records: list[Record]
    labels: Mapping[str, KnownLabels]
    left_out: int = 0
    notes: Sequence[str] = ()

    @classmethod
    def read(
        cls,
        proteins: Any,
        labels: Any,
        columns: Sequence[str] = (),
        invalid: str = "error",
        allow_nucleotides: bool = False,
    ) -> "Reference":
        """Reads proteins and labels.

        Args:
            proteins, invalid, allow_nucleotides: see `read_records`.
            labels, columns: see `read_known_labels`.

        Raises:
            UserError: for proteins or labels that cannot be used.
        """
        source, records, notes = read_records(proteins, "the reference", invalid, allow_nucleotides)
        known = read_known_labels(labels, [record.id for record in records], source, columns)
        own = np.flatnonzero(np.any([one.counts > 0 for one in known.values()], axis=0))
        labels = {column: one.take(own) for column, one in known.items()}
        return cls(source, [records[i] for i in own.tolist()], labels, len(records) - len(own), notes)

    @property
    def ids(self) -> list[str]:
        return [record.id for record in self.records]

    @property
    def sequences(self) -> list[str]:
        return [record.sequence for record in self.records]

    @property
    def described(self) -> str:
        """A line."""
        without = f" ({self.left_out:,} without labels left out)" if self.left_out else ""
        found = [f"{self.source}: {counted(len(self.records), 'labelled protein')}{without}"]
        for column, labels in self.labels.items():
            proteins = counted(int((labels.counts > 0).sum()), "protein")
            found.append(f"{column}: {counted(len(labels.names), 'label')} of {proteins}")
        return "; ".join(found)


def read_records(
    proteins: Any, name: str, invalid: str = "error", allow_nucleotides: bool = False
) -> tuple[str, list[Record], list[str]]:
    """The name of the source, its records with unique identifiers, and lines on what was changed or skipped.

    Args:
        proteins: path of a FASTA file, or proteins as in `ProteinModel`; the keys of a dictionary, the index or the
            column `id` of a pandas object are identifiers.
        name: for messages, of what is not a file.
        invalid, allow_nucleotides: see `FastaFile`.

    Raises:
        UserError: without proteins, and for an identifier that occurs twice.
    """
    if isinstance(proteins, Path) or (isinstance(proteins, str) and Path(proteins).is_file()):
        file = FastaFile(proteins, allow_nucleotides, invalid=invalid)
        records, name = list(file), file.path
        notes = file.tally.lines()
        if not records:
            raise none_left(name, file.tally)
    else:
        container = proteins_of(proteins)
        ids = container.ids or [str(number + 1) for number in range(len(container.sequences))]
        notes = []
        records = [Record(str(one), "", sequence) for one, sequence in zip(ids, container.sequences, strict=True)]
        if not records:
            raise UserError(f"{name}: no proteins; expected at least one")
    check_distinct([record.id for record in records], name)
    return name, records, notes


def check_distinct(ids: Sequence[str], name: str) -> None:
    """Raises a UserError for an identifier that occurs twice."""
    first: dict[str, int] = {}
    for number, one in enumerate(ids, start=1):
        if one in first:
            raise UserError(f"{name}: duplicate identifier {one!r} (records {first[one]} and {number}); rename one")
        first[one] = number
