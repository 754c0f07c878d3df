"""Counts of changed and omitted records, reported once at the end."""

from collections import Counter
from collections.abc import Mapping

from protlm.errors import counted


class Tally:
    """Counts the records and residues changed or left out, by reason.

    Attributes:
        skipped: lines that list invalid records, which are left out on request.

    >>> tally = Tally()
    >>> tally.add("J replaced by X", 27, 12)
    >>> tally.describe()
    ['12 records: J replaced by X (27 residues)']
    """

    def __init__(self, counts: Mapping[str, Mapping[str, int]] | None = None) -> None:
        self.residues: Counter[str] = Counter()
        self.records: Counter[str] = Counter()
        self.skipped: list[str] = []
        for reason, count in (counts or {}).items():
            self.add(reason, count["residues"], count["records"])

    def add(self, reason: str, residues: int, records: int = 1) -> None:
        """Adds to the counts of a reason; does nothing without records."""
        if records:
            self.residues[reason] += residues
            self.records[reason] += records

    def update(self, other: "Tally") -> None:
        """Adds the counts of another tally."""
        self.residues.update(other.residues)
        self.records.update(other.records)
        self.skipped += other.skipped

    def to_dict(self) -> dict[str, dict[str, int]]:
        """Plain values, ready for JSON; the constructor accepts them."""
        return {reason: {"records": n, "residues": self.residues[reason]} for reason, n in self.records.items()}

    def describe(self, unit: str = "residue") -> list[str]:
        """One line for each reason; `unit` is what a letter is."""
        lines = []
        for reason, records in self.records.items():
            residues = self.residues[reason]
            tail = f" ({counted(residues, unit)})" if residues else ""
            lines.append(f"{counted(records, 'record')}: {reason}{tail}")
        return lines

    def lines(self, unit: str = "residue") -> list[str]:
        """The lines of `describe`, then those of the records that were skipped."""
        return [*self.describe(unit), *self.skipped]
