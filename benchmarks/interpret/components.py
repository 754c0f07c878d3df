"""Principal component analysis."""

import numpy as np


def principal_components(points: np.ndarray, number: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates (n, number) of points (n, D) along their principal components, and each one's share of the variance.

    Components are signed so that the largest coordinate is positive. Both arrays are float64; components beyond the
    dimension that the points span are zero.

    >>> coordinates, shares = principal_components(np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 0.0]]))
    >>> coordinates.round(6).tolist(), shares.tolist()
    ([[-1.0, 0.0], [2.0, 0.0], [-1.0, 0.0]], [1.0, 0.0])
    """
    left, sizes, _ = np.linalg.svd(points - points.mean(0), full_matrices=False)
    coordinates, variance = np.zeros((len(points), number)), np.zeros(number)
    found = min(number, len(sizes))
    coordinates[:, :found], variance[:found] = (left * sizes)[:, :found], sizes[:found] ** 2
    largest = coordinates[np.abs(coordinates).argmax(0), np.arange(number)]
    return coordinates * np.where(largest < 0, -1.0, 1.0), variance / max(float((sizes**2).sum()), 1e-300)
