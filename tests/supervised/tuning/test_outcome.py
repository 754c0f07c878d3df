"""The gain that validation can tell from chance."""

import numpy as np
import pytest

from protlm.supervised.target import Target
from protlm.supervised.tuning.outcome import score_of, standard_error


def target(count: int, seed: int = 0) -> Target:
    rows = np.arange(count)
    y = np.random.default_rng(seed).integers(2, size=count)
    return Target("x", "classification", False, ("a", "b"), y, rows, np.zeros_like(rows))


def test_the_error_of_a_gain_is_that_of_the_mean_of_its_rows():
    given = target(400)
    before = np.full((400, 2), 0.5) + np.array([[0.1, -0.1]])
    after = before.copy()
    after[:40] = 0.1 + 0.8 * np.eye(2)[given.y[:40]]
    gained = np.log(after / before)[np.arange(400), given.y]
    assert score_of(given, after) - score_of(given, before) == pytest.approx(gained.mean())
    assert standard_error([given], [before], [after]) == pytest.approx(gained.std() / 20, rel=0.2)
    assert standard_error([given], [after], [after]) == 0


def test_classes_are_scored_by_likelihood_and_values_by_their_order():
    given = target(100)
    assert score_of(given, np.full((100, 2), 0.5)) == pytest.approx(np.log(0.5))
    y = np.arange(100.0)
    values = Target("x", "regression", False, (), y, given.owner, given.position)
    assert score_of(values, y[:, None] ** 3) == pytest.approx(1)
