import random

import numpy as np
import pytest

from protlm.homology.alignment import Alignment
from protlm.homology.blosum62 import blosum62_matrix
from protlm.homology.profile import Profile
from protlm.sequence.alphabet import STANDARD
from tests.homology.families import QUERY, mutated

CONSERVED = range(20, 30)


@pytest.fixture(scope="module")
def family() -> Alignment:
    """Half of the homologs end at site 60; sites 20 to 29 are conserved, and site 50 is K or R."""
    generator = random.Random(1)
    rows = [QUERY]
    for number in range(100):
        row = mutated(QUERY, 0.5, generator)
        row = row[:20] + QUERY[20:30] + row[30:50] + generator.choice("KR") + row[51:]
        rows.append(row if number % 2 else row[:60] + "-" * (len(QUERY) - 60))
    return Alignment(QUERY, [str(number) for number in range(101)], rows)


def test_probabilities_sum_to_one_and_the_wild_type_scores_zero(family: Alignment) -> None:
    profile = Profile(family)
    np.testing.assert_allclose(np.exp(profile.log_p).sum(1), 1)
    wild_type = [STANDARD.index(letter) for letter in QUERY]
    assert (profile.log_odds[np.arange(len(QUERY)), wild_type] == 0).all()


def test_substitutions_of_conserved_sites_score_lowest(family: Alignment) -> None:
    profile = Profile(family)
    means = profile.log_odds.mean(1)
    variable = [site for site in range(60) if site not in (*CONSERVED, 50) and QUERY[site] not in "CW"]
    assert means[list(CONSERVED)].mean() < means[variable].mean() - 1
    assert (profile.conservation[list(CONSERVED)].min()) > profile.conservation[variable].max()


def test_amino_acids_of_homologs_score_highest(family: Alignment) -> None:
    scores = Profile(family).log_odds[50]
    assert {STANDARD[a] for a in np.argsort(scores)[-2:]} <= {"K", "R", QUERY[50]}


def test_the_effective_number_counts_those_with_a_residue(family: Alignment) -> None:
    profile = Profile(family)
    assert 1 < profile.effective[80] < profile.effective[10] < len(family)
    rows = [QUERY, *(row[:60] + "-" * (len(QUERY) - 60) for row in family.rows[1:])]
    part = Profile(Alignment(QUERY, family.ids, rows))
    np.testing.assert_allclose(part.effective[60:], 1)  # of the query alone, however the others are weighted
    np.testing.assert_allclose(np.exp(part.log_p[70]), np.exp(Profile(Alignment(QUERY, ["q"], [QUERY])).log_p[70]))
    alone = Profile(Alignment(QUERY, ["q"], [QUERY]))
    np.testing.assert_allclose(alone.effective, 1)


def test_redundant_sequences_are_no_further_evidence(family: Alignment) -> None:
    rows = [*family.rows, *family.rows[5:6] * 50]
    copied = Profile(Alignment(QUERY, [str(number) for number in range(len(rows))], rows))
    np.testing.assert_allclose(copied.effective, Profile(family).effective, rtol=1e-6)
    np.testing.assert_allclose(copied.log_p, Profile(family).log_p, rtol=1e-6)


def test_without_homologs_substitutions_rank_as_by_blosum62() -> None:
    profile = Profile(Alignment(STANDARD, ["q"], [STANDARD]))
    matrix = blosum62_matrix()
    for site in range(20):
        others = [a for a in range(20) if a != site]
        best = max(others, key=lambda a: profile.log_odds[site, a])
        assert matrix[site, best] == max(matrix[site, others])
        assert np.corrcoef(profile.log_odds[site, others], matrix[site, others])[0, 1] > 0.9


def test_sequences_that_cover_little_of_the_query_are_ignored(family: Alignment) -> None:
    short = "-" * 70 + "W" * (len(QUERY) - 70)
    other = Profile(Alignment(QUERY, [*family.ids, "short"], [*family.rows, short]))
    assert other.weights[-1] == 0
    np.testing.assert_array_equal(other.log_odds, Profile(family).log_odds)


def test_homologs_of_one_domain_of_a_long_protein_count(family: Alignment) -> None:
    rest = "MKTAYIAKQR" * 30
    rows = [QUERY + rest, *(row + "-" * len(rest) for row in family.rows[1:])]
    long = Profile(Alignment(QUERY + rest, family.ids, rows))
    np.testing.assert_allclose(long.effective[: len(QUERY)], Profile(family).effective)
    np.testing.assert_allclose(long.log_odds[: len(QUERY)], Profile(family).log_odds)
    assert long.effective[len(QUERY) :].tolist() == [1] * len(rest)


def test_unknown_residues_of_the_query_have_a_profile() -> None:
    profile = Profile(Alignment("MXT", ["q"], ["MXT"]))
    assert np.isfinite(profile.log_odds).all()
    assert profile.effective.tolist() == [1, 0, 1]
