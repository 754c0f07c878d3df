"""The site-independent model (Hopf et al. 2017): amino acid frequencies at each site of an alignment, as a baseline.

Legend: N sequences of the alignment, L residues of its first sequence, the focus.
"""

from pathlib import Path

import numpy as np

from protlm.errors import UserError
from protlm.homology.alignment import GAP, read_alignment
from protlm.homology.weights import sequence_weights
from protlm.sequence.alphabet import STANDARD
from protlm.variants.notation import Variants

PSEUDOCOUNT = 0.5
"""Added to the count of each amino acid in each column."""
MOST_GAPS = 0.5
"""Maximum fraction of gaps; sequences with more are ignored."""


def site_log_frequencies(codes: np.ndarray) -> np.ndarray:
    """log f (L, 20) float64: weighted frequencies of the twenty amino acids in each column, with a pseudocount.

    Args:
        codes: (N, L), see `Alignment.codes`.
    """
    codes = codes[(codes == GAP).mean(1) <= MOST_GAPS]
    weights = sequence_weights(codes)
    counts = np.stack([weights @ (codes == letter) for letter in range(len(STANDARD))], axis=1) + PSEUDOCOUNT
    return np.log(counts / counts.sum(1, keepdims=True))


def site_independent(variants: Variants, path: str | Path) -> np.ndarray:
    """The sum of log f_i(mt) - log f_i(wt) over the substitutions of each variant, (n,) float64.

    A variant with a substitution outside the alignment has NaN.

    Args:
        variants: of one wild type.
        path: of an alignment whose first sequence is part of the wild type.

    Raises:
        UserError: if the file is not an alignment of this protein.
    """
    alignment = read_alignment(path)
    start = variants.sequence.find(alignment.query)
    if start < 0:
        raise UserError(f"{path}: the first sequence is not part of the wild type; expected an MSA of this protein")
    log_f = np.full((len(variants.sequence), len(STANDARD)), np.nan)
    log_f[start : start + len(alignment.query)] = site_log_frequencies(alignment.codes)
    gain = log_f[variants.position, variants.mutant] - log_f[variants.position, variants.wild_type]
    return np.bincount(variants.variant, gain, minlength=len(variants))
