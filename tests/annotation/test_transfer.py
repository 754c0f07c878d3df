"""Precision is what it says, on the data that it was learned from and on others alike."""

import numpy as np
import pytest

from protlm.annotation.evidence import Evidence
from protlm.annotation.known_labels import KnownLabels
from protlm.annotation.precision import PrecisionCurve
from protlm.annotation.transfer import Transfer

PROTEINS, LABELS = 400, 30


def test_precision_never_falls_with_strength_and_matches_frequencies():
    draw = np.random.default_rng(0)
    strength = draw.random(20_000)
    curve = PrecisionCurve(strength, (draw.random(20_000) < strength**2).astype(float))
    grid = np.linspace(0, 1, 50)
    values = curve(grid)
    assert (np.diff(values) >= 0).all()
    np.testing.assert_allclose(values[5:-5], grid[5:-5] ** 2, atol=0.08)


def test_a_few_that_are_right_give_no_certainty_and_none_nothing():
    curve = PrecisionCurve(np.array([0.2, 0.5, 0.6]), np.ones(3))
    assert 0.5 < curve(np.array([0.6]))[0] < 0.9
    assert PrecisionCurve(np.zeros(0), np.zeros(0))(np.array([0.6])).tolist() == [0]


def neighbours_of(labels: KnownLabels, seed: int) -> Evidence:
    """Pairs of all proteins, of which strong ones share more labels: the strength is the expected fraction."""
    draw = np.random.default_rng(seed)
    query, target = np.repeat(np.arange(PROTEINS), 3), draw.integers(PROTEINS, size=3 * PROTEINS)
    same = [
        len(np.intersect1d(*(labels.numbers[labels.starts[i] : labels.starts[i + 1]] for i in pair)))
        for pair in zip(query.tolist(), target.tolist(), strict=True)
    ]
    strength = np.array(same) / labels.counts[target] + draw.normal(0, 0.1, len(query))
    return Evidence(query, target, strength)


def test_labels_are_right_as_often_as_their_precision():
    draw = np.random.default_rng(1)
    names = [[f"l{n}" for n in draw.choice(LABELS, 4, p=np.arange(LABELS, 0, -1) / 465, replace=False)]]
    names += [[f"l{n}" for n in draw.choice(LABELS, 4, replace=False)] for _ in range(PROTEINS - 1)]
    labels, own = KnownLabels.of_lists(names), np.arange(PROTEINS)
    kinds = [[neighbours_of(labels, seed), neighbours_of(labels, seed + 1)] for seed in (10, 20)]
    transfer = Transfer.learned(kinds[0], own, labels, 3)
    for evidence in kinds:  # learned from, and others
        votes = transfer(evidence)
        right = labels.have(own[votes.query], votes.label)
        for low, high in ((0, 0.2), (0.2, 0.5), (0.5, 1)):
            those = (votes.score >= low) & (votes.score < high)
            assert those.sum() > 30
            assert right[those].mean() == pytest.approx(votes.score[those].mean(), abs=0.1)


def test_a_single_neighbour_scores_its_own_worth():
    labels = KnownLabels.of_lists([["a"], ["a"], ["b"], ["b"]])
    pairs = Evidence(np.array([0, 2]), np.array([1, 3]), np.array([0.4, 0.8]))
    curve = PrecisionCurve(np.linspace(0, 1, 100), np.linspace(0, 1, 100) > 0.5)
    votes = Transfer(labels, 5, [curve])([pairs])
    np.testing.assert_allclose(votes.score, curve(pairs.strength))
