"""Two coordinates for each protein, from its embedding.

Legend: n proteins, D width.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from protlm.errors import UserError, counted

METHODS = ("pca", "umap")
FEWEST = 3
"""Proteins without which there is no plane."""


@dataclass(frozen=True)
class Coordinates:
    """Places of proteins in a plane.

    Attributes:
        values: (n, 2) float64.
        method: one of `METHODS`.
        axes: names of both axes.
        settings: what they were computed with.
    """

    values: np.ndarray
    method: str
    axes: tuple[str, str]
    settings: dict[str, object]


def coordinates_of(
    vectors: np.ndarray, method: str = "pca", neighbours: int = 15, min_dist: float = 0.1, seed: int = 0
) -> Coordinates:
    """Principal components, or UMAP (McInnes et al. 2018) of cosine distances.

    Args:
        vectors: (n, D).
        method: "pca" or "umap", which requires umap-learn.
        neighbours: of UMAP: more keep more of the global structure.
        min_dist: of UMAP: the lowest distance of points in the plane.
        seed: of UMAP, and of the components of large sets.

    Raises:
        UserError: for fewer than three sequences, an unknown method, or umap-learn that is not installed.

    >>> coordinates_of(np.array([[0.0, 0, 1], [2, 0, 1], [4, 0, 1]])).axes
    ('PC1 (100.0 %)', 'PC2 (0.0 %)')
    """
    if method not in METHODS:
        raise UserError(f"method {method!r}: expected one of {', '.join(METHODS)}", "method")
    if len(vectors) < FEWEST:
        raise UserError(f"{counted(len(vectors), 'sequence')}: expected at least {FEWEST} for a map")
    if method == "pca":
        from sklearn.decomposition import PCA

        pca = PCA(2, random_state=seed)
        values = pca.fit_transform(np.asarray(vectors, dtype=np.float64))
        first, second = (f"PC{i} ({100 * share:.1f} %)" for i, share in enumerate(pca.explained_variance_ratio_, 1))
        return Coordinates(values, method, (first, second), {})
    try:
        umap: Any = import_module("umap")
    except ImportError as error:
        raise UserError(
            "method umap: requires the package umap-learn; install it: pip install -e '.[umap]' -c constraints.txt",
            "method",
        ) from error
    neighbours = min(neighbours, len(vectors) - 1)
    model = umap.UMAP(n_neighbors=neighbours, min_dist=min_dist, metric="cosine", random_state=seed, n_jobs=1)
    values = np.asarray(model.fit_transform(vectors), dtype=np.float64)
    settings = {"n_neighbors": neighbours, "min_dist": min_dist, "metric": "cosine", "random_state": seed}
    return Coordinates(values, method, ("UMAP 1", "UMAP 2"), settings)
