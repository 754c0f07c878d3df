"""HMMER 3, run in this process by pyhmmer: profile hidden Markov models (HMMs) and their comparison with sequences.

The HMM of an alignment has one match state for each residue of the query, as in jackhmmer and HHblits, so that the
alignments of all iterations have the same columns. Everything else is HMMER's default, too.
"""

import numpy as np

from protlm.errors import UserError
from protlm.homology.alignment import Alignment
from protlm.homology.alignment_output import expanded

try:
    from pyhmmer import easel, plan7
except ImportError as error:
    raise UserError(
        f"homologs require pyhmmer, which cannot be imported ({error}); on Linux and macOS: pip install pyhmmer"
    ) from error

LONGEST = 100_000
"""Residues of the longest sequence that HMMER compares."""
AMINO = easel.Alphabet.amino()

_TO_DIGITAL = bytes.maketrans(AMINO.symbols.encode(), bytes(range(len(AMINO.symbols))))


def digital(sequence: bytes) -> bytes:
    """Normalised residues as HMMER's codes."""
    return sequence.translate(_TO_DIGITAL)


def sequence_hmm(sequence: str) -> plan7.HMM:
    """The HMM of a single sequence, with which phmmer searches: BLOSUM62, gaps opened with 0.02, extended with 0.4.

    Raises:
        UserError: for a sequence that is longer than HMMER accepts.
    """
    if len(sequence) > LONGEST:
        raise UserError(f"query of {len(sequence):,} residues: HMMER accepts at most {LONGEST:,}; use its domains")
    query = easel.DigitalSequence(AMINO, name="query", sequence=digital(sequence.encode()))
    return plan7.Builder(AMINO).build(query, plan7.Background(AMINO))[0]


def alignment_hmm(alignment: Alignment, effective: float | None = None) -> plan7.HMM:
    """The HMM of an alignment, with sequence weights and priors as in hmmbuild.

    Args:
        alignment: of one sequence or more.
        effective: number of sequences that count as evidence against the priors; by default hmmbuild's, which is low,
            so that distant homologs are found.
    """
    if len(alignment) == 1:
        return sequence_hmm(alignment.query)
    rows = enumerate(expanded(alignment.rows))
    msa = easel.TextMSA(name="query", sequences=[easel.TextSequence(name=str(n), sequence=row) for n, row in rows])
    msa.reference = "".join("x" if letter.isupper() else "." for letter in msa.alignment[0])
    number = "entropy" if effective is None else effective
    builder = plan7.Builder(AMINO, architecture="hand", effective_number=number)
    return builder.build_msa(msa.digitize(AMINO), plan7.Background(AMINO))[0]


def background_frequencies() -> np.ndarray:
    """(20,) float64: HMMER's frequencies of the amino acids, in the order of `STANDARD`."""
    return np.asarray(plan7.Background(AMINO).residue_frequencies, dtype=np.float64)
