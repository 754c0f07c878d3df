"""Log-odds of whole sequences under the profile HMM of an alignment."""

import itertools
import random

import numpy as np
import pytest

from protlm.errors import UserError
from protlm.homology.alignment import Alignment
from protlm.homology.hmm import LONGEST, forward_log_odds
from protlm.homology.hmmer import alignment_hmm, background_frequencies
from protlm.homology.weights import sequence_weights
from protlm.sequence.alphabet import STANDARD
from tests.homology.families import QUERY, mutated

SMALL = Alignment("MKTAYI", ["q", "a", "b"], ["MKTAYI", "MK-AcYI", "MK-AYL"])


def sum_over_paths(alignment: Alignment, sequence: str) -> float:
    """The same by a table of probabilities, cell by cell."""
    hmm = alignment_hmm(alignment, sequence_weights(alignment.codes).sum())
    mm, mi, md, im, ii, dm, dd = np.asarray(hmm.transition_probabilities, dtype=np.float64).T
    emission = np.asarray(hmm.match_emissions, dtype=np.float64) / background_frequencies()
    last = hmm.M
    match, insert, delete = np.zeros((3, len(sequence) + 1, last + 1))
    match[0, 0] = 1
    for i, k in itertools.product(range(len(sequence) + 1), range(last + 1)):
        if i and k:
            letter = STANDARD.find(sequence[i - 1])
            before = (i - 1, k - 1)
            entered = match[before] * mm[k - 1] + insert[before] * im[k - 1] + delete[before] * dm[k - 1]
            match[i, k] = entered * (emission[k, letter] if letter >= 0 else 1)
        if i:
            insert[i, k] = match[i - 1, k] * mi[k] + insert[i - 1, k] * ii[k]
        if k:
            delete[i, k] = match[i, k - 1] * md[k - 1] + (delete[i, k - 1] * dd[k - 1] if k > 1 else 0)
    end = match[-1, last] * mm[last] + insert[-1, last] * im[last] + delete[-1, last] * dm[last]
    return float(np.log(end))


@pytest.mark.parametrize("alignment", [SMALL, Alignment("MKTAYI", ["q"], ["MKTAYI"])], ids=["family", "query alone"])
def test_log_odds_equal_the_sum_over_all_paths(alignment: Alignment) -> None:
    variants = [
        "MKTAYI",
        "MKAYI",
        "KTAYI",
        "MKTA",
        "MKTAYIWW",
        "WMKTAYI",
        "MKWWTAYI",
        "",
        "MXTAUI",
        "AKTAYV",
        "MMKTAYI",
    ]
    expected = [sum_over_paths(alignment, variant) for variant in variants]
    np.testing.assert_allclose(forward_log_odds(alignment, variants), expected, rtol=1e-9)


def test_probabilities_of_all_sequences_sum_to_one() -> None:
    alignment = Alignment("MK", ["q", "b"], ["MK", "M-"])
    total = 0.0
    for length in range(4):
        sequences = ["".join(letters) for letters in itertools.product(STANDARD, repeat=length)]
        frequency = dict(zip(STANDARD, background_frequencies(), strict=True))
        null = [np.prod([frequency[letter] for letter in sequence]) for sequence in sequences]
        total += float((np.exp(forward_log_odds(alignment, sequences)) * null).sum())
    assert 0.97 < total < 1


def test_a_deletion_in_a_gappy_loop_costs_less_than_one_in_the_core() -> None:
    """As does an insertion; homologs have loops of other lengths, and a conserved core."""
    loop = range(40, 46)
    generator = random.Random(0)
    rows = [QUERY]
    for _ in range(60):
        row = list(mutated(QUERY, 0.3, generator))
        for site in loop:
            row[site] = "-" if generator.random() < 0.5 else generator.choice(STANDARD)
        row[42] += "".join(generator.choices(STANDARD.lower(), k=generator.choice([0, 0, 1, 2])))
        rows.append("".join(row))
    family = Alignment(QUERY, [str(n) for n in range(61)], rows)
    own, *scores = forward_log_odds(family, [QUERY, *(QUERY[:site] + QUERY[site + 2 :] for site in range(1, 80))])
    cost = own - np.array(scores)
    in_loop = cost[[site - 1 for site in loop if site + 1 in loop]]
    core = cost[[site - 1 for site in range(5, 75) if site not in range(38, 47)]]
    assert in_loop.max() < core.min()
    own, inside, outside = forward_log_odds(
        family, [QUERY, f"{QUERY[:43]}GS{QUERY[43:]}", f"{QUERY[:60]}GS{QUERY[60:]}"]
    )
    assert own - inside < own - outside


def test_a_conserved_residue_is_worth_more_than_another() -> None:
    family = Alignment("MKTAYI", list("qabc"), ["MKTAYI", "MRTGYI", "MQTSYI", "METVYI"])
    own, conserved, variable = forward_log_odds(family, ["MKTAYI", "MKTAWI", "MKTWYI"])
    assert own > variable > conserved


def test_proteins_too_long_for_memory_are_refused() -> None:
    query = "M" * (LONGEST + 1)
    with pytest.raises(UserError, match="protein of 3,001 residues: expected at most 3,000"):
        forward_log_odds(Alignment(query, ["q"], [query]), [query])
