"""Predictions as a table: a row per protein, or per residue, with the probabilities of all classes.

Written as CSV or TSV row by row, or as Parquet in row groups; as FASTA-like strings of residue labels.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

from protlm.errors import UserError
from protlm.supervised.predictor import Head, called, written
from protlm.tables import rows_to

DIGITS = 4
"""Significant digits of probabilities and values in text files."""
_GROUP = 50_000  # rows of a row group


class Answer(NamedTuple):
    """A protein and what was predicted: target -> (K,) or (L, K) float32 probabilities or values."""

    id: str
    sequence: str
    values: dict[str, np.ndarray]


def columns(heads: Sequence[Head]) -> list[str]:
    """id; of residues position and residue; for each target the prediction, and a column TARGET:CLASS per class."""
    found = ["id", *(["position", "residue"] if heads[0].per_residue else [])]
    for head in heads:
        found += [head.target, *(f"{head.target}:{name}" for name in head.classes)]
    return found


def rows(answers: Iterable[Answer], heads: Sequence[Head]) -> Iterator[list[Any]]:
    """Cells of all rows; numbers as floats."""
    for name, sequence, values in answers:
        if not heads[0].per_residue:
            cells: list[Any] = [name]
            for head in heads:
                cells.append(_label(head, values[head.target]))
                cells += values[head.target].tolist() if head.classes else []
            yield cells
            continue
        labels = {head.target: called(head, values[head.target]) for head in heads}
        for position, residue in enumerate(sequence):
            cells = [name, position + 1, residue]
            for head in heads:
                cells.append(labels[head.target][position])
                cells += values[head.target][position].tolist() if head.classes else []
            yield cells


def _label(head: Head, values: np.ndarray) -> Any:
    label = called(head, values)
    return label if isinstance(label, float) else written(label)


def write_text(file: TextIO, answers: Iterable[Answer], heads: Sequence[Head], delimiter: str = ",") -> None:
    """Writes CSV or TSV."""
    cells = ([_text(cell) for cell in row] for row in rows(answers, heads))
    rows_to(file, columns(heads), cells, delimiter)


def _text(cell: Any) -> Any:
    return f"{cell:.{DIGITS}g}" if isinstance(cell, float) else cell


def write_parquet(path: Path, answers: Iterable[Answer], heads: Sequence[Head], about: str) -> None:
    """Writes Parquet with the same columns; probabilities are float32. `about` goes into the metadata."""
    from protlm.embedding.parquet import ABOUT, import_pyarrow

    arrow, names = import_pyarrow(), columns(heads)
    labels = {head.target for head in heads if head.classes}
    kinds = {"position": arrow.int32()} | dict.fromkeys(("id", "residue", *labels), arrow.string())
    schema = arrow.schema([(name, kinds.get(name, arrow.float32())) for name in names], {ABOUT: about.encode()})
    every = rows(answers, heads)
    with arrow.parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        while group := list(islice(every, _GROUP)):
            arrays = [
                arrow.array(column, kind) for column, kind in zip(zip(*group, strict=True), schema.types, strict=True)
            ]
            writer.write_table(arrow.table(arrays, schema=schema))


def check_strings(heads: Sequence[Head], path: object) -> None:
    """Raises a UserError unless there is one target, of residues, whose classes are letters."""
    head = heads[0]
    if len(heads) > 1 or not head.per_residue or not head.classes:
        what = "several targets" if len(heads) > 1 else f"{head.target} is predicted per protein"
        if head.per_residue and not head.classes:
            what = f"{head.target} is a number per residue"
        raise UserError(f"{path}: {what}; FASTA takes classes of one target per residue, use a table")


def write_strings(file: TextIO, answers: Iterable[Answer], heads: Sequence[Head]) -> None:
    """Writes a record per protein: its header, and a line with a letter per residue."""
    for name, _, values in answers:
        file.write(f">{name}\n{called(heads[0], values[heads[0].target])}\n")
