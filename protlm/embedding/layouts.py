"""The layouts of embeddings, each in a file of its own (docs/formats.md)."""

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from protlm.embedding import csv_table, esm_pt, hdf5, npz, parquet
from protlm.embedding.description import Count, Values, is_description
from protlm.embedding.survey import Proteins


def _accept(name: bytes) -> str | None:
    return None


@dataclass(frozen=True)
class Layout:
    """How embeddings are stored.

    Args:
        suffixes: names of files that end so have this layout, unless another one is chosen.
        dtype: by default.
        write: writes a file or folder.
        join: joins shards in order; gets their paths, a path to write, the description, and `Count`.
        refuse: says why a protein of a certain name cannot be stored; None if it can.
        rows_of_residues: the values of residues are in the order (L, K, D), not (K, L, D).
        folder: is a folder, not a file.
        text: numbers are text, which needs about three times their bytes.
        slashes: identifiers may contain '/', which HDF5 and file systems take for a path.
        beside: the description is in a file beside it.
    """

    suffixes: tuple[str, ...]
    dtype: str
    write: Callable[[Path, dict[str, Any], Proteins, Values], None]
    join: Callable[[Sequence[Path], Path, dict[str, Any], Count], None]
    refuse: Callable[[bytes], str | None] = _accept
    rows_of_residues: bool = False
    folder: bool = False
    text: bool = False
    slashes: bool = False
    beside: bool = False


_HDF5 = (".h5", ".hdf5", ".hdf", "")

LAYOUTS = {
    "uniprot": Layout(_HDF5, "float16", hdf5.write_uniprot, hdf5.join_uniprot, hdf5.refuse_dataset),
    "packed": Layout(_HDF5, "float16", hdf5.write_packed, hdf5.join_packed, rows_of_residues=True),
    "esm-pt": Layout((), "float32", esm_pt.write_files, esm_pt.join_files, esm_pt.refuse_file, folder=True),
    "npz": Layout((".npz",), "float16", npz.write, npz.join, rows_of_residues=True, slashes=True),
    "csv": Layout(
        (".csv",),
        "float32",
        csv_table.write,
        csv_table.join,
        rows_of_residues=True,
        text=True,
        slashes=True,
        beside=True,
    ),
    "parquet": Layout((".parquet",), "float32", parquet.write, parquet.join, slashes=True),
}


def read_description(path: Path) -> dict[str, Any] | None:
    """What an output was made from; None if it does not exist, {} if it is something else."""
    if not path.exists():
        return None
    try:
        description = _reader(path)(path)
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return {}
    return description if is_description(description) else {}


def _reader(path: Path) -> Callable[[Path], Any]:
    """Reads the description of a file or folder, of whatever name."""
    if path.is_dir():
        return esm_pt.read_about
    with path.open("rb") as file:
        start = file.read(4)
    readers = {b"\x89HDF": hdf5.read_about, b"PK\x03\x04": npz.read_about, b"PAR1": parquet.read_about}
    return readers.get(start, csv_table.read_about)


def publish_description(layout: Layout, path: Path, target: Path, description: dict[str, Any]) -> None:
    """Writes the description of a layout that has no place for one, just before a file is renamed to `target`."""
    if layout.beside:
        csv_table.write_about(path, target, description)
