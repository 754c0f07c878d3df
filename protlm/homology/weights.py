"""Weights of aligned sequences: those with many near relatives in the alignment count less.

Legend: N sequences, L columns in W words of 64 columns; m rows and n columns of a block of pairs.
"""

import numpy as np

from protlm.homology.alignment import GAP

IDENTITY = 0.8
"""Sequence identity from which sequences are redundant."""

_BITS = 5  # of a code
_OTHER_GAP = 31  # differs from every code, and from `GAP`
_WORD = 64
_FIRST = 2  # words compared for all pairs; the others only for those that may still be neighbours
_FEW = 0.1  # of the pairs of a block: faster to compare one by one
_ROWS, _COLUMNS = 16, 2048  # of a block, whose arrays fit in the processor's cache


def sequence_weights(codes: np.ndarray, identity: float = IDENTITY) -> np.ndarray:
    """Weights (N,) float64: 1 / the number of sequences, including itself, that share `identity` of its residues.

    Source: Hopf et al. 2017. Time grows with the square of N, memory with N.

    Args:
        codes: (N, L) uint8, see `Alignment.codes`.
        identity: a fraction of the residues of the sequence whose weight it is.

    >>> codes = np.array([[1, 2, 3, 4, 5], [1, 2, 3, 4, 6], [7, 8, 9, 10, 20]], dtype=np.uint8)
    >>> sequence_weights(codes).tolist()
    [0.5, 0.5, 1.0]
    """
    count, width = codes.shape
    residue = codes < GAP
    # differing columns, at most, of a neighbour: in all words, and in the first ones
    most = width - np.ceil(identity * residue.sum(1) - 1e-9).astype(np.int32)
    later = residue[:, _FIRST * _WORD :]
    most_first = most - (later.shape[1] - later.sum(1, dtype=np.int32))
    own, other = _planes(codes, GAP), _planes(codes, _OTHER_GAP)
    neighbours = np.ones(count, dtype=np.int64)
    for top in range(0, count, _ROWS):
        rows = slice(top, min(top + _ROWS, count))
        for left in range(top, count, _COLUMNS):
            columns = slice(left, min(left + _COLUMNS, count))
            differing = _differing(own[:_FIRST, :, rows, None], other[:_FIRST, :, None, columns])
            near = differing <= np.maximum(most_first[rows, None], most_first[columns])
            near &= np.arange(top, rows.stop)[:, None] < np.arange(left, columns.stop)
            i, j = np.nonzero(near)
            if len(i) < _FEW * near.size:
                differing = differing[near] + _differing(own[_FIRST:, :, top + i], other[_FIRST:, :, left + j])
            else:
                differing = differing + _differing(own[_FIRST:, :, rows, None], other[_FIRST:, :, None, columns])
                differing = differing[near]
            neighbours[rows] += np.bincount(i[differing <= most[top + i]], minlength=rows.stop - top)
            neighbours[columns] += np.bincount(j[differing <= most[left + j]], minlength=columns.stop - left)
    return 1 / neighbours


def _planes(codes: np.ndarray, gap: int) -> np.ndarray:
    """(W, 5, N) uint64: bit b of the codes of 64 columns; columns beyond L are equal in all sequences."""
    count, width = codes.shape
    padded = np.zeros((count, -(-width // _WORD) * _WORD), dtype=np.uint8)
    padded[:, :width] = np.where(codes == GAP, gap, codes)
    planes = np.stack([np.packbits(padded >> bit & 1, axis=1).view(np.uint64) for bit in range(_BITS)])
    return np.ascontiguousarray(planes.transpose(2, 0, 1))


def _differing(own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The number of columns, int32, that differ in words of (w, 5, ...) planes."""
    total = np.zeros(np.broadcast_shapes(own.shape[2:], other.shape[2:]), dtype=np.int32)
    for mine, theirs in zip(own, other, strict=True):
        bits = mine[0] ^ theirs[0]
        for bit in range(1, _BITS):
            bits |= mine[bit] ^ theirs[bit]
        total += np.bitwise_count(bits)
    return total
