"""The gain that validation can tell from chance."""

import numpy as np
import pytest

from protlm.supervised.target import Target
from protlm.supervised.tuning.outcome import score_of, standard_error


def target(count: int, seed: int = 0) -> Target:
    rows = np.arange(count)
    y = np.random.default_rng(seed).integers(2, size=count)
    return Target("x", "classification", False, ("a", "b"), y, rows, np.zeros_like(rows))


def test_the_error_of_a_gain_in_accuracy_is_that_of_the_binomial():
    """Predictions that are right for another tenth of the rows: the difference of each row is 0 or 1."""
    given = target(400)
    before = np.full((400, 2), 0.5) + np.array([[0.1, -0.1]])
    after = before.copy()
    after[:40] = np.eye(2)[given.y[:40]]
    gained = (after.argmax(1) == given.y).astype(float) - (before.argmax(1) == given.y)
    assert score_of(given, after) - score_of(given, before) == pytest.approx(gained.mean())
    assert standard_error([given], [before], [after]) == pytest.approx(gained.std() / 20, rel=0.2)
    assert standard_error([given], [after], [after]) == 0


def test_a_rare_class_is_scored_by_its_precision():
    given = target(100)
    given.y[:] = np.arange(100) < 8
    right, none = np.eye(2)[given.y], np.tile([0.9, 0.1], (100, 1))
    assert score_of(given, right) == 1
    assert score_of(given, none) == pytest.approx(0.08)
