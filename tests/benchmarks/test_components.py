"""Principal components: distances, signs and degenerate points."""

import numpy as np

from benchmarks.interpret.components import principal_components


def test_all_components_keep_the_distances_and_the_variance() -> None:
    points = np.random.default_rng(0).normal(size=(20, 5)) * [5, 1, 1, 1, 0.1] + 7
    coordinates, shares = principal_components(points, 5)
    distances = [np.linalg.norm(x[:, None] - x, axis=-1) for x in (points, coordinates)]
    np.testing.assert_allclose(*distances, atol=1e-9)
    assert (np.diff(shares) < 0).all()
    assert abs(shares.sum() - 1) < 1e-12
    np.testing.assert_allclose(coordinates.var(0) / points.var(0).sum(), shares)


def test_signs_do_not_depend_on_the_orientation() -> None:
    points = np.random.default_rng(0).normal(size=(20, 5))
    turned = points @ np.linalg.qr(np.random.default_rng(1).normal(size=(5, 5)))[0]
    np.testing.assert_allclose(principal_components(points)[0], principal_components(turned)[0], atol=1e-9)


def test_identical_points_are_at_zero() -> None:
    coordinates, shares = principal_components(np.ones((20, 1)), 2)
    assert coordinates.shape == (20, 2)
    assert not coordinates.any()
    assert not shares.any()
