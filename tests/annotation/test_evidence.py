"""Neighbours and votes are those of the obvious computation."""

import numpy as np
import pytest

from protlm.annotation import neighbours
from protlm.annotation.evidence import Evidence, votes_of
from protlm.annotation.known_labels import KnownLabels
from protlm.annotation.neighbours import Neighbours

DRAW = np.random.default_rng(0)


@pytest.mark.parametrize("k", [1, 4, 100])
def test_neighbours_are_those_of_all_distances(monkeypatch, k):
    reference, queries = DRAW.normal(size=(30, 5)) + 3, DRAW.normal(size=(7, 5)) + 3
    mean = reference.mean(axis=0)
    cosine = np.array(
        [[q @ r / np.linalg.norm(q) / np.linalg.norm(r) for r in reference - mean] for q in queries - mean]
    )
    for block in (1, 1 << 20):  # of one query, and of all
        monkeypatch.setattr(neighbours, "BLOCK", block)
        found = Neighbours(reference).nearest(queries, k)
        expected = np.argsort(-cosine, axis=1)[:, :k]
        assert found.target.reshape(7, -1).tolist() == expected.tolist()
        np.testing.assert_allclose(found.strength.reshape(7, -1), np.sort(-cosine)[:, :k] * -1, atol=1e-5)
    distances = Neighbours(reference).distances(queries[found.query], found.target)
    np.testing.assert_allclose(distances, 1 - found.strength, atol=1e-6)


def test_what_is_left_out_is_no_neighbour():
    reference = DRAW.normal(size=(6, 3))
    group = np.array([0, 0, 1, 1, 2, 2])
    found = Neighbours(reference).nearest(reference, 6, lambda rows: group[rows, None] == group)
    assert len(found.query) == 6 * 4
    assert (group[found.query] != group[found.target]).all()


def test_votes_are_sums_over_the_neighbours_that_have_a_label():
    labels = KnownLabels.of_lists([[f"l{i}" for i in range(5) if DRAW.random() < 0.4] for _ in range(12)])
    pairs = {(int(q), int(t)) for q, t in DRAW.integers((4, 12), size=(20, 2))}
    query, target = np.array(sorted(pairs)).T
    evidence = Evidence(query, target, DRAW.random(len(query)))
    weight = DRAW.random(len(query))
    expected: dict[tuple[int, str], list[tuple[float, float, int]]] = {}
    for q, t, strength, w in zip(query, target, evidence.strength, weight, strict=True):
        for number in labels.numbers[labels.starts[t] : labels.starts[t + 1]]:
            expected.setdefault((int(q), labels.names[number]), []).append((strength, w, int(t)))
    votes = votes_of(evidence, weight, labels)
    found = [(q, labels.names[label]) for q, label in zip(votes.query.tolist(), votes.label.tolist(), strict=True)]
    assert found == sorted(expected)
    for key, score, best in zip(found, votes.score, votes.target, strict=True):
        assert score == pytest.approx(sum(w for _, w, _ in expected[key]))
        assert best == max(expected[key])[2]


def test_no_pairs_give_no_votes():
    none = np.zeros(0, dtype=np.int64)
    votes = votes_of(Evidence(none, none, np.zeros(0)), np.zeros(0), KnownLabels.of_lists([["a"]]))
    assert len(votes.score) == 0
