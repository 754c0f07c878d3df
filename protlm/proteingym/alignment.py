"""A multiple alignment as a score of variants, site by site.

Legend: N sequences of the alignment, L columns, which are the residues of its first sequence, the focus.
"""

from pathlib import Path

import numpy as np

from protlm.errors import UserError
from protlm.sequence.alphabet import STANDARD
from protlm.sequence.stream import DAMAGED, Source
from protlm.variants.notation import Variants

IDENTITY = 0.8
"""Share of equal residues from which two sequences count as one."""
PSEUDOCOUNT = 0.5
"""Of each amino acid in each column."""
MOST_GAPS = 0.5
"""Share of gaps up to which a sequence is used."""

_GAP, _NOTHING = len(STANDARD), np.uint8(255)  # the second is equal to no code
_CODES = np.full(256, _GAP, dtype=np.uint8)
_CODES[np.frombuffer(STANDARD.encode(), dtype=np.uint8)] = np.arange(len(STANDARD))


def read_alignment(path: str | Path) -> tuple[str, np.ndarray]:
    """The focus sequence in capital letters, and the codes (N, L) uint8 of all sequences, the focus first.

    Codes are numbers in `STANDARD`, and 20 for gaps and other letters. Of rows of equal length (a2m as EVcouplings
    writes it, aligned FASTA) the columns are kept in which the focus has a residue; of rows of other lengths (a3m),
    lower-case letters are insertions and go.

    Raises:
        UserError: for a file that is no alignment.
    """
    rows: list[list[bytes]] = []
    try:
        with Source(path) as source, source.content() as content:
            for line in content:
                if line.startswith(b">"):
                    rows.append([])
                elif line.strip() and not rows:
                    raise UserError(f"{path}: not an alignment, expected '>' and a name in the first line")
                elif line.strip():
                    rows[-1].append(line.strip())
    except DAMAGED as error:
        raise UserError(f"{path}: damaged or cut short ({error}); fetch or compress it again") from error
    sequences = [b"".join(row) for row in rows]
    if not sequences:
        raise UserError(f"{path}: is empty; expected an alignment in a2m, a3m or FASTA")
    if len(set(map(len, sequences))) > 1:
        sequences = [row.translate(None, b"abcdefghijklmnopqrstuvwxyz.") for row in sequences]
    for number, row in enumerate(sequences, start=1):
        if len(row) != len(sequences[0]):
            raise UserError(
                f"{path}, record {number}: {len(row):,} columns; expected {len(sequences[0]):,} as in the first record"
            )
    letters = np.frombuffer(b"".join(sequences).upper(), dtype=np.uint8).reshape(len(sequences), -1)
    columns = (letters[0] >= ord("A")) & (letters[0] <= ord("Z"))
    if not columns.any():
        raise UserError(f"{path}: the first record has no residues; expected the protein that was searched with")
    return letters[0, columns].tobytes().decode(), _CODES[letters[:, columns]]


def weights(codes: np.ndarray) -> np.ndarray:
    """(N,) float64: 1 over the number of sequences, itself included, that share 80 % of its residues with each.

    Takes time with the square of N.
    """
    residues = (codes != _GAP).sum(1)
    result = np.empty(len(codes))
    for i, row in enumerate(codes):
        own = np.where(row == _GAP, _NOTHING, row)
        equal = np.count_nonzero(codes == own, axis=1)
        result[i] = 1 / max(1, int((equal >= IDENTITY * residues[i]).sum()))
    return result


def site_log_frequencies(codes: np.ndarray) -> np.ndarray:
    """log f (L, 20) float64: frequencies of the twenty in each column, weighted, with a pseudocount.

    Sequences with more than half of their columns empty are left out.
    """
    codes = codes[(codes == _GAP).mean(1) <= MOST_GAPS]
    weight = weights(codes)
    counts = np.stack([weight @ (codes == letter) for letter in range(len(STANDARD))], axis=1) + PSEUDOCOUNT
    return np.log(counts / counts.sum(1, keepdims=True))


def site_independent(variants: Variants, path: str | Path) -> np.ndarray:
    """The sum of log f_i(mt) - log f_i(wt) over the substitutions, (n,) float64 (Hopf et al. 2017, their independent
    model, here from counts); NaN for a variant with a substitution outside of the alignment.

    Args:
        variants: of one wild type.
        path: an alignment, the first sequence of which is a part of the wild type.

    Raises:
        UserError: for a file that is no alignment, or of another protein.
    """
    focus, codes = read_alignment(path)
    start = variants.sequence.find(focus)
    if start < 0:
        raise UserError(f"{path}: its first sequence is no part of the wild type")
    log_f = np.full((len(variants.sequence), len(STANDARD)), np.nan)
    log_f[start : start + len(focus)] = site_log_frequencies(codes)
    gain = log_f[variants.position, variants.mutant] - log_f[variants.position, variants.wild_type]
    return np.bincount(variants.variant, gain, minlength=len(variants))
