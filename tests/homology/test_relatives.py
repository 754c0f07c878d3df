import numpy as np
import pytest

from protlm.homology.relatives import clusters_of, find_relatives

LETTERS = np.array(list("ACDEFGHIKLMNPQRSTVWY"))


@pytest.fixture(scope="module")
def family() -> list[str]:
    """Two random proteins of 120 residues, each with a copy in which a fifth of the residues are replaced."""
    draw = np.random.default_rng(0)
    found = []
    for _ in range(2):
        parent = draw.choice(LETTERS, 120)
        child = parent.copy()
        child[::5] = draw.choice(LETTERS, 24)
        found += ["".join(parent), "".join(child)]
    return found


def test_relatives_are_found_with_their_identity(family):
    found = find_relatives(family, family, threads=1)
    pairs = set(zip(found.query.tolist(), found.target.tolist(), strict=True))
    assert pairs == {(0, 0), (0, 1), (1, 0), (1, 1), (2, 2), (2, 3), (3, 2), (3, 3)}
    for query, target, identity in zip(found.query, found.target, found.identity, strict=True):
        same = np.mean([one == other for one, other in zip(family[query], family[target], strict=True)])
        assert identity == pytest.approx(same, abs=0.03)
    assert found.covered.min() > 0.9


def test_clusters_depend_on_identity(family):
    found = find_relatives(family, family, threads=1)
    clusters = clusters_of(found, 4, 0.5)
    assert clusters[0] == clusters[1] != clusters[2] == clusters[3]
    assert len(set(clusters_of(found, 4, 0.95).tolist())) == 4


def test_the_nearest_is_the_one_with_the_highest_score(family):
    found = find_relatives([family[0], "MK" * 20], [family[1], family[2], family[0][:60]], threads=1)
    assert found.best(2).tolist() == [0, -1]
    assert found.closest(2)[0] == 1  # the fragment, all of which is aligned
    assert found.closest(2)[1] == 0


def test_a_short_match_within_long_proteins_is_no_relative(family):
    draw = np.random.default_rng(1)
    one, other = ("".join(draw.choice(LETTERS, 300)) + family[0][:60] for _ in range(2))
    found = find_relatives([one], [other], threads=1)
    assert len(found.query) == 1
    assert found.closest(1)[0] == 0


def test_some_pairs_are_compared_as_among_all(family):
    every = find_relatives(family, family, threads=1)
    some = find_relatives(family, family, threads=1, among=[[1], [], [3, 0], [3]])
    found = {(q, t): row for q, t, *row in zip(*vars(every).values(), strict=True)}
    chosen = {(q, t): row for q, t, *row in zip(*vars(some).values(), strict=True)}
    assert chosen == {pair: found[pair] for pair in [(0, 1), (2, 3), (3, 3)]}
