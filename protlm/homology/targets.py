"""The proteins of sequence databases, streamed in blocks for HMMER."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from protlm.errors import UserError
from protlm.homology.hmmer import AMINO, LONGEST, digital, easel
from protlm.sequence.fasta import none_left
from protlm.sequence.fasta_files import FastaFiles, checked_inputs
from protlm.sequence.stream import STDIN
from protlm.sequence.tally import Tally

BLOCK = 1_000_000
"""Residues of a block: the work of a fraction of a second, and a few megabytes of memory."""


class Targets:
    """The proteins of FASTA files, plain or compressed; they are read again for each iteration of a search.

    Args:
        paths: of the files.
        allow_nucleotides, invalid: see `FastaFile`.
        block: residues from which a block is complete.

    Attributes:
        reading: the options that are not at their defaults.
        size: bytes of all files.
        tally: what the last reading has changed or left out.

    Raises:
        UserError: for a file that cannot be read, or only once.
    """

    def __init__(
        self, paths: Sequence[str | Path], allow_nucleotides: bool = False, invalid: str = "error", block: int = BLOCK
    ) -> None:
        self.paths = checked_inputs(list(paths))
        for path in self.paths:
            if str(path) == STDIN or not path.is_file():
                raise UserError(f"{path}: a database is read several times; write it to a file first")
        given = {"allow_nucleotides": allow_nucleotides, "invalid": invalid}
        self.reading = {name: value for name, value in given.items() if value not in (False, "error")}
        self._files = FastaFiles(self.paths, allow_nucleotides, invalid=invalid)
        self._block = block
        self.size, self.position = self._files.size, 0
        self.tally = Tally()

    def blocks(self) -> Iterator[easel.DigitalSequenceBlock]:
        """All proteins, in blocks.

        Raises:
            UserError: for a file without proteins, see `FastaFile`.
        """
        files = self._files.again()
        sequences: list[easel.DigitalSequence] = []
        residues = proteins = long = 0
        for chunk in files.chunks():
            letters = memoryview(digital(b"".join(chunk.sequences)))
            start = 0
            for name, length in zip(  # a chunk without proteins has one empty name
                chunk.names.split(b"\n"), chunk.lengths.tolist(), strict=False
            ):
                if length > LONGEST:
                    long += 1
                else:
                    part = letters[start : start + length]
                    sequences.append(easel.DigitalSequence(AMINO, name=name, sequence=part))
                    residues += length
                start += length
            proteins += len(chunk.sequences)
            self.position = files.position
            if residues >= self._block:
                yield easel.DigitalSequenceBlock(AMINO, sequences)
                sequences, residues = [], 0
        if sequences:
            yield easel.DigitalSequenceBlock(AMINO, sequences)
        if not proteins:
            raise none_left(files.path, files.tally)
        self.tally = files.tally
        self.tally.add(f"left out, longer than HMMER's {LONGEST:,} residues", 0, long)
