"""Labelled proteins: a table, or FASTA-like strings of labels per residue as those of FLIP."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from protlm.errors import UserError, counted
from protlm.sequence.alphabet import ResidueError, clean
from protlm.sequence.containers import ID, SEQUENCE
from protlm.sequence.fasta import FastaFile
from protlm.sequence.nucleotides import NucleotidesError
from protlm.supervised.letters import Letters, is_letters, merged, read_letters
from protlm.supervised.target import VALUED, Target, residue_target, target_of
from protlm.tables import Table, read_table, write_table

PARTS = {"train": "train", "valid": "valid", "val": "valid", "validation": "valid", "dev": "valid", "test": "test"}
"""Value of a split column, in lower case -> part."""
SPLITS = ("split", "set")
"""Columns that are taken for the split."""
_VALIDATION = "validation"  # FLIP's second column: true for the validation part of the training set


@dataclass
class LabelledSet:
    """n labelled proteins.

    Attributes:
        source: file name, for messages.
        ids: (n,).
        sequences: (n,), normalised.
        targets: one or more.
        parts: (n,) "train", "valid" or "test"; None without a split.
        notes: what was left out or changed, a line each.
    """

    source: str
    ids: list[str]
    sequences: list[str]
    targets: list[Target]
    parts: np.ndarray | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def fingerprint(self) -> str:
        """XXH3 hash (128 bits, hexadecimal) of sequences, labels and split."""
        digest = xxhash.xxh3_128("\n".join(self.sequences).encode())
        for target in self.targets:
            digest.update("\n".join((target.name, target.kind, *target.classes)).encode())
            for array in (target.y, target.owner, target.position):
                digest.update(np.ascontiguousarray(array).data)
        digest.update(("" if self.parts is None else " ".join(self.parts)).encode())
        return digest.hexdigest()


def read_labels(
    labels: Any,
    sequences: str | Path | None = None,
    mask: str | Path | None = None,
    targets: Sequence[str] = (),
    split: str | None = None,
    kinds: Mapping[str, str] | None = None,
    classes: Mapping[str, str] | None = None,
) -> LabelledSet:
    """Reads labelled proteins.

    Args:
        labels: CSV, TSV or Parquet file, or a pandas DataFrame, with a column `sequence`, or `id` together with
            `sequences`; or a FASTA file with a letter per residue instead of residues.
        sequences: FASTA file of the proteins.
        mask: FASTA file with 1 for each residue to use and 0 for others, such as unresolved ones.
        targets: columns with labels; by default the only one that is left.
        split: column with train, valid or test; by default `split` or `set`, if there is one.
        kinds: target -> kind, instead of the one found.
        classes: of a FASTA file of labels: letter of a class -> letters of the file that count as it.

    Raises:
        UserError: for files, columns or cells that cannot be used.
    """
    if isinstance(labels, str | Path) and is_letters(labels):
        return _of_letters(labels, sequences, mask, targets, classes or {})
    if mask is not None:
        raise UserError(
            "mask: applies to a FASTA file of residue labels; in a table, write - for such residues", "mask"
        )
    if classes:
        raise UserError("classes: apply to a FASTA file of residue labels; in a table, change its cells", "classes")
    return _of_table(table_of(labels), sequences, targets, split, kinds or {})


def table_of(labels: Any) -> Table:
    """The cells of a CSV, TSV or Parquet file, or of a pandas DataFrame; a UserError for anything else, or no rows."""
    if isinstance(labels, str | Path):
        table = _read_parquet(labels) if Path(labels).suffix.lower() == ".parquet" else read_table(labels)
    elif hasattr(labels, "columns"):
        table = _of_frame(labels, "the DataFrame")
    else:
        raise UserError(f"labels: expected a file or a pandas DataFrame, got a {type(labels).__name__}", "labels")
    if not table.rows:
        raise UserError(f"{table.path}: no rows after the header; expected one protein per row")
    return table


def _of_table(
    table: Table, fasta: str | Path | None, targets: Sequence[str], split: str | None, kinds: Mapping[str, str]
) -> LabelledSet:
    ids = table[ID] if ID in table or fasta else [f"row {row + 1}" for row in range(len(table.rows))]
    notes = []
    if fasta:
        proteins, unused = _sequences_of(fasta, ids, table.path)
        notes += [f"{fasta}: {counted(unused, 'protein')} without a row in {table.path}, not used"] * bool(unused)
    else:
        if SEQUENCE not in table:
            raise UserError(
                f"{table.path}: no column {SEQUENCE!r}; found: {', '.join(table.columns[:8])}; "
                "name it so, or give the proteins as FASTA with sequences",
                "sequences",
            )
        proteins = [_cleaned(table, row, cell) for row, cell in enumerate(table[SEQUENCE])]
    chosen = next((name for name in SPLITS if name in table), None) if split is None else split
    names = list(targets) or _only_target(table, chosen)
    if duplicates := [name for name in names if names.count(name) > 1]:
        raise UserError(f"target {duplicates[0]!r}: given twice", "target")
    if unknown := [name for name in kinds if name and name not in names]:
        raise UserError(f"kind of {unknown[0]!r}: not a target; the targets are {', '.join(names)}", "kind")
    found = [target_of(name, table[name], proteins, kinds.get(name, kinds.get("")), table.path) for name in names]
    notes += [note for target in found for note in _contradictions(target, proteins)]
    return LabelledSet(table.path, ids, proteins, found, None if chosen is None else _parts(table, chosen), notes)


def _contradictions(target: Target, sequences: list[str]) -> list[str]:
    """How many proteins have the sequence of another, with another class."""
    if target.per_residue or target.kind in VALUED:
        return []
    labels: dict[str, set[tuple[float, ...]]] = {}
    each = [tuple(np.atleast_1d(label).tolist()) for label in target.y]
    for owner, label in zip(target.owner.tolist(), each, strict=True):
        labels.setdefault(sequences[owner], set()).add(label)
    count = sum(len(labels[sequences[owner]]) > 1 for owner in target.owner.tolist())
    what = f"{counted(count, 'protein')} with a sequence that occurs with different labels"
    return [f"{target.name}: {what}"] if count else []


def _only_target(table: Table, split: str | None) -> list[str]:
    reserved = {ID, SEQUENCE, split or "", *SPLITS, _VALIDATION}
    left = [name for name in table.columns if name.casefold() not in reserved]
    if len(left) == 1:
        return left
    if "target" in left:
        return ["target"]
    found = f"found: {', '.join(left)}" if left else "there is none beside id, sequence and split"
    raise UserError(f"{table.path}: expected target, the column with the labels; {found}", "target")


def _parts(table: Table, split: str) -> np.ndarray:
    parts = []
    for row, cell in enumerate(table[split]):
        if cell.casefold() not in PARTS:
            raise UserError(f"{table.location(row)}: {split} is {cell!r}; expected train, valid or test")
        parts.append(PARTS[cell.casefold()])
    if _VALIDATION in table and split.casefold() != _VALIDATION:
        flags = [cell.casefold() in ("true", "1", "1.0") for cell in table[_VALIDATION]]
        parts = ["valid" if flag and part == "train" else part for flag, part in zip(flags, parts, strict=True)]
    return np.array(parts)


def _of_letters(
    labels: str | Path,
    fasta: str | Path | None,
    mask: str | Path | None,
    targets: Sequence[str],
    classes: Mapping[str, str],
) -> LabelledSet:
    if fasta is None:
        raise UserError(f"{labels}: labels per residue; expected sequences, a FASTA file of the proteins", "sequences")
    if len(targets) > 1:
        raise UserError(f"{labels}: has one label per residue, expected at most one target", "target")
    records = merged(read_letters(labels), classes, str(labels))
    ids = [record.id for record in records]
    proteins, unused = _sequences_of(fasta, ids, str(labels))
    letters = [record.letters for record in records]
    if letters == proteins:
        raise UserError(f"{labels}: its labels are the sequences themselves; expected a label per residue")
    name = targets[0] if targets else "label"
    if mask is not None:
        residue_target(name, letters, proteins, str(labels))  # reports a wrong length of labels before one of the mask
        letters = _masked(records, mask)
    parts = [record.part for record in records]
    if any(parts) and not all(parts):
        raise UserError(f"{labels}, record {parts.index('') + 1}: no SET= in the header, as other records have")
    notes = [f"{fasta}: {counted(unused, 'protein')} without labels, not used"] * bool(unused)
    target = residue_target(name, letters, proteins, str(labels))
    return LabelledSet(str(labels), ids, proteins, [target], np.array(parts) if all(parts) else None, notes)


def _masked(records: Sequence[Letters], mask: str | Path) -> list[str]:
    kept = {record.id: record.letters for record in read_letters(mask)}
    masked = []
    for record in records:
        flags = kept.get(record.id, "1" * len(record.letters))
        if len(flags) != len(record.letters) or set(flags) - {"0", "1"}:
            raise UserError(f"{mask}: {record.id}: expected {len(record.letters):,} of 0 and 1, one per residue")
        masked.append(
            "".join(letter if flag == "1" else "-" for letter, flag in zip(record.letters, flags, strict=True))
        )
    return masked


def _sequences_of(fasta: str | Path, ids: Sequence[str], source: str) -> tuple[list[str], int]:
    """The sequences of identifiers, and how many others the file has."""
    found: dict[str, str] = {}
    try:
        for number, record in enumerate(FastaFile(fasta), start=1):
            if found.setdefault(record.id, record.sequence) != record.sequence:
                raise UserError(
                    f"{fasta}, record {number}: identifier {record.id!r} again, with another sequence; rename one"
                )
    except NucleotidesError as error:
        raise error.final from error
    missing = [name for name in ids if name not in found]
    if missing:
        raise UserError(
            f"{source}: {counted(len(missing), 'id')} not in {fasta}, such as {missing[0]!r}; expected the identifiers "
            f"of its headers, such as {next(iter(found))!r}"
        )
    return [found[name] for name in ids], len(found.keys() - set(ids))


def _cleaned(table: Table, row: int, cell: str) -> str:
    try:
        sequence = clean(cell)
    except ResidueError as error:
        raise UserError(f"{table.location(row)}: {SEQUENCE}: {error}") from error
    if not sequence:
        raise UserError(f"{table.location(row)}: {SEQUENCE} is blank; expected amino acids in one-letter code")
    return sequence


def _read_parquet(path: str | Path) -> Table:
    from protlm.embedding.parquet import import_pyarrow

    if not Path(path).is_file():
        raise UserError(f"{path}: no such file")
    try:
        frame = import_pyarrow().parquet.read_table(path).to_pandas()
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a Parquet file, or damaged ({str(error).splitlines()[0]})") from error
    return _of_frame(frame, str(path))


def write_labels(labels: Any, path: Path) -> None:
    """Writes a DataFrame as a table that `read_labels` reads in the same way.

    Raises:
        UserError: for anything else.
    """
    if not hasattr(labels, "columns"):
        raise UserError(f"labels: expected a file or a pandas DataFrame, got a {type(labels).__name__}", "labels")
    table = _of_frame(labels, "the DataFrame")
    write_table(path, table.columns, table.rows)


def _of_frame(frame: Any, source: str) -> Table:
    """The cells of a DataFrame as text, blank where a value is missing."""
    blank = frame.isna().to_numpy()
    columns = [str(name) for name in frame.columns]
    cells = [[_text(value) for value in frame.iloc[:, number]] for number in range(len(columns))]
    rows = [
        ["" if blank[row, number] else cells[number][row] for number in range(len(columns))]
        for row in range(len(frame))
    ]
    return Table(source, columns, rows)


def _text(value: Any) -> str:
    return str(value.tolist() if isinstance(value, np.ndarray) else value)
