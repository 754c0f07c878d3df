"""Assays of deep mutational scanning: measured variants of one protein each, in ProteinGym's files or one's own."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from protlm.errors import UserError
from protlm.sequence.fasta import FastaFile
from protlm.tables import Table, read_table

REFERENCE = "DMS_substitutions.csv"
"""ProteinGym's name of the table of assays."""
WILD_TYPES = "wt.fasta"
"""Wild types in the folder of the assays, named like their files."""
UNKNOWN = "unknown"
"""Selection type of an assay that is not in the reference table."""
SITE_INDEPENDENT = "Site-Independent"
"""ProteinGym's name of the model that takes the sites of an alignment one by one."""
COLUMNS = ("ESM2 (8M)", "ESM2 (650M)", "TranceptEVE L")
"""Published models that are shown by default: small, large, and one with an alignment."""


@dataclass(frozen=True)
class Assay:
    """One file of variants and measurements.

    Attributes:
        id: the name of the assay.
        path: of its CSV file.
        sequence: the wild type.
        uniprot, selection: what is averaged over; without a reference table the id, and "unknown".
        alignment: the name of its file, or "".
    """

    id: str
    path: Path
    sequence: str
    uniprot: str
    selection: str
    alignment: str = ""


@dataclass(frozen=True)
class Assays:
    """The assays of a folder, in the order of the reference table, then by name.

    Attributes:
        found: at least one.
        missing: how many of the reference table have no file in the folder.
        foreign: CSV files that neither the reference table nor wt.fasta knows.
    """

    found: list[Assay]
    missing: int
    foreign: list[str]


def find_assays(folder: Path, reference: Path | None = None, others: Sequence[Path] = ()) -> Assays:
    """The assays of a folder with one CSV file for each.

    Args:
        folder: may hold the reference table as DMS_substitutions.csv, or wild types as wt.fasta, whose records are
            named like the CSV files. A wild type of wt.fasta goes before that of the reference table.
        reference: the reference table, if it is elsewhere.
        others: files of the folder that are no assays.

    Raises:
        UserError: for a folder without assays or without wild types, or a table that lacks columns.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected one with a CSV file for each assay")
    if reference is None and (folder / REFERENCE).is_file():
        reference = folder / REFERENCE
    wild_types = _wild_types(folder / WILD_TYPES) if (folder / WILD_TYPES).is_file() else {}
    if reference is None and not wild_types:
        raise UserError(f"{folder}: no wild types; expected {REFERENCE} or {WILD_TYPES} in it, or --reference")
    known = _entries(read_table(reference), folder) if reference else {}
    excluded = {path.resolve() for path in (*others, *([reference] if reference else []))}
    files = {path.name: path for path in sorted(folder.glob("*.csv")) if path.resolve() not in excluded}
    found, foreign = [], []
    for name in (*(name for name in known if name in files), *(name for name in files if name not in known)):
        path = files[name]
        assay = known.get(name)
        sequence = wild_types.get(path.stem) or (assay.sequence if assay else "")
        if not sequence:
            foreign.append(name)
        elif assay:
            found.append(Assay(assay.id, path, sequence, assay.uniprot, assay.selection, assay.alignment))
        else:
            found.append(Assay(path.stem, path, sequence, path.stem, UNKNOWN))
    if not found:
        raise UserError(f"{folder}: no CSV file of an assay that {reference or WILD_TYPES} knows")
    return Assays(found, len(known.keys() - files.keys()), foreign)


class Published:
    """Spearman correlations that others have published, by assay.

    Args:
        path: ProteinGym's DMS_substitutions_Spearman_DMS_level.csv.
        columns: names of models; None for those of `COLUMNS` that it has.

    Raises:
        UserError: for a file that is no such table, or without one of the columns.
    """

    def __init__(self, path: Path, columns: Sequence[str] | None = None) -> None:
        table = read_table(path)
        self.columns = [name for name in COLUMNS if name in table] if columns is None else list(dict.fromkeys(columns))
        ids = table["DMS ID"]
        extra = [SITE_INDEPENDENT] if SITE_INDEPENDENT in table else []
        self._values = {name: dict(zip(ids, table.numbers(name, True), strict=True)) for name in self.columns + extra}

    def __call__(self, column: str, assay: str) -> float:
        """The published figure, or NaN."""
        return float(self._values.get(column, {}).get(assay, np.nan))


def split_columns(text: str) -> list[str]:
    """Names separated by commas; commas in brackets belong to a name.

    >>> split_columns("ESM2 (650M), ProtSSN (k=10, h=512)")
    ['ESM2 (650M)', 'ProtSSN (k=10, h=512)']
    """
    return [name for part in re.split(r",(?![^(]*\))", text) if (name := part.strip())]


def _wild_types(path: Path) -> dict[str, str]:
    sequences: dict[str, str] = {}
    for record in FastaFile(path, identifier="word"):
        if record.id in sequences:
            raise UserError(f"{path}: {record.id!r} stands twice; expected one wild type for each assay")
        sequences[record.id] = record.sequence
    return sequences


def _entries(table: Table, folder: Path) -> dict[str, Assay]:
    """Name of the file -> assay, from the reference table."""
    columns = [table[name] for name in ("DMS_id", "DMS_filename", "target_seq", "UniProt_ID", "coarse_selection_type")]
    alignments = table["MSA_filename"] if "MSA_filename" in table else [""] * len(table.rows)
    entries = {}
    for number, (cells, alignment) in enumerate(zip(zip(*columns, strict=True), alignments, strict=True)):
        if not all(cells):
            raise UserError(f"{table.location(number)}: empty cell; expected id, file, sequence, UniProt id and type")
        assay, name, sequence, uniprot, selection = cells
        if {"/", "\\"} & set(assay + name + alignment):
            raise UserError(f"{table.location(number)}: a folder in the name of a file; expected names alone")
        entries[name] = Assay(assay, folder / name, sequence.upper(), uniprot, selection, alignment)
    return entries
