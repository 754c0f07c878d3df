"""Scores of variants from a multiple sequence alignment (MSA), site by site.

Legend: N sequences of the alignment, L columns: the residues of its first sequence, the focus.
"""

from pathlib import Path

import numpy as np

from protlm.errors import UserError
from protlm.sequence.alphabet import STANDARD
from protlm.sequence.stream import DAMAGED, Source
from protlm.variants.notation import Variants

IDENTITY = 0.8
"""Sequence identity above which sequences are considered redundant."""
PSEUDOCOUNT = 0.5
"""Added to the count of each amino acid in each column."""
MOST_GAPS = 0.5
"""Maximum fraction of gaps; sequences with more are ignored."""

_GAP, _NOTHING = len(STANDARD), np.uint8(255)  # the latter differs from every code
_CODES = np.full(256, _GAP, dtype=np.uint8)
_CODES[np.frombuffer(STANDARD.encode(), dtype=np.uint8)] = np.arange(len(STANDARD))


def read_alignment(path: str | Path) -> tuple[str, np.ndarray]:
    """Reads the focus sequence, in upper case, and the codes (N, L) uint8 of all sequences, the focus first.

    Codes are indices in `STANDARD`, and 20 for gaps and other letters. In a2m as written by EVcouplings and in aligned
    FASTA, with rows of equal length, columns without a residue of the focus are dropped; in a3m, with rows of unequal
    length, lower-case letters are insertions and are dropped.
    """
    rows: list[list[bytes]] = []
    try:
        with Source(path) as source, source.content() as content:
            for line in content:
                if line.startswith(b">"):
                    rows.append([])
                elif line.strip() and not rows:
                    raise UserError(f"{path}: not an alignment; expected a first line with '>' and a name")
                elif line.strip():
                    rows[-1].append(line.strip())
    except DAMAGED as error:
        raise UserError(f"{path}: damaged or cut short ({error}); download or compress it again") from error
    sequences = [b"".join(row) for row in rows]
    if not sequences:
        raise UserError(f"{path}: empty; expected an alignment in a2m, a3m or FASTA format")
    if len(set(map(len, sequences))) > 1:
        sequences = [row.translate(None, b"abcdefghijklmnopqrstuvwxyz.") for row in sequences]
    for number, row in enumerate(sequences, start=1):
        if len(row) != len(sequences[0]):
            expected = f"expected {len(sequences[0]):,} as in the first record"
            raise UserError(f"{path}, record {number}: {len(row):,} columns; {expected}")
    letters = np.frombuffer(b"".join(sequences).upper(), dtype=np.uint8).reshape(len(sequences), -1)
    columns = (letters[0] >= ord("A")) & (letters[0] <= ord("Z"))
    if not columns.any():
        raise UserError(f"{path}: the first record has no residues; expected the query of the search")
    return letters[0, columns].tobytes().decode(), _CODES[letters[:, columns]]


def weights(codes: np.ndarray) -> np.ndarray:
    """Weights (N,) float64: 1 / the number of sequences, including itself, that have 80 % of the sequence's residues.

    Time is quadratic in N.
    """
    residues = (codes != _GAP).sum(1)
    result = np.empty(len(codes))
    for i, row in enumerate(codes):
        own = np.where(row == _GAP, _NOTHING, row)
        equal = np.count_nonzero(codes == own, axis=1)
        result[i] = 1 / max(1, int((equal >= IDENTITY * residues[i]).sum()))
    return result


def site_log_frequencies(codes: np.ndarray) -> np.ndarray:
    """log f (L, 20) float64: weighted frequencies of the twenty amino acids in each column, with a pseudocount."""
    codes = codes[(codes == _GAP).mean(1) <= MOST_GAPS]
    weight = weights(codes)
    counts = np.stack([weight @ (codes == letter) for letter in range(len(STANDARD))], axis=1) + PSEUDOCOUNT
    return np.log(counts / counts.sum(1, keepdims=True))


def site_independent(variants: Variants, path: str | Path) -> np.ndarray:
    """The sum of log f_i(mt) - log f_i(wt) over the substitutions of each variant, (n,) float64.

    This is the independent model of Hopf et al. 2017, from counts. A variant with a substitution outside the alignment
    has NaN.

    Args:
        variants: of one wild type.
        path: of an alignment whose first sequence is part of the wild type.

    Raises:
        UserError: if the file is not an alignment of this protein.
    """
    focus, codes = read_alignment(path)
    start = variants.sequence.find(focus)
    if start < 0:
        raise UserError(f"{path}: the first sequence is not part of the wild type; expected an MSA of this protein")
    log_f = np.full((len(variants.sequence), len(STANDARD)), np.nan)
    log_f[start : start + len(focus)] = site_log_frequencies(codes)
    gain = log_f[variants.position, variants.mutant] - log_f[variants.position, variants.wild_type]
    return np.bincount(variants.variant, gain, minlength=len(variants))
