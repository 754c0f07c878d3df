"""What a probe reads: blocks of numbers per protein or residue, from a frozen model and from the sequence itself.

Legend: n proteins of L_i residues, r rows (proteins or residues), d numbers of a block.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

import numpy as np

from protlm.embedding.in_memory import embed
from protlm.errors import UserError
from protlm.inference.engine import TOKEN_BUDGET, windows
from protlm.performer import Performer
from protlm.performer.label_head import AT, COMPOSITION, LAYER, REACH, SITES, WINDOW, layer_of
from protlm.progress import Progress, summed
from protlm.sequence.alphabet import STANDARD

_MOST = 4_096  # numbers in a block of residues
_WINDOW = 1 << 16  # residues computed between two reports of progress
_CODES = np.full(256, len(STANDARD), dtype=np.uint8)
_CODES[list(STANDARD.encode())] = np.arange(len(STANDARD))


class StoredLayers(NamedTuple):
    """Representations that were computed before, instead of by a model."""

    layers: Sequence[int]
    """(S,) their numbers."""
    proteins: Sequence[np.ndarray]
    """(S, L_i, D) of each protein."""


def codes_of(sequence: str) -> np.ndarray:
    """(L,) uint8: the number of each residue in `STANDARD`, 20 for others."""
    return _CODES[np.frombuffer(sequence.encode(), dtype=np.uint8)]


def composition(sequence: str) -> np.ndarray:
    """(21,) float32: fractions of the twenty amino acids, and the logarithm of the length.

    >>> composition("AACC")[:3].tolist()
    [0.5, 0.5, 0.0]
    """
    counts = np.bincount(codes_of(sequence), minlength=21)[:20]
    return np.append(counts / len(sequence), np.log(len(sequence))).astype(np.float32)


def window(sequence: str, reach: int = REACH) -> np.ndarray:
    """(L, (2 reach + 1) * 21) float32: one-hot residues from `reach` before to `reach` after each; the 21st is outside.

    >>> window("MK", 1).reshape(2, 3, 21).argmax(2).tolist()
    [[20, 10, 8], [10, 8, 20]]
    """
    padded = np.pad(codes_of(sequence), reach, constant_values=20)
    around = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1)
    return np.eye(21, dtype=np.float32)[around].reshape(len(sequence), -1)


def sites(sequence: str) -> np.ndarray:
    """(L * 20,) float32: one-hot residues of a whole protein; for variants of equal length."""
    return np.eye(21, dtype=np.float32)[codes_of(sequence)][:, :20].ravel()


def variable_sites(sequences: Sequence[str], width: int) -> str:
    """Residues, from 1, at which variants of one protein differ, for names of blocks; "" if they are too many.

    >>> variable_sites(["MKT", "MRT", "MRV"], 16)
    '2,3'
    """
    codes = np.stack([codes_of(sequence) for sequence in sequences])
    found = np.flatnonzero((codes != codes[0]).any(axis=0)) + 1
    return ",".join(map(str, found)) if len(found) * width <= _MOST else ""


def blocks_of(
    sequences: Iterable[str],
    names: Sequence[str],
    per_residue: bool,
    model: Performer | None,
    token_budget: int = TOKEN_BUDGET,
    precision: str = "float32",
    progress: Progress | None = None,
    total: int = 0,
    stored: StoredLayers | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """For each protein, name -> block: (d,) float32, or (L, d) per residue. Proteins are embedded whole.

    Args:
        sequences: n proteins.
        names: of blocks: "layer 3", "layer 3 at 39,54" (rows of these residues), `COMPOSITION`, `WINDOW`, `SITES`.
        per_residue: layers are of each residue, not their mean.
        model: of the layers, if any.
        token_budget, precision: see `ProteinModel`.
        progress: called with residues done and `total`.
        stored: representations of the same proteins.

    Raises:
        UserError: for a protein without the residues of a block.
    """
    layers = [name for name in names if name.startswith(LAYER)]
    numbers = sorted({layer_of(name)[0] for name in layers})
    by_residue = per_residue or any(AT in name for name in layers)
    advance = summed(progress, total)
    own = {COMPOSITION: composition, WINDOW: window, SITES: sites}
    before = None if stored is None else _read(stored, numbers, by_residue)
    for group in windows(sequences, len, _WINDOW):
        embedded: Iterator[np.ndarray | None] = iter([None] * len(group))
        if layers and before is not None:
            embedded = islice(before, len(group))
        elif layers:
            assert model is not None
            embedded = embed(model, group, token_budget, numbers, None if by_residue else "mean", precision)
        for sequence, vectors in zip(group, embedded, strict=True):
            blocks = {name: own[name](sequence) for name in names if name in own}
            if vectors is not None:
                each = dict(zip(numbers, vectors if len(numbers) > 1 else vectors[None], strict=True))
                for name in layers:
                    number, residues = layer_of(name)
                    rows = each[number]
                    if residues:
                        check_residues(sequence, residues)
                        rows = rows[residues].ravel()
                    elif by_residue and not per_residue:
                        rows = rows.mean(axis=0)
                    blocks[name] = rows
            advance(len(sequence))
            yield blocks


def _read(stored: StoredLayers, numbers: Sequence[int], by_residue: bool) -> Iterator[np.ndarray]:
    """As `embed` yields them: (S, L, D), or means (S, D), without S for one layer."""
    places = [list(stored.layers).index(number) for number in numbers]
    for rows in stored.proteins:
        found = np.asarray(rows[places], dtype=np.float32)
        found = found if by_residue else found.mean(axis=1)
        yield found if len(places) > 1 else found[0]


def check_residues(sequence: str, residues: Sequence[int]) -> None:
    """Raises a UserError if a protein is too short to have all residues, from 0."""
    if len(sequence) <= max(residues):
        raise UserError(
            f"a protein of {len(sequence):,} residues: the model was fitted to variants of one protein and reads "
            f"residue {max(residues) + 1:,}; expected a variant of that protein"
        )
