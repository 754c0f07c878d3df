"""Deep mutational scanning assays: measured variants of one protein each, in ProteinGym's layout or the user's."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from protlm.errors import UserError
from protlm.sequence.fasta import FastaFile
from protlm.sequence.nucleotides import NucleotidesError
from protlm.tables import Table, read_table

REFERENCES = ("DMS_substitutions.csv", "DMS_indels.csv", "clinical_substitutions.csv", "clinical_indels.csv")
"""ProteinGym's file names of the reference tables of assays."""
WILD_TYPES = "wt.fasta"
"""File of wild types in the folder of assays; records have the names of the CSV files."""
UNKNOWN = "unknown"
"""Selection type of an assay without an entry in the reference table."""
CLINICAL = "Clinical"
"""Selection type of clinical annotations, which ProteinGym's tables do not state."""
WILD_TYPE = "protein_sequence"
"""Column with the wild type in files of clinical annotations."""
SITE_INDEPENDENT = "Site-Independent"
"""ProteinGym's name of the model of amino acid frequencies at each site of an alignment."""
COLUMNS = ("ESM2 (8M)", "ESM2 (650M)", "TranceptEVE L")
"""Published models shown by default: a small one, a large one, and one that uses an alignment."""


@dataclass(frozen=True)
class Assay:
    """One assay.

    Attributes:
        id: name of the assay.
        path: of its CSV file.
        sequence: the wild type.
        uniprot, selection: UniProt id and selection type, by which results are averaged; without a reference table
            the name and "unknown".
        alignment: file name, or "".
    """

    id: str
    path: Path
    sequence: str
    uniprot: str
    selection: str
    alignment: str = ""


@dataclass(frozen=True)
class Assays:
    """The assays in a folder, in the order of the reference table, then by name.

    Attributes:
        found: at least one.
        missing: number of assays in the reference table without a file in the folder.
        foreign: CSV files that are neither in the reference table nor in wt.fasta.
    """

    found: list[Assay]
    missing: int
    foreign: list[str]


def find_assays(folder: Path, reference: Path | None = None, others: Sequence[Path] = ()) -> Assays:
    """Finds the assays in a folder, one CSV file each.

    Args:
        folder: with ProteinGym's reference tables (`REFERENCES`), or the wild types as wt.fasta, whose records have
            the names of the CSV files, or in a column `protein_sequence` of these. wt.fasta takes precedence.
        reference: the reference table, if it is elsewhere.
        others: files in the folder that are not assays.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected one with a CSV file for each assay")
    references = [reference] if reference else [folder / name for name in REFERENCES if (folder / name).is_file()]
    wild_types = _wild_types(folder / WILD_TYPES) if (folder / WILD_TYPES).is_file() else {}
    known: dict[str, Assay] = {}
    for path in references:
        known |= _entries(read_table(path), folder)
    excluded = {path.resolve() for path in (*others, *references)}
    files = {path.name: path for path in sorted(folder.glob("*.csv")) if path.resolve() not in excluded}
    if not known and not wild_types:
        wild_types = {path.stem: sequence for path in files.values() if (sequence := _own_wild_type(path))}
    if not known and not wild_types:
        expected = f"expected {REFERENCES[0]} or {WILD_TYPES} in it, or a reference table"
        raise UserError(f"{folder}: no wild types; {expected}")
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
        raise UserError(f"{folder}: no CSV file of an assay in {references[0] if references else WILD_TYPES}")
    return Assays(found, len(known.keys() - files.keys()), foreign)


class Published:
    """Published Spearman correlations, by assay.

    Args:
        path: ProteinGym's DMS_substitutions_Spearman_DMS_level.csv.
        columns: names of models; by default those of `COLUMNS` that the file has.
    """

    def __init__(self, path: Path, columns: Sequence[str] | None = None) -> None:
        table = read_table(path)
        self.columns = [name for name in COLUMNS if name in table] if columns is None else list(dict.fromkeys(columns))
        ids = table["DMS ID"]
        extra = [SITE_INDEPENDENT] if SITE_INDEPENDENT in table else []
        self._values = {name: dict(zip(ids, table.numbers(name, True), strict=True)) for name in self.columns + extra}

    def __call__(self, column: str, assay: str) -> float:
        """The published correlation, or NaN."""
        return float(self._values.get(column, {}).get(assay, np.nan))


def split_columns(text: str) -> list[str]:
    """Comma-separated names; commas in parentheses are part of a name.

    >>> split_columns("ESM2 (650M), ProtSSN (k=10, h=512)")
    ['ESM2 (650M)', 'ProtSSN (k=10, h=512)']
    """
    return [name for part in re.split(r",(?![^(]*\))", text) if (name := part.strip())]


def _wild_types(path: Path) -> dict[str, str]:
    sequences: dict[str, str] = {}
    try:
        for record in FastaFile(path, identifier="word", gaps=False):
            if record.id in sequences:
                raise UserError(f"{path}: duplicate identifier {record.id!r}; expected one wild type per assay")
            sequences[record.id] = record.sequence
    except NucleotidesError as error:
        raise error.final from error
    return sequences


def _own_wild_type(path: Path) -> str:
    """The wild type that a file states in each row; "" if it does not, or states several."""
    table = read_table(path, ragged=True)
    sequences = set(table[WILD_TYPE]) if WILD_TYPE in table else set()
    return sequences.pop().upper() if len(sequences) == 1 else ""


def _entries(table: Table, folder: Path) -> dict[str, Assay]:
    """File name -> assay, from the reference table."""
    names = ["DMS_id", "DMS_filename", "target_seq", "UniProt_ID", "coarse_selection_type"]
    clinical = not any(name in table for name in names[3:])  # annotations of one protein each
    columns = [table[name] for name in names[: 3 if clinical else 5]]
    columns += [columns[0], [CLINICAL] * len(table.rows)] if clinical else []
    alignments = table["MSA_filename"] if "MSA_filename" in table else [""] * len(table.rows)
    entries = {}
    for number, (cells, alignment) in enumerate(zip(zip(*columns, strict=True), alignments, strict=True)):
        if not all(cells):
            raise UserError(f"{table.location(number)}: empty cell; expected id, file, sequence, UniProt id and type")
        assay, name, sequence, uniprot, selection = cells
        if {"/", "\\"} & set(assay + name + alignment):
            raise UserError(f"{table.location(number)}: file name with a folder; expected the name alone")
        entries[name] = Assay(assay, folder / name, sequence.upper(), uniprot, selection, alignment)
    return entries
