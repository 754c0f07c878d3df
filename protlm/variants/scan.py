"""Variants to score: of one protein or several, from a table, a list, or all substitutions."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from protlm.errors import UserError
from protlm.sequence.fasta import FastaFile, Record, none_left
from protlm.tables import Table, read_table
from protlm.variants.assessment import assess
from protlm.variants.notation import all_singles
from protlm.variants.scan_result import ScanResult
from protlm.variants.sources import Sources
from protlm.variants.variant_table import MUTANT, PROTEIN, VariantTable


class Scan:
    """Variants and their wild types.

    Args:
        proteins: the wild type, or several if the table has a column `protein` with their identifiers.
        source: of the proteins, for messages.
        path: of a table, see `VariantTable`.
        names: of variants, if there is no table; without either, all single substitutions are scored.
        offset: see `parse`.
        invalid, column: see `VariantTable`.

    Raises:
        UserError: also if none of the variants is valid.
    """

    def __init__(
        self,
        proteins: Iterable[Record],
        source: str,
        path: Path | None,
        names: Sequence[str] = (),
        offset: int = 0,
        invalid: str = "error",
        column: str | None = None,
    ) -> None:
        records = self._records = list(proteins)
        self._offset = offset
        self.notes = proteins.tally.lines() if isinstance(proteins, FastaFile) else []
        self.source, self.table = source, None
        if not records:
            raise none_left(source, proteins.tally if isinstance(proteins, FastaFile) else None)
        self.wild_types = {record.id: record.sequence for record in records}
        if len(self.wild_types) < len(records):
            twice = next(name for name, count in Counter(record.id for record in records).items() if count > 1)
            raise UserError(f"{source}: identifier {twice!r} occurs more than once; expected unique ones")
        table = read_table(path, ragged=True) if path else Table("variants", [MUTANT], [[name] for name in names])
        several = len(records) > 1 and PROTEIN in table
        if not several:
            self.only(f"unless the table of variants has a column {PROTEIN!r}" if path else "protein")
        if path or names:
            wild_type = self.wild_types if several else records[0].sequence
            self.table = VariantTable(table, wild_type, offset, invalid, column)
            self.groups = self.table.groups
        else:
            self.groups = {"": (None, all_singles(records[0].sequence, offset))}
        self.count = sum(len(variants) for _, variants in self.groups.values())
        if self.table and not self.count:
            raise self.table.refusal()
        if not self.count:
            raise UserError(f"{source}: none of the twenty amino acids occurs; there is nothing to substitute")

    def only(self, where: str) -> str:
        """The sequence of the only protein; raises a UserError that ends with `where` if there are several."""
        if len(self.wild_types) != 1:
            raise UserError(f"{self.source}: {len(self.wild_types):,} proteins; expected one {where}")
        return next(iter(self.wild_types.values()))

    def assess(self, sources: Callable[[str], Sources], scorer: str = "auto") -> ScanResult:
        """Scores the variants of each protein; `sources` maps a wild type to what its scores may rest on."""
        groups = self.groups.items()
        assessed = {key: (rows, assess(each, sources(each.sequence), scorer)) for key, (rows, each) in groups}
        return ScanResult(assessed, self.table, self._records, self._offset, self.notes)
