"""Nearest neighbours among embeddings, by exact search: matrix products in blocks.

Legend: q queries, n proteins of the reference, D width, k neighbours.
"""

from collections.abc import Callable

import numpy as np

from protlm.annotation.evidence import Evidence

BLOCK = 1 << 25
"""Similarities in memory at a time."""


class Neighbours:
    """An exact index of a reference.

    Similarity is the cosine after subtracting the mean of the reference, which all embeddings have in common; the
    distance is one minus this.

    Args:
        vectors: (n, D).
    """

    def __init__(self, vectors: np.ndarray) -> None:
        vectors = np.asarray(vectors, dtype=np.float32)
        self._mean = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
        self._unit = self._directions(vectors)

    def _directions(self, vectors: np.ndarray) -> np.ndarray:
        centred = np.asarray(vectors, dtype=np.float32) - self._mean
        return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)

    def __len__(self) -> int:
        return len(self._unit)

    def nearest(
        self,
        queries: np.ndarray,
        k: int,
        left_out: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> Evidence:
        """The k proteins of the reference with the highest similarity to each query, or all if there are fewer.

        Args:
            queries: (q, D).
            k: at least 1.
            left_out: for numbers of queries (b,), a mask (b, n) of the proteins not to consider.
        """
        unit = self._directions(queries)
        k, rows = min(k, len(self)), max(1, BLOCK // len(self))
        found: list[Evidence] = []
        for start in range(0, len(unit), rows):
            similarity = unit[start : start + rows] @ self._unit.T
            numbers = np.arange(start, start + len(similarity))
            if left_out is not None:
                similarity[left_out(numbers)] = -np.inf
            best = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
            strength = np.take_along_axis(similarity, best, axis=1).astype(np.float64).ravel()
            pairs = Evidence(np.repeat(numbers, k), best.ravel(), strength)
            found.append(pairs.take(np.isfinite(strength)).strongest(k))
        return Evidence.joined(found)

    def distances(self, queries: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """(m,) float64: the distance of each query (m, D) to one protein of the reference (m,)."""
        return 1 - np.einsum("md,md->m", self._directions(queries), self._unit[targets]).astype(np.float64)
