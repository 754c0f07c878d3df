"""Several files of sequences, read as if they were one."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import xxhash

from protlm.errors import UserError
from protlm.sequence.alphabets import PROTEIN
from protlm.sequence.fasta import Chunk, FastaFile
from protlm.sequence.letters import Alphabet
from protlm.sequence.long_records import LongRecords, check_options, document_names
from protlm.sequence.stream import STDIN, check_readable, read_through
from protlm.sequence.tally import Tally


class FastaFiles:
    """The records of FASTA files, one file after the other, see `FastaFile`.

    Args:
        paths: of the files, at least one.
        allow_nucleotides, identifier, invalid: see `FastaFile`.
        name: of the only file, for messages; by default its path.
        alphabet: of the sequences; files of another one than that of proteins are `LongRecords`.

    Attributes:
        path: of the file that is read, for messages.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        allow_nucleotides: bool = False,
        identifier: str = "accession",
        name: str = "",
        invalid: str = "error",
        alphabet: Alphabet = PROTEIN,
    ) -> None:
        self.alphabet = alphabet
        self._files: Sequence[FastaFile | LongRecords]
        if alphabet == PROTEIN:
            self._files = [FastaFile(path, allow_nucleotides, identifier, invalid=invalid) for path in paths]
        else:
            check_options(alphabet, allow_nucleotides, invalid)
            self._files = [
                LongRecords(path, alphabet, identifier=identifier, document=document)
                for path, document in zip(paths, document_names(paths), strict=True)
            ]
        if name:
            self._files[0].path = name
        self.path = self._files[0].path
        self.size = sum(file.size for file in self._files)

    def again(self) -> "FastaFiles":
        """The same files, to be read from the start."""
        files = FastaFiles.__new__(FastaFiles)
        files._files = [file.again() for file in self._files]
        files.path, files.size, files.alphabet = files._files[0].path, self.size, self.alphabet
        return files

    def refuse(self, unusable: Callable[[bytes], str | None]) -> None:
        """Makes records with certain identifiers invalid, see `FastaFile.unusable`."""
        for file in self._files:
            file.unusable = unusable

    def check_start(self) -> None:
        """Raises the error, if any, of the first records of each file."""
        for file in self._files:
            file.check_start()

    @property
    def position(self) -> int:
        """Bytes read so far."""
        return sum(file.position for file in self._files)

    @property
    def tally(self) -> Tally:
        """Everything changed or skipped in any of the files."""
        tally = Tally()
        for file in self._files:
            tally.update(file.tally)
        return tally

    def describe(self) -> dict[str, Any]:
        """Names, size in bytes and checksum, ready for JSON; call it after the last record."""
        return _joined([file.describe() for file in self._files])

    def chunks(self) -> Iterator[Chunk]:
        """The records, a chunk at a time; record numbers are within a file."""
        for file in self._files:
            self.path = file.path
            yield from file.chunks()


def checked_inputs(fasta: str | Path | Sequence[str | Path]) -> list[Path]:
    """The paths of FASTA files; raises a UserError for none, for one that is missing or for one given twice."""
    paths = [Path(fasta)] if isinstance(fasta, str | Path) else [Path(path) for path in fasta]
    if not paths:
        raise UserError("no input: expected at least one FASTA file")
    if len(paths) > 1 and Path(STDIN) in paths:
        raise UserError("standard input cannot be combined with other files; write it to a file first")
    for path in paths:
        check_readable(path)
    check_distinct(paths)
    return paths


def check_distinct(paths: Sequence[str | Path]) -> None:
    """Raises a UserError for a file that is given twice."""
    seen: set[Path] = set()
    for path in paths:
        if (resolved := Path(path).resolve()) in seen:
            raise UserError(f"{path}: is given twice")
        seen.add(resolved)


def described_inputs(paths: Sequence[Path], name: str = "") -> dict[str, Any]:
    """The same as `FastaFiles.describe`, without parsing the files; `name` replaces that of the only one."""
    return {**_joined([read_through(path) for path in paths]), **({"name": name} if name else {})}


def _joined(sources: list[dict[str, Any]]) -> dict[str, Any]:
    if len(sources) == 1:
        return sources[0]
    return {
        "name": f"{sources[0]['name']} and {len(sources) - 1:,} more",
        "bytes": sum(source["bytes"] for source in sources),
        "xxh3_128": xxhash.xxh3_128_hexdigest("".join(source["xxh3_128"] for source in sources).encode()),
    }
