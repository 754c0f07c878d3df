"""What files of embeddings look like: everything but the values, which are then written at known places.

n proteins, P poolings, K layers, D width, T residues of distinct sequences. Axes P and K are left out where they are 1.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from protlm.embedding.provenance import FORMAT, VERSION, stored_dtype
from protlm.embedding.survey import Names
from protlm.errors import UserError

LISTING = "protlm.json"
"""In a folder of .pt files, what it was made from."""

h5d, h5p, h5s, h5t = (getattr(h5py, part) for part in ("h5d", "h5p", "h5s", "h5t"))  # unknown to its stubs

_BLOCK = 1 << 16  # names written at a time
_LONG_NAME = 40  # bytes; longer names are mostly padding, and compressed
_LONGEST_FILE = 255  # bytes of a file's name on all common file systems


@dataclass(frozen=True)
class Output:
    """One file or folder to write.

    Args:
        path: its name.
        pools: what it has of each protein; none for none.
        rows: it has every residue; in HDF5 either this or `pools`.
    """

    path: Path
    pools: tuple[str, ...]
    rows: bool


@dataclass(frozen=True)
class Proteins:
    """The n proteins of an output, in order."""

    names: Names
    lengths: np.ndarray
    """(n,) int64, in residues."""
    first: np.ndarray
    """(n,) int64, index of the first with the same sequence."""


def refusal(layout: str) -> Callable[[bytes], str | None]:
    """Says of an identifier why this layout cannot hold a protein of that name; None if it can."""

    def of_dataset(name: bytes) -> str | None:
        return "this cannot name a dataset in HDF5; rename the record" if name in (b".", b"..") else None

    def of_file(name: bytes) -> str | None:
        if len(name) + len(".pt.new") > _LONGEST_FILE:
            return f"identifier of {len(name)} bytes, too long for the name of a file; pass --id accession or word"
        return None

    def of_nothing(name: bytes) -> str | None:
        return None

    return {"uniprot": of_dataset, "esm-pt": of_file}.get(layout, of_nothing)


def value_shape(about: dict[str, Any]) -> tuple[int, ...]:
    """Axes P and K, but those of size one."""
    pools = 1 if "residues" in about["pool"] else len(about["pool"])
    return tuple(size for size in (pools, len(about["layers"])) if size > 1)


def read_about(path: Path) -> dict[str, Any] | None:
    """What an output was made from; None if there is none, {} if something else has that name."""
    if not path.exists():
        return None
    try:
        if path.is_dir():
            about = json.loads((path / LISTING).read_text())
        else:
            with h5py.File(path) as file:
                about = json.loads(str(file.attrs["about"]))
    except (OSError, ValueError, KeyError):
        return {}
    return about if isinstance(about, dict) and about.get("format") == FORMAT else {}


def create(path: Path, about: dict[str, Any], proteins: Proteins) -> np.ndarray:
    """Writes an output without values.

    Args:
        path: a draft.
        about: what is written into it, see `provenance.about`.
        proteins: what it holds.

    Returns:
        (n,) int64, the byte at which the values of each protein have to be written; for a folder none.
    """
    if about["layout"] == "esm-pt":
        path.mkdir()
        write_listing(path, about)
        return np.zeros(0, dtype=np.int64)
    with new_file(path, about) as file:
        return (_packed if about["layout"] == "packed" else _uniprot)(file, about, proteins)


def write_listing(folder: Path, about: dict[str, Any]) -> None:
    """Writes into a folder of .pt files what it was made from."""
    (folder / LISTING).write_text(json.dumps(about, indent=2) + "\n")


@contextmanager
def new_file(path: Path, about: dict[str, Any]) -> Iterator[h5py.File]:
    """An HDF5 file that says what it was made from."""
    # insertion order is kept, and names are found fast among millions
    with h5py.File(path, "w", libver="latest", track_order=True) as file:
        file.attrs.update({"format": FORMAT, "version": VERSION, "about": json.dumps(about)})
        yield file


def _uniprot(file: h5py.File, about: dict[str, Any], proteins: Proteins) -> np.ndarray:
    """A dataset a protein at the root, in the order of the FASTA; h5py's own way takes three times as long."""
    kind, plan, link = h5t.py_create(stored_dtype(about["dtype"])), _contiguous(), h5p.create(h5p.LINK_CREATE)
    link.set_char_encoding(h5t.CSET_UTF8)
    axes, rows = value_shape(about), "residues" in about["pool"]
    offsets = np.empty(len(proteins.lengths), dtype=np.int64)
    for index, length in enumerate(proteins.lengths.tolist()):
        shape = (*axes, *((length,) if rows else ()), about["width"])
        name, original = proteins.names[index], proteins.names.original(index)
        dataset = h5d.create(file.id, name, kind, h5s.create_simple(shape), plan, link)
        offsets[index] = dataset.get_offset()
        if name != original:
            h5py.Dataset(dataset).attrs["original_id"] = original.decode()
    return offsets


def _packed(file: h5py.File, about: dict[str, Any], proteins: Proteins) -> np.ndarray:
    """One matrix for all, names, and lengths or where the rows of each protein are."""
    axes, count = value_shape(about), len(proteins.lengths)
    if "residues" in about["pool"]:
        own = np.where(proteins.first == np.arange(count), proteins.lengths, 0)
        begins = (np.cumsum(own) - own)[proteins.first]
        file["pointers"] = np.stack((begins, proteins.lengths), axis=1)
        rows = int(own.sum())
    else:
        file["lengths"] = proteins.lengths
        begins, rows = np.arange(count), count
    write_names(file, "ids", count, proteins.names.__getitem__)
    if proteins.names.changed():
        write_names(file, "original_ids", count, proteins.names.original)
    dtype = stored_dtype(about["dtype"])
    shape = (rows, *axes, about["width"])
    dataset = h5d.create(file.id, b"embeddings", h5t.py_create(dtype), h5s.create_simple(shape), _contiguous())
    return begins * (dtype.itemsize * int(np.prod(shape[1:]))) + (dataset.get_offset() if rows else 0)


def write_names(file: h5py.File, dataset: str, count: int, name: Callable[[int], bytes]) -> None:
    """Writes a dataset of fixed-length UTF-8, as long as the longest."""
    longest = max((len(name(index)) for index in range(count)), default=1)
    packed = {"compression": "gzip", "shuffle": True} if longest > _LONG_NAME else {}
    dtype = h5py.string_dtype("utf-8", max(1, longest))
    names = file.create_dataset(dataset, (count,), dtype, **packed)
    for start in range(0, count, _BLOCK):
        stop = min(start + _BLOCK, count)
        names[start:stop] = np.array([name(index) for index in range(start, stop)], dtype=dtype)


def _contiguous() -> Any:
    """A dataset that has its bytes in the file from the start, though nothing is written there."""
    plan = h5p.create(h5p.DATASET_CREATE)
    plan.set_layout(h5d.CONTIGUOUS)
    plan.set_alloc_time(h5d.ALLOC_TIME_EARLY)
    plan.set_fill_time(h5d.FILL_TIME_NEVER)
    plan.set_obj_track_times(False)
    return plan


def check_replaceable(path: Path, found: dict[str, Any]) -> None:
    """Raises a UserError for a folder that is none of ours: it may hold anything, and is not removed."""
    if path.is_dir() and not found and any(path.iterdir()):
        raise UserError(f"{path}: a folder that protlm has not written; name another one, or remove it yourself")
