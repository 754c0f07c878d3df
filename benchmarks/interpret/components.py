"""Principal components: the plane in which points differ most."""

import numpy as np


def principal_components(points: np.ndarray, number: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (n, number) of points (n, D) along their principal components, and the share of the variance of each.

    Components are signed so that the largest coordinate is positive; all is float64. Points that span fewer
    dimensions have zeros in the others.

    >>> places, shares = principal_components(np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 0.0]]))
    >>> places.round(6).tolist(), shares.tolist()
    ([[-1.0, 0.0], [2.0, 0.0], [-1.0, 0.0]], [1.0, 0.0])
    """
    left, sizes, _ = np.linalg.svd(points - points.mean(0), full_matrices=False)
    places, variance = np.zeros((len(points), number)), np.zeros(number)
    found = min(number, len(sizes))
    places[:, :found], variance[:found] = (left * sizes)[:, :found], sizes[:found] ** 2
    largest = places[np.abs(places).argmax(0), np.arange(number)]
    return places * np.where(largest < 0, -1.0, 1.0), variance / max(float((sizes**2).sum()), 1e-300)
