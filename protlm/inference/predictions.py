"""What a model fills in, as files: proteins with masks in; tables, matrices and pictures out."""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import IO

import numpy as np

from protlm.errors import UserError
from protlm.files import atomic_output
from protlm.inference.engine import Computer
from protlm.inference.fill import TYPED, Prediction, Protein, fill_proteins, fill_with_matrices, masked_tokens
from protlm.plots.positions import check_picture, heat_map
from protlm.plots.positions import logo as draw_logo
from protlm.sequence.alphabet import MASK, STANDARD, TOKENS, decode
from protlm.sequence.fasta import FastaFile
from protlm.sequence.stream import STDIN

COLUMNS = ("protein", "position", "rank", "residue", "probability")
MASKED = TOKENS[MASK]
Row = tuple[str, int, int, str, float]
"""Of a table with `COLUMNS`."""


@dataclass(frozen=True)
class Outputs:
    """Files to write; None for none.

    Args:
        table: of the likeliest residues at each mask.
        layout: of the table, "tsv" or "json".
        matrix: table of all probabilities at every position.
        logo, heat_map: pictures of that matrix; the ending says of what kind.
    """

    table: Path | None = None
    layout: str = "tsv"
    matrix: Path | None = None
    logo: Path | None = None
    heat_map: Path | None = None

    @property
    def paths(self) -> list[Path]:
        return [path for path in (self.table, self.matrix, *self.pictures) if path]

    @property
    def pictures(self) -> list[Path]:
        return [path for path in (self.logo, self.heat_map) if path]


class Filling:
    """Proteins to fill in, and where the results go; all that can be known to be wrong is found when it is made.

    Args:
        source: a FASTA file, plain or compressed, "-" for standard input, or a sequence.
        outputs: what to write.
        allow_nucleotides: take a file that looks like DNA or RNA all the same.
        inputs: other files that must not be written over.

    Attributes:
        file: None if the source is a sequence.
        every: probabilities at every position are wanted, not only at masks.

    Raises:
        UserError: for a source that is neither, for outputs that cannot be, for pictures of several proteins.
    """

    def __init__(
        self, source: str, outputs: Outputs, allow_nucleotides: bool = False, inputs: Iterable[Path] = ()
    ) -> None:
        self.outputs, self.every = outputs, bool(outputs.matrix or outputs.pictures)
        for path in outputs.pictures:
            check_picture(path)
        _check_outputs([Path(source) if os.path.exists(source) else Path(STDIN), *inputs], outputs.paths)
        self._proteins, self.file = read_masked(source, allow_nucleotides)
        self._positions = 0
        if outputs.pictures or not self.file:
            first = list(islice(self._proteins, 2))
            if len(first) > 1:
                raise UserError(f"{source}: has more than one protein, a picture shows one; a matrix can have them all")
            self._positions = sum(len(protein.tokens) for protein in first)
            for path in outputs.pictures:
                check_picture(path, self._positions)
            self._proteins = chain(first, self._proteins)

    def run(
        self,
        computer: Computer,
        top: int = 5,
        in_one_pass: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[Row]:
        """Computes and writes; the files appear when all is done.

        Args:
            computer: of a bidirectional model.
            top: residues for each mask, 1 to 20.
            in_one_pass: see `protlm.inference.fill.probabilities`.
            progress: called with positions, or bytes read, done and in all; 0 is unknown.

        Returns:
            The rows of the table if it is not written.
        """
        report = progress or (lambda done, total: None)
        with ExitStack() as stack:
            drafts = {path: stack.enter_context(atomic_output(path)) for path in self.outputs.paths}
            kept: list[tuple[Protein, np.ndarray]] = []
            matrix = stack.enter_context(drafts[self.outputs.matrix].open("w")) if self.outputs.matrix else None
            if matrix:
                matrix.write("\t".join(("protein", "position", "residue", *STANDARD)) + "\n")

            def keep(protein: Protein, values: np.ndarray) -> None:
                if matrix:
                    matrix.writelines(matrix_lines(protein, values))
                if self.outputs.pictures:
                    kept.append((protein, values))

            rows = self._rows(computer, top, in_one_pass, keep, report)
            shown: list[Row] = []
            if self.outputs.table:
                with drafts[self.outputs.table].open("w") as file:
                    write_rows(rows, file, self.outputs.layout)
            else:
                shown = list(rows)
            if matrix:
                matrix.close()
            for protein, values in kept:
                if self.outputs.logo:
                    draw_logo(drafts[self.outputs.logo], values, letters(protein.tokens))
                if self.outputs.heat_map:
                    heat_map(drafts[self.outputs.heat_map], values, letters(protein.tokens), "probability", False)
        return shown

    def _rows(
        self,
        computer: Computer,
        top: int,
        in_one_pass: bool,
        keep: Callable[[Protein, np.ndarray], None],
        report: Callable[[int, int], None],
    ) -> Iterator[Row]:
        done = proteins = 0

        def advance(positions: int) -> None:
            nonlocal done
            done += positions
            report(done, self._positions)

        if self.every:
            predicted = fill_with_matrices(computer, self._proteins, keep, top, in_one_pass, advance)
        else:
            predicted = fill_proteins(computer, self._proteins, top, self.file.path if self.file else "")
        for proteins, (protein, predictions) in enumerate(predicted, start=1):  # noqa: B007
            yield from prediction_rows(protein, predictions)
            if self.file and not self.every:
                report(self.file.position, self.file.size)
        if not proteins:
            raise UserError(f"{self.file.path if self.file else TYPED}: no record has a sequence; expected proteins")


def read_masked(source: str, allow_nucleotides: bool = False) -> tuple[Iterator[Protein], FastaFile | None]:
    """The proteins of a FASTA file or of standard input ("-"), or the one that is typed; and the file if there is one.

    Raises:
        UserError: for what is neither.
    """
    if source == STDIN or os.path.exists(source):
        file = FastaFile(source, allow_nucleotides, masked=True)
        return (Protein(record.id, masked_tokens(record.sequence)) for record in file), file
    if "<" not in source and not source.isalpha() and source.strip():
        raise UserError(f"{source}: no such file, and no sequence with {MASKED}, such as MKT{MASKED}LLI")
    return iter([Protein(TYPED, masked_tokens(source))]), None


def prediction_rows(protein: Protein, predictions: Iterable[Prediction]) -> Iterator[Row]:
    """The rows of a protein in a table with `COLUMNS`."""
    for one in predictions:
        for rank, (residue, p) in enumerate(zip(one.residues, one.probabilities, strict=True), start=1):
            yield protein.name, one.position, rank, residue, p


def write_rows(rows: Iterable[Row], file: IO[str], layout: str) -> None:
    """Writes a table as "tsv", or as "json": a list of objects, one a line."""
    if layout == "tsv":
        file.write("\t".join(COLUMNS) + "\n")
        file.writelines(
            f"{name}\t{position}\t{rank}\t{residue}\t{p:.6g}\n" for name, position, rank, residue, p in rows
        )
        return
    file.write("[")
    for number, row in enumerate(rows):
        file.write(f"{',' if number else ''}\n{json.dumps(dict(zip(COLUMNS, row, strict=True)))}")
    file.write("\n]\n")


def matrix_lines(protein: Protein, rows: np.ndarray) -> Iterator[str]:
    """A line for each position: protein, position, residue (or `<mask>`), and the twenty probabilities."""
    for position, (token, row) in enumerate(zip(protein.tokens, rows, strict=True), start=1):
        numbers = "\t".join(f"{p:.6g}" for p in row)
        yield f"{protein.name}\t{position}\t{TOKENS[token]}\t{numbers}\n"


def letters(tokens: np.ndarray) -> str:
    """L letters, "?" where there is a mask; for pictures."""
    return decode(tokens).replace(MASKED, "?")


def _check_outputs(inputs: list[Path], outputs: list[Path]) -> None:
    taken = {path.resolve() for path in inputs}
    for path in outputs:
        if path.is_dir():
            raise UserError(f"{path}: is a folder; expected the name of a file to write")
        if path.resolve() in taken:
            raise UserError(f"{path}: inputs and outputs have to be different files")
        taken.add(path.resolve())
