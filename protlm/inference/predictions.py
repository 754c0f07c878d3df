"""Predictions at masks written to files: tables, matrices of probabilities and pictures."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np

from protlm.errors import UserError
from protlm.files import atomic_output
from protlm.inference.engine import Computer
from protlm.inference.fill import (
    Prediction,
    Protein,
    check_top,
    masked_tokens,
    most_probable,
    position_probabilities,
    predict_proteins,
)
from protlm.plots.positions import check_picture, heat_map
from protlm.plots.positions import logo as sequence_logo
from protlm.progress import summed
from protlm.sequence.alphabet import MASK, STANDARD, TOKENS, decode
from protlm.sequence.fasta import FastaFile, Record, none_left
from protlm.strict_json import dumps
from protlm.tables import text_output

COLUMNS = ("protein", "position", "rank", "residue", "probability")
Row = tuple[str, int, int, str, float]
"""Of a table with `COLUMNS`."""


@dataclass(frozen=True)
class PredictionFiles:
    """Files to write; None omits a file.

    Args:
        table: most probable amino acids at each mask.
        layout: of the table, "tsv" or "json".
        matrix: table of the probabilities of all amino acids at every position.
        logo, heat_map: pictures of these probabilities, of one protein.
    """

    table: Path | None = None
    layout: str = "tsv"
    matrix: Path | None = None
    logo: Path | None = None
    heat_map: Path | None = None

    @property
    def pictures(self) -> list[Path]:
        return [path for path in (self.logo, self.heat_map) if path]

    @property
    def every_position(self) -> bool:
        """Whether probabilities are needed at every position, not only at masks."""
        return bool(self.matrix or self.pictures)


def check_pictures(records: Iterable[Record], outputs: PredictionFiles) -> Iterable[Record]:
    """Gives back the records if their pictures can be drawn; to be called before the model is loaded.

    Raises:
        UserError: for pictures of more than one protein, of a long one, or in an unknown format.
    """
    for path in outputs.pictures:
        check_picture(path)
    if not outputs.pictures:
        return records
    first = list(islice(records, 2))
    if len(first) != 1:
        source = f"{records.path}: " if isinstance(records, FastaFile) else ""
        raise UserError(f"{source}{'several' if first else 'no'} proteins; a logo or heat map shows exactly one")
    for path in outputs.pictures:
        check_picture(path, len(masked_tokens(first[0].sequence)))
    return first


def write_predictions(
    computer: Computer,
    records: Iterable[Record],
    outputs: PredictionFiles,
    top: int = 5,
    one_pass: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[Row]:
    """Predicts and writes; all files appear together at the end. Returns the rows of a table without a file.

    Args:
        computer: of a bidirectional model.
        records: proteins, with `<mask>` in place of residues.
        outputs: what to write.
        top: number of amino acids per mask, 1 to 20.
        one_pass: see `protlm.inference.fill.probabilities`.
        progress: called with the positions, or bytes of the file, that are done and their total; 0 if unknown.
    """
    check_top(top)
    source = str(records.path) if isinstance(records, FastaFile) else ""
    proteins = (Protein(record.id, masked_tokens(record.sequence)) for record in records)
    total = sum(len(masked_tokens(record.sequence)) for record in records) if isinstance(records, list) else 0
    count, advance = 0, summed(progress, total)
    pictures: list[tuple[Protein, np.ndarray]] = []

    def predicted() -> Iterator[tuple[Protein, list[Prediction]]]:
        if not outputs.every_position:
            yield from predict_proteins(computer, proteins, top, source)
            return
        for protein in proteins:
            p = position_probabilities(computer, protein.tokens, one_pass, advance)
            if matrix:
                matrix.writelines(matrix_lines(protein, p))
            if outputs.pictures:
                pictures.append((protein, p))
            yield protein, most_probable(protein, p[protein.tokens == MASK], top)

    def rows() -> Iterator[Row]:
        nonlocal count
        for protein, predictions in predicted():
            count += 1
            yield from prediction_rows(protein, predictions)
            if progress and isinstance(records, FastaFile) and not outputs.every_position:
                progress(records.position, records.size)

    with ExitStack() as stack:
        matrix = stack.enter_context(text_output(outputs.matrix)) if outputs.matrix else None
        drafts = {path: stack.enter_context(atomic_output(path)) for path in outputs.pictures}
        if matrix:
            matrix.write("\t".join(("protein", "position", "residue", *STANDARD)) + "\n")
        unwritten: list[Row] = []
        if outputs.table:
            write_rows(rows(), stack.enter_context(text_output(outputs.table)), outputs.layout)
        else:
            unwritten = list(rows())
        if not count:
            raise none_left(source or "sequence", records.tally if isinstance(records, FastaFile) else None)
        for protein, p in pictures:
            letters = decode(protein.tokens).replace(TOKENS[MASK], "?")
            if outputs.logo:
                sequence_logo(drafts[outputs.logo], p, letters)
            if outputs.heat_map:
                heat_map(drafts[outputs.heat_map], p, letters, "probability", False)
    return unwritten


def prediction_rows(protein: Protein, predictions: Iterable[Prediction]) -> Iterator[Row]:
    """The rows of one protein in a table with `COLUMNS`."""
    for one in predictions:
        for rank, (residue, p) in enumerate(zip(one.residues, one.probabilities, strict=True), start=1):
            yield protein.name, one.position, rank, residue, p


def write_rows(rows: Iterable[Row], file: IO[str], layout: str) -> None:
    """Writes a table with `COLUMNS` as "tsv", or as "json": a list of objects, one per line."""
    if layout == "tsv":
        file.write("\t".join(COLUMNS) + "\n")
        file.writelines("\t".join((name, *map(str, ranked), f"{p:.6g}\n")) for name, *ranked, p in rows)
        return
    file.write("[")
    for number, row in enumerate(rows):
        file.write(f"{',' if number else ''}\n{dumps(dict(zip(COLUMNS, row, strict=True)))}")
    file.write("\n]\n")


def matrix_lines(protein: Protein, p: np.ndarray) -> Iterator[str]:
    """One line per position: protein, position, residue (or `<mask>`) and the twenty probabilities."""
    for position, (token, row) in enumerate(zip(protein.tokens, p, strict=True), start=1):
        numbers = "\t".join(f"{value:.6g}" for value in row)
        yield f"{protein.name}\t{position}\t{TOKENS[token]}\t{numbers}\n"
