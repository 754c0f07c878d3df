"""Representations of proteins: of which layers, pooled or by residue; computed by windows, and kept while a run lasts.

Legend: B batch, L length with both ends, D width, P poolings, K layers; n proteins.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from errno import ENOSPC
from itertools import islice, pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from protlm.embedding.description import stored_dtype
from protlm.embedding.layouts import publish_description
from protlm.embedding.outputs import Output
from protlm.embedding.survey import Proteins
from protlm.errors import UserError
from protlm.files import UnwritableError, atomic_output, partial_folder, publish
from protlm.inference.engine import Computer, check_finite
from protlm.inference.token_batch import TokenBatch
from protlm.performer import Performer
from protlm.performer.estimator import widest
from protlm.strict_json import dumps

POOLS = ("mean", "bos", "max")
"""Mean or maximum over the residues, without special tokens; or the first token, which precedes them."""
Representations = tuple[np.ndarray | None, list[list[np.ndarray]]]
"""Of a batch: pooled vectors (n, P, K, D) float32 or None; by layer the residues (length_i, D) of each protein."""

_DESCRIPTION = "protlm.json"  # of a partial output
_OVERHEAD = 400  # bytes per protein that HDF5 needs besides the values


def representations(
    model: Performer, layers: Sequence[int], pools: Sequence[str], residues: torch.dtype | None
) -> Callable[[TokenBatch, np.ndarray], Representations]:
    """A function for `Computer` that returns representations on the CPU; it pools on the model's device.

    Layers are counted from 0; `residues` is the dtype of the representations of single residues, or None for none.
    """

    def compute(batch: TokenBatch, _: np.ndarray) -> Representations:
        found = model.representations(batch.tokens, set(layers), batch.key_mask, batch.segments)
        pooled, single = None, []
        with torch.autocast(batch.tokens.device.type, enabled=False):
            if pools:
                by_layer = [torch.stack(pool(batch, found[layer].float(), pools), 1) for layer in layers]
                pooled = torch.stack(by_layer, 2).cpu().numpy()
            if residues is not None:
                flat = (found[layer].flatten(0, 1).to(residues).cpu().numpy() for layer in layers)
                single = [batch.split(values, 1) for values in flat]
        return pooled, single

    return compute


def pool(batch: TokenBatch, x: Tensor, pools: Sequence[str]) -> list[Tensor]:
    """For each pooling (n, D), from representations (B, L, D)."""
    reduced = _of_rows(batch, x) if batch.segments is None else _of_segments(batch, x[0])
    first = batch.positions(np.arange(len(batch.lengths)), np.zeros_like(batch.lengths))
    return [x.flatten(0, 1)[first] if kind == "bos" else reduced(kind) for kind in pools]


def _of_rows(batch: TokenBatch, x: Tensor) -> Callable[[str], Tensor]:
    """Mean or maximum over the residues of each row of (n, L, D)."""
    is_residue = batch.inner.view_as(batch.key_mask).to(x.device)

    def reduced(kind: str) -> Tensor:
        if kind == "max":
            return x.masked_fill(~is_residue[..., None], -torch.inf).amax(1)
        weights = is_residue.to(x.dtype)
        return (weights[:, None] @ x)[:, 0] / weights.sum(1, keepdim=True)

    return reduced


def _of_segments(batch: TokenBatch, x: Tensor) -> Callable[[str], Tensor]:
    """Mean or maximum over the residues of each of the sequences that follow one another in (T, D)."""
    lengths = torch.from_numpy(batch.lengths - 2).to(x.device)
    residues = x[batch.inner.nonzero()[:, 0].to(x.device)].to(widest(x))  # float32 sums would lose digits
    return lambda kind: torch.segment_reduce(residues, kind, lengths=lengths, axis=0, unsafe=True).to(x.dtype)


class PartialOutput:
    """An output that is being computed, in the folder `.NAME.partial` beside it, which survives a kill.

    For each window of consecutive proteins that is finished, the folder holds a file with the values of its distinct
    sequences, one after the other. Such a file has its name only once it is complete and on disk; `finish` writes the
    output from all of them. Until then they need as much space as the output.

    Attributes:
        description: of the output, once `start` was called, by this process or a killed one.
        standard_input: where to keep a copy of it.
    """

    def __init__(self, output: Output, folder: Path) -> None:
        self.output, self.folder = output, folder
        self.standard_input = folder / "stdin"
        self._windows = folder / "windows"
        self._opened: tuple[int, BinaryIO] | None = None
        self.description: dict[str, Any] | None = None
        with suppress(OSError, ValueError):  # a new folder, or one of an earlier version
            self.description = json.loads((folder / _DESCRIPTION).read_text())

    @classmethod
    @contextmanager
    def opened(cls, output: Output) -> Iterator["PartialOutput"]:
        """Locks the folder; at the end it is removed unless it holds values that are not published yet."""
        with partial_folder(output.path) as folder:
            partial = cls(output, folder)
            try:
                yield partial
            finally:
                partial.close()
                if not partial.has_values:
                    shutil.rmtree(folder, ignore_errors=True)

    @property
    def has_values(self) -> bool:
        """Whether a window is finished."""
        return self.description is not None and self._windows.is_dir() and any(self._windows.iterdir())

    def close(self) -> None:
        if self._opened:
            self._opened[1].close()
            self._opened = None

    def clear(self) -> None:
        """Removes all values."""
        self.close()
        self.description = None
        (self.folder / _DESCRIPTION).unlink(missing_ok=True)  # first: without it the rest does not count
        for path in self.folder.iterdir():
            if path != self.standard_input:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def start(self, description: dict[str, Any], proteins: Proteins, edges: np.ndarray) -> None:
        """Prepares to write windows with edges (w + 1,); those that an earlier run has finished are kept."""
        self.proteins, self._edges = proteins, edges
        self.layers, self.dtype = description.get("layers", [0]), stored_dtype(description)
        layout = self.output.stored
        self._layer_axis = int(layout.rows_of_residues)
        per_protein = len(self.output.pools) + proteins.lengths * self.output.per_residue
        row = self.dtype.itemsize * len(self.layers) * description["width"]
        self._offsets = np.concatenate(([0], np.cumsum(per_protein * proteins.is_distinct * row)))
        self._size = int((per_protein * row * (3 if layout.text else 1) + _OVERHEAD).sum())
        try:
            if self.description is None:
                self.clear()
                with atomic_output(self.folder / _DESCRIPTION) as partial:
                    partial.write_text(dumps(description))
            self._windows.mkdir(exist_ok=True)
            done = sum(path.stat().st_size for path in self._windows.iterdir())
            needed, free = 2 * int(self._offsets[-1]) - done, shutil.disk_usage(self.folder).free
            if needed > free:
                reason = f"{needed / 1e9:,.1f} GB are needed, half of them temporarily; {free / 1e9:,.1f} GB are free"
                raise OSError(ENOSPC, reason)
        except (OSError, UnwritableError) as error:
            raise UnwritableError.of(self.output.path, error) from error
        self.description = description

    def has(self, begin: int, end: int) -> bool:
        """Whether the window of these proteins is finished."""
        path = self._windows / str(begin)
        return path.exists() and path.stat().st_size == self._offsets[end] - self._offsets[begin]

    @contextmanager
    def window(self, begin: int) -> Iterator[Callable[[int, np.ndarray | None, list[np.ndarray]], bool]]:
        """Opens the window that starts with a protein; it is finished if the block ends without an error.

        Yields:
            A function that writes the values of one protein: its index, pooled (P, K, D), and for each layer (L, D).
            It returns False if a value is not finite, or not in the dtype of the output.
        """
        unfinished = self.folder / "window"
        try:
            with unfinished.open("wb") as file:

                def write(index: int, pooled: np.ndarray | None, residues: list[np.ndarray]) -> bool:
                    arrays = [pooled] if self.output.pools and pooled is not None else []
                    if self.output.per_residue:
                        arrays.append(np.stack(residues, self._layer_axis))
                    with np.errstate(over="ignore"):
                        values = np.concatenate([array.astype(self.dtype, copy=False).ravel() for array in arrays])
                    file.seek(self._offsets[index] - self._offsets[begin])
                    file.write(values.data)
                    return bool(np.isfinite(values).all())

                yield write
            publish(unfinished, self._windows / str(begin))
        except OSError as error:
            raise UnwritableError.of(self.output.path, error) from error

    def finish(self) -> None:
        """Writes the output from its windows and removes them; if the disk is full, they are kept."""
        assert self.description is not None
        path = self.folder / "output"
        try:
            shutil.rmtree(path, ignore_errors=True)  # of a killed run
            if hasattr(os, "posix_fallocate"):  # HDF5 may crash if the disk gets full, so find out before
                with path.open("wb") as file:
                    os.posix_fallocate(file.fileno(), 0, max(1, self._size))
                path.unlink()
            self.output.stored.write(path, self.description, self.proteins, self._read)
            publish_description(self.output.stored, path, self.output.path, self.description)
            publish(path, self.output.path)
            self.clear()
        except (OSError, RuntimeError) as error:  # HDF5 and torch report a full disk as either
            raise UnwritableError.of(self.output.path, error) from error

    def _read(self, index: int) -> np.ndarray:
        """The values of a protein, one-dimensional, from the window of the first one with the same sequence."""
        index = int(self.proteins.first[index])
        begin = int(self._edges[np.searchsorted(self._edges, index, side="right") - 1])
        if self._opened is None or self._opened[0] != begin:
            self.close()
            self._opened = begin, (self._windows / str(begin)).open("rb")
        file = self._opened[1]
        file.seek(self._offsets[index] - self._offsets[begin])
        return np.frombuffer(file.read(int(self._offsets[index + 1] - self._offsets[index])), self.dtype)


def compute_windows(
    computer: Computer,
    partials: Sequence[PartialOutput],
    proteins: Proteins,
    rows: Iterator[np.ndarray],
    edges: np.ndarray,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Computes the windows that any of the outputs lacks, stores each when complete, and returns the residues computed.

    The batches of a window depend on its proteins, the token budget and `Computer.packed` alone, so a resumed run
    computes exactly what an uninterrupted one would have.

    Args:
        computer: of the model.
        partials: of the same proteins, started.
        proteins: in the outputs.
        rows: framed tokens (length + 2,) uint8 of each protein, in order.
        edges: (w + 1,) where the windows begin, and the end.
        progress: called with the residues done and in total.
    """
    ends, distinct, computed = np.concatenate(([0], np.cumsum(proteins.lengths))), proteins.is_distinct, 0
    pools = next((partial.output.pools for partial in partials if partial.output.pools), ())
    of_residues = [partial.dtype for partial in partials if partial.output.per_residue]
    dtype = getattr(torch, max(of_residues, key=lambda one: one.itemsize).name) if of_residues else None
    for begin, end in pairwise(edges.tolist()):
        window = list(islice(rows, end - begin))
        if [len(row) - 2 for row in window] != proteins.lengths[begin:end].tolist():
            raise UserError("the FASTA has changed while it was read; start again")
        lacking = [partial for partial in partials if not partial.has(begin, end)]
        if not lacking:
            continue
        read = representations(computer.model, partials[0].layers, pools, dtype)
        own, done = np.flatnonzero(distinct[begin:end]), int(ends[begin])
        with ExitStack() as stack:
            writers = [(partial, stack.enter_context(partial.window(begin))) for partial in lacking]
            for batch, (pooled, single) in computer([window[i] for i in own], read):
                for number, i in enumerate(own[batch].tolist()):
                    residues = [layer[number] for layer in single]
                    for partial, write in writers:
                        if not write(begin + i, None if pooled is None else pooled[number], residues):
                            name = proteins.names.original(begin + i).decode()
                            raise UserError(_overflow(computer, name, window[i], partial))
                more = int(proteins.lengths[begin + own[batch]].sum())
                done, computed = done + more, computed + more
                if progress:
                    progress(done, int(ends[-1]))
        if progress:
            progress(int(ends[end]), int(ends[-1]))
    return computed


def _overflow(computer: Computer, name: str, row: np.ndarray, partial: PartialOutput) -> str:
    """The message for values that float16 cannot hold; raises a UserError if the model's output is not finite."""
    read = representations(computer.model, partial.layers, partial.output.pools, torch.float32)
    ((_, (pooled, single)),) = computer([row], read)
    arrays = [layer[0] for layer in single] + ([] if pooled is None else [pooled])
    values = np.concatenate([array.ravel() for array in arrays])
    check_finite(values, f"protein {name}")
    largest = f"{np.abs(values).max():,.0f}"
    return f"protein {name}: a value of {largest}, but the maximum of float16 is 65,504; use dtype float32"
