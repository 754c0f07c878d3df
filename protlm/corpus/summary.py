"""The summary that `prepare` prints."""

from dataclasses import dataclass, field
from pathlib import Path

from protlm.errors import counted
from protlm.sequence.alphabets import PROTEIN, Alphabet
from protlm.sequence.tally import Tally


@dataclass
class PrepareSummary:
    """The outcome of a `prepare`."""

    tally: Tally
    """Records changed or left out, by reason."""
    alphabet: Alphabet = PROTEIN
    proteins: int = 0
    residues: int = 0
    proteins_by_split: dict[str, int] = field(default_factory=dict)
    merged: int = 0
    """Records left out because an earlier one has the same sequence."""
    moved_to_identical: int = 0
    """Records moved into the split of an identical sequence."""
    duplicates: int = 0
    """Records with the identifier of an earlier one, which is no reason to leave them out."""
    not_found: list[str] = field(default_factory=list)
    """Identifiers to hold out that are neither a protein nor a cluster of the files."""
    without_cluster: int = 0
    """Records that are not in the cluster table."""
    clusters: int = 0
    """Clusters of the records, including those of merged records."""

    @property
    def left_out(self) -> int:
        """Number of records that the selection has left out."""
        return sum(count for reason, count in self.tally.records.items() if reason.startswith("left out"))

    def lines(self) -> list[str]:
        """What was changed or left out."""
        return self.tally.describe(self.alphabet.unit)

    def describe(self, out: str | Path) -> list[str]:
        """Lines to print: what the corpus `out` contains, and what was changed, left out, moved or not found."""
        splits = ", ".join(f"{name} {count:,}" for name, count in self.proteins_by_split.items())
        records, units = counted(self.proteins, self.alphabet.record), counted(self.residues, self.alphabet.unit)
        lines = [f"{out}: {records}, {units} ({splits})", *self.lines()]
        for number, what in (
            (
                self.duplicates,
                "identifier of an earlier record; all are kept"
                + ", apart from identical sequences" * bool(self.merged),
            ),
            (self.merged, "merged with an identical sequence"),
            (self.moved_to_identical, "moved to the split of an identical sequence"),
            (self.without_cluster, "not in the cluster table; each is a cluster of its own"),
        ):
            if number:
                lines.append(f"{counted(number, 'record')}: {what}")
        if self.not_found:
            some = ", ".join(self.not_found[:3]) + (", ..." if len(self.not_found) > 3 else "")
            lines.append(f"warning: {counted(len(self.not_found), 'identifier')} to hold out not in the files: {some}")
        lines += self.tally.skipped
        return lines
