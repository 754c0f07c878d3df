"""The computing behind files of embeddings: window by window, into all stores that miss something."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice, pairwise

import numpy as np
import torch

from protlm.embedding.drafts import Place
from protlm.embedding.pooling import Kept, reader
from protlm.embedding.store import NotFiniteError, Store
from protlm.errors import UserError
from protlm.inference.engine import Computer, batches, framed
from protlm.performer import Performer
from protlm.sequence.fasta import FastaFile

_EVERY = 1 << 62  # a batch that all stores miss


class FramedProteins:
    """The tokens of a FASTA file's proteins, with their ends, one behind the other.

    Args:
        model: says which token stands before a protein.
        file: read once, from the start.
        keep: (records,) bool, which records are proteins.
    """

    def __init__(self, model: Performer, file: FastaFile, keep: np.ndarray) -> None:
        self._model, self._file, self._keep = model, file, keep
        self._skip, self._rows = 0, self._read()

    def skip(self, count: int) -> None:
        """Leaves out so many; before anything is taken."""
        self._skip = count

    def take(self, lengths: np.ndarray) -> list[np.ndarray]:
        """The next ones, framed tokens (length + 2,) uint8 each, which have to be of these lengths (n,)."""
        rows = list(islice(self._rows, len(lengths)))
        if [len(row) - 2 for row in rows] != lengths.tolist():
            raise UserError(f"{self._file.path}: was changed while it was read; start again")
        return rows

    def _read(self) -> Iterator[np.ndarray]:
        before = 0
        for chunk in self._file.chunks():
            keep = self._keep[before : before + len(chunk.lengths)]
            before += len(chunk.lengths)
            kept = np.flatnonzero(keep)
            self._skip, skipped = max(0, self._skip - len(kept)), min(self._skip, len(kept))
            ends = np.cumsum(chunk.lengths)
            begins = ends - chunk.lengths
            for index in kept[skipped:].tolist():
                yield framed(self._model, chunk.tokens[begins[index] : ends[index]])


def fill(
    computer: Computer,
    stores: Sequence[Store],
    rows: FramedProteins,
    edges: np.ndarray,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Computes all that stores miss, and notes after each batch how far they are.

    Batches depend on the window and the token budget alone, so a run that goes on computes what an uninterrupted one
    would have.

    Args:
        computer: of the model.
        stores: of the same proteins.
        rows: from the first protein of the file on.
        edges: (w + 1,) where windows begin, counted over the file; those of the stores begin with the first.
        progress: called with the residues done and all.

    Returns:
        How many residues were computed.

    Raises:
        UserError: if the memory is too small for a protein; for results that are not finite; for a full disk.
    """
    if not stores:
        return 0
    proteins, budget = stores[0].proteins, computer.token_budget
    ends = np.concatenate(([0], np.cumsum(proteins.lengths)))
    start = min(store.draft.place.proteins for store in stores)
    rows.skip(int(edges[0]) + start)
    windows = (edges - edges[0]).tolist()
    read, computed = _reader(computer.model, stores), 0
    for begin, end in pairwise(windows):
        if begin < start:
            continue
        window = rows.take(proteins.lengths[begin:end])
        own = np.flatnonzero(proteins.first[begin:end] == np.arange(begin, end))
        behind = [store for store in stores if store.draft.place.proteins <= begin]
        number = min(store.batches(begin, computer.token_budget) for store in behind)
        before = [begin + own[batch] for batch in batches(proteins.lengths[begin + own] + 2, budget)[:number]]
        done = int(ends[begin]) + sum(int(proteins.lengths[indices].sum()) for indices in before)
        for batch, kept in computer([window[i] for i in own], read, number):
            indices = begin + own[batch]
            if computer.token_budget != budget:  # memory ran out: the batches are no longer those that were counted
                number = _EVERY
            for store in behind:
                if store.batches(begin, budget) <= number:
                    _write(computer, store, indices, kept, window, begin)
                    if number < _EVERY:
                        store.advance(Place(begin, number + 1, budget))
            number += number < _EVERY
            done += int(proteins.lengths[indices].sum())
            computed += int(proteins.lengths[indices].sum())
            if progress:
                progress(done, int(ends[-1]))
        for store in behind:
            for index in sorted(set(range(begin, end)) - set((begin + own).tolist())):
                store.copy(index, int(proteins.first[index]))
            store.advance(Place(end, 0, 0))
        if progress:
            progress(int(ends[end]), int(ends[-1]))
    return computed


def _reader(model: Performer, stores: Sequence[Store]) -> Callable[..., Kept]:
    """Keeps what any of the stores writes."""
    pools = next((store.pools for store in stores if store.pools), ())
    dtype = getattr(torch, stores[0].about["dtype"]) if any(store.rows for store in stores) else None
    return reader(model, stores[0].about["layers"], pools, dtype)


def _write(
    computer: Computer, store: Store, indices: np.ndarray, kept: Kept, window: list[np.ndarray], begin: int
) -> None:
    pooled, single = kept
    for place, index in enumerate(indices.tolist()):
        length = int(store.proteins.lengths[index])
        try:
            store.write(index, None if pooled is None else pooled[place], [rows[place, :length] for rows in single])
        except NotFiniteError:
            name = store.proteins.names.original(index).decode()
            raise UserError(_explanation(computer, name, window[index - begin], store)) from None


def _explanation(computer: Computer, name: str, row: np.ndarray, store: Store) -> str:
    """Why something is not finite; the protein is computed once more to know."""
    read = reader(computer.model, store.about["layers"], store.pools, torch.float32)
    ((_, (pooled, single)),) = computer([row], read)
    values = [*single, *([] if pooled is None else [pooled])]
    if all(np.isfinite(value).all() for value in values):
        most = max(np.abs(value).max() for value in values)
        return f"protein {name}: a value of {most:,.0f}, but float16 ends at 65,504; pass --dtype float32"
    return f"protein {name}: the model's answer is not a finite number; the model is damaged, or was not trained well"
