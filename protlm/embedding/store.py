"""Where values go: into the bytes that a file has kept free for them, or into files of their own.

Legend: P poolings, K layers, L residues, D width.
"""

import os
from collections.abc import Sequence
from errno import ENOSPC
from pathlib import Path
from typing import Any

import numpy as np

from protlm.embedding.drafts import Draft, Place
from protlm.embedding.layouts import Proteins, create
from protlm.embedding.provenance import stored_dtype

_OFFSETS = "offsets.npy"
_COPIED = 1 << 24  # bytes at a time


class NotFiniteError(ValueError):
    """A value that is no number, or too large for the dtype it is stored in."""


class Store:
    """An unfinished output, as far as it is.

    Args:
        draft: locked; what it holds is gone on with if `about` of it is known, else it is begun anew.
        about: what the output is made from.
        proteins: what it holds.
    """

    def __init__(self, draft: Draft, about: dict[str, Any], proteins: Proteins) -> None:
        self.draft, self.proteins, self.about = draft, proteins, about
        self.dtype = stored_dtype(about["dtype"])
        try:
            if draft.about is None:
                draft.clear()
                offsets = create(draft.data, about, proteins)
                np.save(draft.folder / _OFFSETS, offsets)
                draft.ready(about)
            self.offsets: np.ndarray = np.load(draft.folder / _OFFSETS)
            self._open(draft.data)
        except (OSError, RuntimeError) as error:
            raise draft.unwritable(error) from error

    def _open(self, path: Path) -> None:
        raise NotImplementedError

    @property
    def pools(self) -> tuple[str, ...]:
        """What it has of each protein."""
        return tuple(pool for pool in self.about["pool"] if pool != "residues")

    @property
    def rows(self) -> bool:
        """It has every residue."""
        return "residues" in self.about["pool"]

    def batches(self, begin: int, token_budget: int) -> int:
        """How many batches of the window that begins with a protein are in it; they depend on the token budget."""
        place = self.draft.place
        return place.batches if (place.proteins, place.token_budget) == (begin, token_budget) else 0

    def write(self, index: int, pooled: np.ndarray | None, rows: Sequence[np.ndarray]) -> None:
        """Writes what was computed of one protein.

        Args:
            index: of the protein.
            pooled: (P, K, D) float32.
            rows: for each layer (L, D), in the dtype that is stored.

        Raises:
            NotFiniteError: if there is something else than numbers in the result.
            UserError: if it cannot be written.
        """
        try:
            self._write(index, pooled, rows)
        except OSError as error:
            raise self.draft.unwritable(error) from error

    def copy(self, index: int, source: int) -> None:
        """Writes for one protein what an earlier one has."""
        try:
            self._copy(index, source)
        except OSError as error:
            raise self.draft.unwritable(error) from error

    def advance(self, place: Place) -> None:
        """Notes that all before a place is written."""
        try:
            self.draft.advance(place, self._descriptor)
        except OSError as error:
            raise self.draft.unwritable(error) from error

    def publish(self) -> None:
        """Gives the finished output its name."""
        try:
            os.sync() if self._descriptor is None else os.fsync(self._descriptor)
            self.close()
            self.draft.publish()
        except OSError as error:
            raise self.draft.unwritable(error) from error

    def close(self) -> None:
        """Lets go of the file."""

    _descriptor: int | None = None

    def _write(self, index: int, pooled: np.ndarray | None, rows: Sequence[np.ndarray]) -> None:
        raise NotImplementedError

    def _copy(self, index: int, source: int) -> None:
        raise NotImplementedError

    def _finite(self, values: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            values = values.astype(self.dtype, copy=False)
        if not np.isfinite(values).all():
            raise NotFiniteError
        return values


class Hdf5Store(Store):
    """Values in one HDF5 file, written past the library: a kill can spoil nothing but values not counted yet."""

    def _open(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR)
        status, disk = os.fstat(self._descriptor), os.fstatvfs(self._descriptor)
        missing, free = status.st_size - status.st_blocks * 512, disk.f_bavail * disk.f_frsize
        if missing > free:
            raise OSError(ENOSPC, f"{missing / 1e9:,.1f} GB are needed, and {free / 1e9:,.1f} GB are free")

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _write(self, index: int, pooled: np.ndarray | None, rows: Sequence[np.ndarray]) -> None:
        if not self.rows:
            assert pooled is not None
            values = pooled
        elif len(rows) == 1:
            values = rows[0]
        else:
            values = np.stack(rows, 1 if self.about["layout"] == "packed" else 0)
        self._put(index, np.ascontiguousarray(self._finite(values)).data.cast("B"))

    def _copy(self, index: int, source: int) -> None:
        if self.offsets[index] == self.offsets[source]:
            return
        size = self.dtype.itemsize * self.about["width"] * len(self.about["layers"])
        size *= int(self.proteins.lengths[index]) if self.rows else len(self.pools)
        assert self._descriptor is not None
        for start in range(0, size, _COPIED):
            part = os.pread(self._descriptor, min(_COPIED, size - start), int(self.offsets[source]) + start)
            self._put(index, memoryview(part), start)

    def _put(self, index: int, data: memoryview, start: int = 0) -> None:
        assert self._descriptor is not None
        offset = int(self.offsets[index]) + start
        while data:
            count = os.pwrite(self._descriptor, data, offset)
            data, offset = data[count:], offset + count


class EsmStore(Store):
    """A .pt file a protein, as the script extract.py of fair-esm 2.0 writes them."""

    def _open(self, path: Path) -> None:
        self._folder = path

    def _path(self, index: int) -> Path:
        return self._folder / f"{self.proteins.names[index].decode()}.pt"

    def _write(self, index: int, pooled: np.ndarray | None, rows: Sequence[np.ndarray]) -> None:
        from torch import from_numpy

        layers = self.about["layers"]
        content: dict[str, Any] = {"label": self.proteins.names.original(index).decode()}
        if self.rows:
            content["representations"] = {
                layer: from_numpy(self._finite(values).copy()) for layer, values in zip(layers, rows, strict=True)
            }
        for place, pool in enumerate(self.pools):
            assert pooled is not None
            content[f"{pool}_representations"] = {
                layer: from_numpy(self._finite(pooled[place, column]).copy()) for column, layer in enumerate(layers)
            }
        self._save(index, content)

    def _copy(self, index: int, source: int) -> None:
        from torch import load

        content = load(self._path(source), weights_only=True)
        self._save(index, {**content, "label": self.proteins.names.original(index).decode()})

    def _save(self, index: int, content: dict[str, Any]) -> None:
        from io import BytesIO

        from torch import save

        packed, path = BytesIO(), self._path(index)
        save(content, packed)
        draft = path.with_name(f"{path.name}.new")
        draft.write_bytes(packed.getbuffer())
        os.replace(draft, path)


def store(draft: Draft, about: dict[str, Any], proteins: Proteins) -> Store:
    """The store of an output's layout."""
    return (EsmStore if about["layout"] == "esm-pt" else Hdf5Store)(draft, about, proteins)
