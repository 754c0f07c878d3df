"""Embeddings in HDF5: the layouts "uniprot", one dataset per protein, and "packed", one matrix for all."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from protlm.embedding.description import BLOCK, FORMAT, VERSION, Count, Values, axes, of_residues, stored_dtype
from protlm.embedding.repeated import check_distinct, repeated
from protlm.embedding.survey import Proteins
from protlm.errors import UserError
from protlm.strict_json import dumps

h5d, h5o, h5p, h5s, h5t = (getattr(h5py, part) for part in ("h5d", "h5o", "h5p", "h5s", "h5t"))  # unknown to its stubs

_NAMES = 1 << 16  # names written at a time
_LONG_NAME = 40  # bytes; longer names are mostly padding, and are compressed
_COPIED = 1 << 24  # bytes of a matrix copied at a time


def read_about(path: Path) -> Any:
    with h5py.File(path) as file:
        return json.loads(str(file.attrs["about"]))


def refuse_dataset(name: bytes) -> str | None:
    """Why no dataset can have this name; None if one can."""
    return "cannot be the name of an HDF5 dataset; rename the record" if name in (b".", b"..") else None


@contextmanager
def _new_file(path: Path, description: dict[str, Any]) -> Iterator[h5py.File]:
    """An HDF5 file with a record of what it was made from."""
    # insertion order is kept, and names are found fast among millions
    with h5py.File(path, "w", libver="latest", track_order=True) as file:
        file.attrs.update({"format": FORMAT, "version": VERSION, "about": dumps(description)})
        yield file


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """An HDF5 file to read, whose datasets need no type checks: protlm has written it."""
    with h5py.File(path) as file:
        yield file


def _link() -> Any:
    link = h5p.create(h5p.LINK_CREATE)
    link.set_char_encoding(h5t.CSET_UTF8)
    return link


def write_uniprot(path: Path, description: dict[str, Any], proteins: Proteins, values: Values) -> None:
    """One dataset per protein at the root, in order; h5py's high-level functions take three times as long."""
    plan, link = h5p.create(h5p.DATASET_CREATE), _link()
    plan.set_obj_track_times(False)
    kind, per_residue = h5t.py_create(stored_dtype(description)), of_residues(description)
    with _new_file(path, description) as file:
        for index, length in enumerate(proteins.lengths.tolist()):
            shape = (*axes(description), *((length,) if per_residue else ()), description["width"])
            name, original = proteins.names[index], proteins.names.original(index)
            dataset = h5d.create(file.id, name, kind, h5s.create_simple(shape), plan, link)
            dataset.write(h5s.ALL, h5s.ALL, values(index).reshape(shape))
            if name != original:
                h5py.Dataset(dataset).attrs["original_id"] = original.decode()


def join_uniprot(shards: Sequence[Path], partial: Path, description: dict[str, Any], count: Count) -> None:
    link = _link()
    with _new_file(partial, description) as file:
        for shard in shards:
            with h5py.File(shard) as source:
                for name in map(str.encode, source):
                    try:
                        h5o.copy(source.id, name, file.id, name, lcpl=link)
                    except (RuntimeError, ValueError) as error:
                        if name in file:
                            raise UserError(repeated(shard, name.decode())) from error
                        raise
                    count(1)


def write_packed(path: Path, description: dict[str, Any], proteins: Proteins, values: Values) -> None:
    """One matrix for all, the names, and the lengths or the rows of each protein."""
    count = len(proteins.lengths)
    with _new_file(path, description) as file:
        for name, array in pointers(description, proteins).items():
            file[name] = array
        _write_names(file, "ids", count, proteins.names.__getitem__)
        if proteins.names.changed():
            _write_names(file, "original_ids", count, proteins.names.original)
        shape = (*axes(description), description["width"])
        rows = int(stored_rows(description, proteins).sum())
        matrix = file.create_dataset("embeddings", (rows, *shape), stored_dtype(description))
        row = 0
        for array in blocks(description, proteins, values):
            matrix[row : row + len(array)] = array
            row += len(array)


def stored_rows(description: dict[str, Any], proteins: Proteins) -> np.ndarray:
    """(n,) int64: the rows of a matrix that each protein adds; residues of identical sequences share theirs."""
    if of_residues(description):
        return np.where(proteins.is_distinct, proteins.lengths, 0)
    return np.ones(len(proteins.lengths), dtype=np.int64)


def pointers(description: dict[str, Any], proteins: Proteins) -> dict[str, np.ndarray]:
    """Beside a matrix: of residues, the first row and the number of rows of each protein, (n, 2); else its length."""
    if not of_residues(description):
        return {"lengths": proteins.lengths}
    own = stored_rows(description, proteins)
    return {"pointers": np.stack(((np.cumsum(own) - own)[proteins.first], proteins.lengths), axis=1)}


def blocks(description: dict[str, Any], proteins: Proteins, values: Values) -> Iterator[np.ndarray]:
    """The rows of a matrix, (rows, ..., D), some at a time."""
    size, block = 0, []
    indices = np.flatnonzero(stored_rows(description, proteins))
    for number, index in enumerate(indices.tolist(), start=1):
        block.append(values(index))
        size += block[-1].size
        if size >= BLOCK or number == len(indices):
            yield np.concatenate(block).reshape(-1, *axes(description), description["width"])
            size, block = 0, []


def join_packed(shards: Sequence[Path], partial: Path, description: dict[str, Any], count: Count) -> None:
    """Opens one shard at a time."""
    rows, names, originals, beside = 0, [], [], []
    shape: tuple[int, ...] = ()
    dtype, changed = stored_dtype(description), False
    part = "pointers" if of_residues(description) else "lengths"
    check_distinct(shards, _names_in)
    for shard in shards:
        with _opened(shard) as source:
            matrix, own = source["embeddings"], source["ids"][:].tolist()
            beside.append(source[part][:] + (np.array([rows, 0]) if part == "pointers" else 0))
            rows, shape = rows + matrix.shape[0], matrix.shape[1:]
            names += own
            changed |= "original_ids" in source
            originals += source["original_ids"][:].tolist() if "original_ids" in source else own
    with _new_file(partial, description) as file:
        joined, begin = file.create_dataset("embeddings", (rows, *shape), dtype), 0
        step = max(1, _COPIED // (dtype.itemsize * int(np.prod(shape))))
        for shard in shards:
            with _opened(shard) as source:
                matrix = source["embeddings"]
                for start in range(0, matrix.shape[0], step):
                    block = matrix[start : start + step]
                    joined[begin : begin + len(block)] = block
                    begin += len(block)
                count(source["ids"].shape[0])
        file[part] = np.concatenate(beside)
        _write_names(file, "ids", len(names), names.__getitem__)
        if changed:
            _write_names(file, "original_ids", len(originals), originals.__getitem__)


def _names_in(shard: Path) -> list[bytes]:
    with _opened(shard) as source:
        return source["ids"][:].tolist()


def _write_names(file: h5py.File, dataset: str, count: int, name: Callable[[int], bytes]) -> None:
    """Writes a dataset of fixed-length UTF-8, as long as the longest."""
    longest = max((len(name(index)) for index in range(count)), default=1)
    packed = {"compression": "gzip", "shuffle": True} if longest > _LONG_NAME else {}
    dtype = h5py.string_dtype("utf-8", max(1, longest))
    names = file.create_dataset(dataset, (count,), dtype, **packed)
    for start in range(0, count, _NAMES):
        stop = min(start + _NAMES, count)
        names[start:stop] = np.array([name(index) for index in range(start, stop)], dtype=dtype)


def read_vectors(path: Path, description: dict[str, Any]) -> tuple[list[str], np.ndarray]:
    """Original identifiers, and the vectors (n, ...) as they are stored."""
    with _opened(path) as file:
        if description["layout"] == "packed":
            ids = file["original_ids" if "original_ids" in file else "ids"]
            return [name.decode() for name in ids[:].tolist()], file["embeddings"][:]
        ids = [str(file[name].attrs.get("original_id", name)) for name in file]
        return ids, np.stack([file[name][:] for name in file])
