"""Log-odds of whole sequences under the profile HMM of an alignment: the score for insertions and deletions.

HMMER's own scores are those of local, repeated matches, which may leave out the ends of a protein at no cost. Here the
whole sequence is compared with the whole model, by the forward algorithm (Durbin et al. 1998, section 5.4).

Legend: L match states, numbered from 1; state 0 is the begin. i residues have been emitted. Everything is a logarithm.
"""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from protlm.errors import UserError
from protlm.homology.alignment import Alignment
from protlm.homology.hmmer import alignment_hmm, background_frequencies
from protlm.homology.weights import sequence_weights
from protlm.sequence.alphabet import STANDARD

LONGEST = 3_000
"""Residues of the longest query: memory grows with its square."""

_NEVER = -np.inf
_Row = tuple[np.ndarray, np.ndarray]  # (L + 1,) float64 each, of match and insert states


def forward_log_odds(alignment: Alignment, sequences: Sequence[str]) -> np.ndarray:
    """log P(sequence | HMM) - sum log P(residue | background), in nats: (n,) float64.

    The HMM has gap probabilities for each site, and HMMER's priors; its evidence is the effective number of
    sequences at 80 % identity. What precedes and follows the changes is computed once, of the query, so that an
    insertion or deletion takes a fraction of a millisecond.

    Args:
        alignment: of the query with its homologs; the query alone will do.
        sequences: n variants of the query, whole. Letters other than the twenty have odds of 1, as inserted residues.

    Raises:
        UserError: for a query of more than `LONGEST` residues.

    >>> family = Alignment("MKTAYI", ["query", "a", "b"], ["MKTAYI", "MK-AYI", "MK-AYL"])
    >>> own, gap_of_others, other_gap = forward_log_odds(family, ["MKTAYI", "MKAYI", "MKTAI"])
    >>> bool(own > gap_of_others > other_gap)
    True
    """
    query = alignment.query
    if len(query) > LONGEST:
        raise UserError(
            f"protein of {len(query):,} residues: expected at most {LONGEST:,} for insertions and deletions"
        )
    model = _Model(alignment_hmm(alignment, float(sequence_weights(alignment.codes).sum())))
    shared = [_shared(query, sequence) for sequence in sequences]
    before = model.forward(query, {start for start, _ in shared})
    after = model.backward(query, {len(query) - end for _, end in shared})
    result = np.empty(len(sequences))
    for number, (sequence, (start, end)) in enumerate(zip(sequences, shared, strict=True)):
        match, insert = before[start]
        for letter in sequence[start : len(sequence) - end]:
            match, insert = model.step(match, insert, letter)
        match_after, insert_after = after[len(query) - end]
        # one match or insert state has emitted the last residue before the shared end
        result[number] = np.logaddexp.reduce(np.append(match + match_after, insert + insert_after))
    return result


def _shared(query: str, sequence: str) -> tuple[int, int]:
    """How many residues two sequences share at the start, and at the end."""
    start = _shared_start(query, sequence)
    return start, _shared_start(query[start:][::-1], sequence[start:][::-1])


def _shared_start(one: str, other: str) -> int:
    differs = (place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differs, min(len(one), len(other)))


class _Model:
    """Log-odds of emissions, and logarithms of transition probabilities."""

    def __init__(self, hmm: Any) -> None:  # pyhmmer's stubs lack its probabilities
        with np.errstate(divide="ignore"):  # of transitions that do not exist
            transitions = np.log(np.asarray(hmm.transition_probabilities, dtype=np.float64))
        self._mm, self._mi, self._md, self._im, self._ii, self._dm, dd = transitions.T  # (L + 1,) each
        odds = np.log(np.asarray(hmm.match_emissions, dtype=np.float64)[1:] / background_frequencies())
        self._emissions = dict(zip(STANDARD, odds.T, strict=True))  # (L,) each
        self._unknown = np.zeros(len(odds))
        self._dd_sum = np.append([0.0, 0.0], np.cumsum(dd[1:-1]))  # (L + 1,), from delete state 1 to each

    def forward(self, query: str, kept: Collection[int]) -> dict[int, _Row]:
        """For each i in `kept`: the first i residues, of which a state has emitted the last."""
        match, insert = np.full_like(self._mm, _NEVER), np.full_like(self._mm, _NEVER)
        match[0] = 0
        rows = {0: (match, insert)}
        for i, letter in enumerate(query[: max(kept, default=0)], start=1):
            match, insert = self.step(match, insert, letter)
            if i in kept:
                rows[i] = match, insert
        return rows

    def step(self, match: np.ndarray, insert: np.ndarray, letter: str) -> _Row:
        """Emits one more residue."""
        entered = np.append(_NEVER, match[:-1] + self._md[:-1])
        delete = self._dd_sum + np.logaddexp.accumulate(entered - self._dd_sum)
        ways = (match + self._mm, insert + self._im, delete + self._dm)
        emitted = np.logaddexp.reduce([way[:-1] for way in ways]) + self._emissions.get(letter, self._unknown)
        return np.append(_NEVER, emitted), np.logaddexp(match + self._mi, insert + self._ii)

    def backward(self, query: str, kept: Collection[int]) -> dict[int, _Row]:
        """For each i in `kept`: the residues after the first i, given the state that has emitted the last of these."""
        never = np.full_like(self._mm, _NEVER)
        to_match, to_insert = np.append(never[:-1], 0.0), never  # at the end, state L goes to the end state
        rows = {}
        for i in range(len(query), min(kept, default=0) - 1, -1):
            left = to_match + self._dm
            delete = np.logaddexp.accumulate((left + self._dd_sum)[::-1])[::-1] - self._dd_sum
            to_delete = np.append(delete[1:], _NEVER)
            match = np.logaddexp.reduce([to_match + self._mm, to_insert + self._mi, to_delete + self._md])
            insert = np.logaddexp(to_match + self._im, to_insert + self._ii)
            if i in kept:
                rows[i] = match, insert
            emitted = match[1:] + self._emissions.get(query[i - 1], self._unknown)
            to_match, to_insert = np.append(emitted, _NEVER), insert
        return rows
