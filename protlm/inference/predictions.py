"""Predictions at masks written to files: tables, matrices of probabilities and pictures."""

import csv
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from protlm.files import atomic_output
from protlm.inference.engine import Computer
from protlm.inference.fill import Prediction, chosen_top, most_probable, position_probabilities, predict_proteins
from protlm.inference.sequences import InputSequences
from protlm.plots.palette import palette_of
from protlm.plots.positions import check_picture, heat_map
from protlm.plots.positions import logo as sequence_logo
from protlm.progress import summed
from protlm.sequence.alphabets import alphabet_of
from protlm.sequence.fasta import none_left
from protlm.sequence.letters import MASK, Alphabet
from protlm.sequence.masked_records import TokenRecord
from protlm.strict_json import dumps
from protlm.tables import text_output

Row = tuple[str, int, int, str, float]
"""Of a table with the `columns`."""


def columns(alphabet: Alphabet) -> tuple[str, ...]:
    """Of a table of predictions.

    >>> from protlm.sequence.alphabets import PROTEIN
    >>> columns(PROTEIN)
    ('protein', 'position', 'rank', 'residue', 'probability')
    """
    return alphabet.record, "position", "rank", alphabet.unit, "probability"


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


def check_pictures(records: InputSequences, outputs: PredictionFiles, alphabet: Alphabet) -> InputSequences:
    """Gives back the records if their pictures can be drawn; to be called before the model is loaded.

    Raises:
        UserError: for pictures of more than one protein, of a long one, in an unknown format, or of an alphabet with
            too many letters.
    """
    for path in outputs.pictures:
        check_picture(path)
    if not outputs.pictures:
        return records
    palette_of(alphabet)
    alone = records.only("a logo or heat map shows", alphabet.record)
    for path in outputs.pictures:
        check_picture(path, alone.tokens(), alphabet.unit)
    return alone


def write_predictions(
    computer: Computer,
    records: InputSequences,
    outputs: PredictionFiles,
    top: int | None = None,
    one_pass: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[Row]:
    """Predicts and writes; all files appear together at the end. Returns the rows of a table without a file.

    Args:
        computer: of a bidirectional model.
        records: of the model's alphabet, with masks.
        outputs: what to write.
        top: number of letters per mask, see `chosen_top`.
        one_pass: see `protlm.inference.fill.probabilities`.
        progress: called with the positions, or bytes of the file, that are done and their total; 0 if unknown.
    """
    alphabet = alphabet_of(computer.model.config.alphabet)
    number = chosen_top(top, alphabet)
    count, advance = 0, summed(progress, records.tokens())
    pictures: list[tuple[TokenRecord, np.ndarray]] = []

    def predicted() -> Iterator[tuple[TokenRecord, list[Prediction]]]:
        if not outputs.every_position:
            yield from predict_proteins(computer, records, number, records.source)
            return
        for protein in records:
            p = position_probabilities(computer, protein.tokens, one_pass, advance)
            if matrix:
                _tsv(matrix).writerows(matrix_rows(protein, p, alphabet))
            if outputs.pictures:
                pictures.append((protein, p))
            yield protein, most_probable(protein, p[protein.tokens == alphabet.mask], number, alphabet)

    def rows() -> Iterator[Row]:
        nonlocal count
        for protein, predictions in predicted():
            count += 1
            yield from prediction_rows(protein, predictions, alphabet)
            if progress and records.source and not outputs.every_position:
                progress(records.position, records.size)

    with ExitStack() as stack:
        matrix = stack.enter_context(text_output(outputs.matrix)) if outputs.matrix else None
        drafts = {path: stack.enter_context(atomic_output(path)) for path in outputs.pictures}
        if matrix:
            letters = (alphabet.cells[token] for token in alphabet.drawn)
            _tsv(matrix).writerow((alphabet.record, "position", alphabet.unit, *letters))
        unwritten: list[Row] = []
        if outputs.table:
            write_rows(rows(), stack.enter_context(text_output(outputs.table)), outputs.layout, alphabet)
        else:
            unwritten = list(rows())
        if not count:
            raise none_left(records.source or "sequence", records.tally, alphabet.record)
        for protein, p in pictures:
            shown = alphabet.decode(protein.tokens).replace(MASK, "?")
            if outputs.logo:
                sequence_logo(drafts[outputs.logo], p, shown, palette_of(alphabet))
            if outputs.heat_map:
                heat_map(drafts[outputs.heat_map], p, shown, "probability", False, palette=palette_of(alphabet))
    return unwritten


def prediction_rows(protein: TokenRecord, predictions: Iterable[Prediction], alphabet: Alphabet) -> Iterator[Row]:
    """The rows of one protein in a table with the `columns`."""
    for one in predictions:
        for rank, (residue, p) in enumerate(zip(one.residues, one.probabilities, strict=True), start=1):
            yield protein.name, one.position, rank, alphabet.cells[alphabet.index[residue]], p


def write_rows(rows: Iterable[Row], file: IO[str], layout: str, alphabet: Alphabet) -> None:
    """Writes a table with the `columns` as "tsv", or as "json": a list of objects, one per line."""
    names = columns(alphabet)
    if layout == "tsv":
        table = _tsv(file)
        table.writerow(names)
        table.writerows((*cells, f"{p:.6g}") for *cells, p in rows)
        return
    file.write("[")
    for number, row in enumerate(rows):
        file.write(f"{',' if number else ''}\n{dumps(dict(zip(names, row, strict=True)))}")
    file.write("\n]\n")


def matrix_rows(protein: TokenRecord, p: np.ndarray, alphabet: Alphabet) -> Iterator[tuple[Any, ...]]:
    """One row per position: protein, position, residue (or `<mask>`) and the probabilities of all letters."""
    for position, (token, row) in enumerate(zip(protein.tokens, p, strict=True), start=1):
        yield protein.name, position, alphabet.cells[token], *(f"{value:.6g}" for value in row)


def _tsv(file: IO[str]) -> Any:
    return csv.writer(file, delimiter="\t", lineterminator="\n")  # which quotes a quotation mark, a letter of bytes
