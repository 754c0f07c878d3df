"""The rule for the outputs of all commands: the suffix says what is written, `-` is standard output for text.

Folders are not created, so a typo in a path does not scatter files; existing files of the same name are replaced.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from protlm.errors import UserError
from protlm.files import STDOUT


@dataclass(frozen=True)
class OutputKind:
    """What an option writes.

    Attributes:
        name: with its article, for messages.
        suffixes: of the file names, in lower case; none for a folder.
        text: can be written to standard output.
    """

    name: str
    suffixes: tuple[str, ...] = ()
    text: bool = False


HDF5 = OutputKind("an HDF5 file", (".h5", ".hdf5"))
PICTURE = OutputKind("a picture", (".png", ".pdf", ".svg"))
TABLE = OutputKind("a table", (".csv", ".tsv", ".txt"), text=True)
TSV = OutputKind("a table", (".tsv", ".txt"), text=True)
JSON = OutputKind("a JSON file", (".json",), text=True)
FASTA = OutputKind("a FASTA file", (".fasta", ".fa", ".faa", ".fas"), text=True)
HTML = OutputKind("a page", (".html", ".htm"))
FOLDER = OutputKind("a folder")
EMBEDDINGS = {
    "": OutputKind("a file of embeddings", (".h5", ".hdf5", ".npz", ".csv", ".parquet")),
    "uniprot": HDF5,
    "packed": HDF5,
    "npz": OutputKind("an npz file", (".npz",)),
    "csv": OutputKind("a CSV file", (".csv",)),
    "parquet": OutputKind("a Parquet file", (".parquet",)),
    "esm-pt": FOLDER,
}
"""Layout -> what is written; without a layout the suffix decides."""
PREDICTIONS = OutputKind(
    "a file of predictions", (*TABLE.suffixes, ".parquet", *HDF5.suffixes, *FASTA.suffixes), text=True
)
MERGED = OutputKind(
    "a file of embeddings or predictions", tuple(dict.fromkeys(EMBEDDINGS[""].suffixes + PREDICTIONS.suffixes))
)

_FILES = {".npz", ".npy", ".parquet", ".pt", ".ckpt", ".safetensors", ".bin", ".a3m", ".a2m", ".afa", ".sto", ".stk"}
_FILES |= {
    ".stockholm",
    ".aln",
    *(suffix for kind in (HDF5, PICTURE, TABLE, JSON, FASTA, HTML) for suffix in kind.suffixes),
}
"""Suffixes that a folder does not have."""


def check_outputs(outputs: Mapping[str, tuple[Path | None, OutputKind]], inputs: Iterable[Path] = ()) -> None:
    """Refuses, before anything is computed, outputs that cannot be written or that would overwrite a file in use.

    Args:
        outputs: option -> its path, None if it was not given, and what it writes.
        inputs: files that must not be overwritten.
    """
    used = {path.resolve() for path in inputs}
    for option, (path, kind) in outputs.items():
        if path is None:
            continue
        try:
            _check(path, kind)
            if path.resolve() in used:
                raise UserError("is an input or another output; choose a different file")
        except UserError as error:
            raise UserError(f"{option} {path}: {error}") from error
        except OSError as error:  # a name that is too long
            raise UserError(f"{option} {path}: cannot be written ({error.strerror})") from error
        used.add(path.resolve())


def chosen_format(path: Path | None, given: str, formats: Mapping[str, OutputKind], default: str) -> str:
    """The format of `--format`, by default that of the suffix of `--output`, without a file `default`."""
    if given and given not in formats:
        raise UserError(f"--format {given!r}: expected {listed(formats)}")
    if given or path is None or str(path) == STDOUT:
        return given or default
    for name, kind in formats.items():
        if path.suffix.lower() in kind.suffixes:
            return name
    kinds = [kind for kind in formats.values() if kind.suffixes]
    suffixes = tuple(suffix for kind in kinds for suffix in kind.suffixes)
    check_outputs({"--output": (path, OutputKind(kinds[0].name, suffixes, any(kind.text for kind in kinds)))})
    raise AssertionError("unreachable: the suffix is none of these")


def listed(names: Iterable[str]) -> str:
    """Alternatives in words.

    >>> listed(["table", "tsv", "json"])
    'table, tsv or json'
    """
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


def _check(path: Path, kind: OutputKind) -> None:
    if str(path) == STDOUT:
        if not kind.text:
            raise UserError(f"{kind.name} cannot be written to standard output; expected {_names(kind)}")
        return
    if kind.suffixes and path.is_dir():
        raise UserError(f"is a folder; expected {_names(kind)}")
    if kind.suffixes and path.suffix.lower() not in kind.suffixes:
        raise UserError(f"the output is {kind.name}; expected {_names(kind)}")
    if not kind.suffixes and (path.is_file() or path.suffix.lower() in _FILES):
        raise UserError(f"{'is' if path.is_file() else 'looks like'} a file; expected {_names(kind)}")
    if path.exists() and not (path.is_dir() or path.is_file()):
        raise UserError(f"is neither a file nor a folder; expected {_names(kind)}")
    folder = path.parent
    if not folder.is_dir():
        if folder.exists():
            raise UserError(f"{folder} is a file, not a folder; expected {_names(kind)}")
        raise UserError(f"there is no folder {folder}; create it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"cannot be written (Permission denied in folder {folder})")


def _names(kind: OutputKind) -> str:
    """What is expected, such as "a file name that ends in .h5 or .hdf5"."""
    if not kind.suffixes:
        return "the name of a folder"
    return f"a file name that ends in {listed(kind.suffixes)}" + (", or - for standard output" if kind.text else "")
