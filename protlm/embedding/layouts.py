"""File layouts of embeddings (docs/formats.md), and the record of what each file was made from.

Legend: n proteins, P poolings, K layers, L residues, D width; axes P and K are left out where they are 1.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from protlm.embedding.survey import Proteins
from protlm.errors import UserError

LAYOUTS = ("uniprot", "packed", "esm-pt")
FORMAT = "protlm embeddings"
VERSION = 1
DESCRIPTION = "protlm.json"
"""File that records what a folder of .pt files was made from; HDF5 files have the attribute "about"."""
COMPARED = ("model", "layers", "pool", "dtype", "precision", "layout", "id", "duplicates", "shard", "source")
"""Entries of a description that have to agree; where and how fast a file was computed does not matter."""

Values = Callable[[int], np.ndarray]
"""Index of a protein -> its values, flattened: pooled (P, K, D), then residues (K, L, D), or (L, K, D) if packed."""

h5d, h5p, h5s, h5t = (getattr(h5py, part) for part in ("h5d", "h5p", "h5s", "h5t"))  # unknown to its stubs

_NAMES = 1 << 16  # names written at a time
_VALUES = 1 << 22  # values written at a time
_LONG_NAME = 40  # bytes; longer names are mostly padding, and are compressed
_LONGEST_FILE = 255  # bytes of a file's name on all common file systems


@dataclass(frozen=True)
class Output:
    """One file or folder to write.

    Args:
        path: its name.
        pools: poolings stored of each protein; may be empty.
        per_residue: whether every residue is stored; in HDF5 either this or `pools`.
    """

    path: Path
    pools: tuple[str, ...]
    per_residue: bool


def read_description(path: Path) -> dict[str, Any] | None:
    """What an output was made from; None if it does not exist, {} if it is something else."""
    if not path.exists():
        return None
    try:
        if path.is_dir():
            description = json.loads((path / DESCRIPTION).read_text())
        else:
            with h5py.File(path) as file:
                description = json.loads(str(file.attrs["about"]))
    except (OSError, ValueError, KeyError):
        return {}
    return description if isinstance(description, dict) and description.get("format") == FORMAT else {}


def differences(found: Mapping[str, Any], expected: Mapping[str, Any], leave_out: tuple[str, ...] = ()) -> str:
    """How the descriptions of two files differ, in words, apart from the names to leave out; empty if they do not.

    Their sources are compared if both have one.
    """
    if (found.get("format"), found.get("version")) != (FORMAT, VERSION):
        return "not embeddings of this version of protlm"
    words = []
    for name in COMPARED:
        one, other = found.get(name), expected.get(name)
        if name in leave_out:
            continue
        if name == "source":  # whatever the name of the file
            if not (one and other):
                continue
            one, other = (f"{s['bytes']:,} bytes with checksum {s['xxh3_128'][:8]}" for s in (one, other))
        if one != other:
            words.append(f"{name}: {_text(one)} instead of {_text(other)}")
    return "; ".join(words)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return value[:8] if isinstance(value, str) and len(value) == 32 else str(value)


def check_replaceable(path: Path, found: dict[str, Any]) -> None:
    """Raises a UserError for a folder that protlm has not written; it may hold anything, so it is not removed."""
    if path.is_dir() and not found and any(path.iterdir()):
        raise UserError(f"{path}: a folder that protlm has not written; choose another one, or remove it yourself")


def checked_outputs(
    layout: str,
    pools: tuple[str, ...],
    fasta: str | Path,
    per_protein: str | Path | None,
    per_residue: str | Path | None,
) -> list[Output]:
    """The outputs of `embed_fasta`; raises a UserError for paths that are unsuitable or not distinct."""
    folders = layout == "esm-pt"
    if folders and per_protein and per_residue and Path(per_protein).resolve() == Path(per_residue).resolve():
        outputs = [Output(Path(per_protein), pools, True)]
    else:
        outputs = [Output(Path(per_protein), pools, False)] if per_protein else []
        outputs += [Output(Path(per_residue), (), True)] if per_residue else []
    if not outputs:
        raise UserError("no output: expected a file for one vector per protein, one for all residues, or both")
    if per_protein and not pools:
        raise UserError("no pooling: expected mean, bos or max")
    paths = [output.path for output in outputs]
    if len({path.resolve() for path in (Path(fasta), *paths)}) <= len(paths):
        raise UserError(f"{paths[0]}: input and outputs must be different files")
    for path in paths:
        if not path.parent.is_dir():
            raise UserError(f"{path}: there is no folder {path.parent}; create it first")
        if path.exists() and not (path.is_dir() or path.is_file()):
            raise UserError(f"{path}: is neither a file nor a folder; choose another output")
        if path.exists() and path.is_dir() != folders:
            what = ("file", "folder") if folders else ("folder", "file")
            raise UserError(f"{path}: is a {what[0]}; expected the name of a {what[1]} to write")
    return outputs


def is_complete(output: Output, expected: dict[str, Any], overwrite: bool) -> bool:
    """Whether the same output already exists; raises a UserError if a different one must not be replaced."""
    found = read_description(output.path)
    if found is None:
        return False
    different = differences(found, expected)
    if not different:
        return True
    check_replaceable(output.path, found)
    if not overwrite:
        what = f"but was made differently ({different})" if found else "but was not written by protlm"
        raise UserError(f"{output.path}: already exists, {what}; choose another output, or set overwrite")
    return False


def refusal(layout: str) -> Callable[[bytes], str | None]:
    """A function that says why a layout cannot hold a protein of a certain name; None if it can.

    The name is an identifier; it is stored with "_" for "/", which changes nothing here.
    """

    def of_dataset(name: bytes) -> str | None:
        return "cannot be the name of an HDF5 dataset; rename the record" if name in (b".", b"..") else None

    def of_file(name: bytes) -> str | None:
        if len(name) + len(".pt") > _LONGEST_FILE:
            return f"identifier of {len(name)} bytes, too long for a file name; use the accession or the first word"
        return None

    return {"uniprot": of_dataset, "esm-pt": of_file}.get(layout, lambda name: None)


def stored_dtype(description: dict[str, Any]) -> np.dtype[Any]:
    """Little-endian on any machine."""
    return np.dtype(description["dtype"]).newbyteorder("<")


def write_description(folder: Path, description: dict[str, Any]) -> None:
    """Records in a folder of .pt files what it was made from."""
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")


@contextmanager
def new_file(path: Path, description: dict[str, Any]) -> Iterator[h5py.File]:
    """An HDF5 file with a record of what it was made from."""
    # insertion order is kept, and names are found fast among millions
    with h5py.File(path, "w", libver="latest", track_order=True) as file:
        file.attrs.update({"format": FORMAT, "version": VERSION, "about": json.dumps(description)})
        yield file


def write_names(file: h5py.File, dataset: str, count: int, name: Callable[[int], bytes]) -> None:
    """Writes a dataset of fixed-length UTF-8, as long as the longest."""
    longest = max((len(name(index)) for index in range(count)), default=1)
    packed = {"compression": "gzip", "shuffle": True} if longest > _LONG_NAME else {}
    dtype = h5py.string_dtype("utf-8", max(1, longest))
    names = file.create_dataset(dataset, (count,), dtype, **packed)
    for start in range(0, count, _NAMES):
        stop = min(start + _NAMES, count)
        names[start:stop] = np.array([name(index) for index in range(start, stop)], dtype=dtype)


def _axes(description: dict[str, Any]) -> tuple[int, ...]:
    """Axes P and K, except those of size one."""
    pools = 1 if "residues" in description["pool"] else len(description["pool"])
    return tuple(size for size in (pools, len(description["layers"])) if size > 1)


def _write_uniprot(path: Path, description: dict[str, Any], proteins: Proteins, values: Values) -> None:
    """One dataset per protein at the root, in order; h5py's high-level functions take three times as long."""
    plan, link = h5p.create(h5p.DATASET_CREATE), h5p.create(h5p.LINK_CREATE)
    plan.set_obj_track_times(False)
    link.set_char_encoding(h5t.CSET_UTF8)
    kind, per_residue = h5t.py_create(stored_dtype(description)), "residues" in description["pool"]
    with new_file(path, description) as file:
        for index, length in enumerate(proteins.lengths.tolist()):
            shape = (*_axes(description), *((length,) if per_residue else ()), description["width"])
            name, original = proteins.names[index], proteins.names.original(index)
            dataset = h5d.create(file.id, name, kind, h5s.create_simple(shape), plan, link)
            dataset.write(h5s.ALL, h5s.ALL, values(index).reshape(shape))
            if name != original:
                h5py.Dataset(dataset).attrs["original_id"] = original.decode()


def _write_packed(path: Path, description: dict[str, Any], proteins: Proteins, values: Values) -> None:
    """One matrix for all, the names, and the lengths or the rows of each protein."""
    count, lengths = len(proteins.lengths), proteins.lengths
    with new_file(path, description) as file:
        if "residues" in description["pool"]:
            indices, own = np.flatnonzero(proteins.is_distinct), np.where(proteins.is_distinct, lengths, 0)
            file["pointers"] = np.stack(((np.cumsum(own) - own)[proteins.first], lengths), axis=1)
            rows = int(own.sum())
        else:
            indices, rows = np.arange(count), count
            file["lengths"] = lengths
        write_names(file, "ids", count, proteins.names.__getitem__)
        if proteins.names.changed():
            write_names(file, "original_ids", count, proteins.names.original)
        shape = (*_axes(description), description["width"])
        matrix = file.create_dataset("embeddings", (rows, *shape), stored_dtype(description))
        row = size = 0
        block: list[np.ndarray] = []
        for number, index in enumerate(indices.tolist(), start=1):
            block.append(values(index))
            size += block[-1].size
            if size >= _VALUES or number == len(indices):
                array = np.concatenate(block).reshape(-1, *shape)
                matrix[row : row + len(array)] = array
                row, size, block = row + len(array), 0, []


def _write_pt(path: Path, description: dict[str, Any], proteins: Proteins, values: Values) -> None:
    """One .pt file per protein, as the script extract.py of fair-esm 2.0 writes them."""
    layers, width = description["layers"], description["width"]
    pools = [pool for pool in description["pool"] if pool != "residues"]
    path.mkdir()
    write_description(path, description)
    for index in range(len(proteins.lengths)):
        arrays = values(index).reshape(-1, width)
        content: dict[str, Any] = {"label": proteins.names.original(index).decode()}
        if len(arrays) > len(pools) * len(layers):
            residues = arrays[len(pools) * len(layers) :].reshape(len(layers), -1, width)
            content["representations"] = dict(zip(layers, map(torch.tensor, residues), strict=True))
        for number, pool in enumerate(pools):
            vectors = arrays[number * len(layers) : (number + 1) * len(layers)]
            content[f"{pool}_representations"] = dict(zip(layers, map(torch.tensor, vectors), strict=True))
        torch.save(content, path / f"{proteins.names[index].decode()}.pt")
    os.sync()


WRITERS = {"uniprot": _write_uniprot, "packed": _write_packed, "esm-pt": _write_pt}
