"""Embeddings in NumPy's .npz: the arrays of the layout "packed", readable by `numpy.load` without pickle."""

import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from protlm.embedding.description import Count, Values, axes, of_residues, stored_dtype
from protlm.embedding.hdf5 import blocks, pointers, stored_rows
from protlm.embedding.repeated import check_distinct
from protlm.embedding.survey import Proteins
from protlm.strict_json import dumps

_NAMES = 1 << 16  # names written at a time
_COPIED = 1 << 24  # bytes of a matrix copied at a time


def read_about(path: Path) -> Any:
    with np.load(path, allow_pickle=False) as file:
        return json.loads(str(file["about"]))


def write(path: Path, description: dict[str, Any], proteins: Proteins, values: Values) -> None:
    count, names = len(proteins.lengths), proteins.names
    with zipfile.ZipFile(path, "w") as file:
        _write_small(file, {"about": np.array(dumps(description)), **pointers(description, proteins)})
        _write_names(file, "ids", count, lambda index: names.unchanged(index).decode())
        if names.renamed:
            _write_names(file, "original_ids", count, lambda index: names.original(index).decode())
        rows = int(stored_rows(description, proteins).sum())
        _write_matrix(file, description, rows, blocks(description, proteins, values))


def join(shards: Sequence[Path], partial: Path, description: dict[str, Any], count: Count) -> None:
    """Opens one shard at a time, and reads its matrix in pieces."""
    rows, beside = 0, []
    names: list[str] = []
    originals: list[str] = []
    changed, part = False, "pointers" if of_residues(description) else "lengths"
    check_distinct(shards, _names_in)
    for shard in shards:
        with np.load(shard, allow_pickle=False) as source:
            own = source["ids"].tolist()
            beside.append(source[part] + (np.array([rows, 0]) if part == "pointers" else 0))
            names += own
            changed |= "original_ids" in source
            originals += source["original_ids"].tolist() if "original_ids" in source else own
        with _matrix(shard) as (_, shape):
            rows += shape[0]
    with zipfile.ZipFile(partial, "w") as file:
        _write_small(file, {"about": np.array(dumps(description)), part: np.concatenate(beside)})
        _write_names(file, "ids", len(names), names.__getitem__)
        if changed:
            _write_names(file, "original_ids", len(originals), originals.__getitem__)
        _write_matrix(file, description, rows, chain.from_iterable(_copied(shard, count) for shard in shards))


def _names_in(shard: Path) -> list[bytes]:
    with np.load(shard, allow_pickle=False) as source:
        return [name.encode() for name in source["ids"].tolist()]


def _copied(shard: Path, count: Count) -> Iterator[bytes]:
    with _matrix(shard) as (member, _):
        while data := member.read(_COPIED):
            yield data
    with np.load(shard, allow_pickle=False) as source:
        count(len(source["ids"]))


@contextmanager
def _matrix(path: Path) -> Iterator[tuple[IO[bytes], tuple[int, ...]]]:
    """The bytes of the matrix of a file, and its shape."""
    with zipfile.ZipFile(path) as file, file.open("embeddings.npy") as member:
        read_header: Any = {1: npy.read_array_header_1_0, 2: npy.read_array_header_2_0}[npy.read_magic(member)[0]]
        yield member, read_header(member)[0]


@contextmanager
def _member(
    file: zipfile.ZipFile,
    name: str,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    compression: int = zipfile.ZIP_STORED,
) -> Iterator[IO[bytes]]:
    info = zipfile.ZipInfo(f"{name}.npy")  # with a fixed date, so that equal content gives an equal file
    info.compress_type = compression
    with file.open(info, "w", force_zip64=True) as member:
        header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        npy.write_array_header_1_0(member, header)
        yield member


def _write_small(file: zipfile.ZipFile, arrays: dict[str, np.ndarray]) -> None:
    for name, array in arrays.items():
        with _member(file, name, array.shape, array.dtype) as member:
            member.write(array.tobytes())


def _write_names(file: zipfile.ZipFile, array: str, count: int, name: Callable[[int], str]) -> None:
    dtype = np.dtype(f"<U{max((len(name(index)) for index in range(count)), default=1)}")
    with _member(file, array, (count,), dtype, zipfile.ZIP_DEFLATED) as member:
        for start in range(0, count, _NAMES):
            some = [name(index) for index in range(start, min(start + _NAMES, count))]
            member.write(np.array(some, dtype=dtype).tobytes())


def _write_matrix(
    file: zipfile.ZipFile, description: dict[str, Any], rows: int, data: Iterable[np.ndarray | bytes]
) -> None:
    shape = (rows, *axes(description), description["width"])
    with _member(file, "embeddings", shape, stored_dtype(description)) as member:
        for block in data:
            member.write(block if isinstance(block, bytes) else np.ascontiguousarray(block).data.cast("B"))


def read_vectors(path: Path) -> tuple[list[str], np.ndarray]:
    """As `hdf5.read_vectors`."""
    with np.load(path, allow_pickle=False) as file:
        return file["original_ids" if "original_ids" in file else "ids"].tolist(), file["embeddings"]
