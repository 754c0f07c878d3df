"""A linear head: logits of classes, or a value, from blocks of features.

Legend: r rows, d features, k outputs (classes, or 1 for regression).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from protlm.errors import UserError
from protlm.supervised.target import VALUED


@dataclass(frozen=True)
class LinearHead:
    """What a probe has learned about one target.

    Attributes:
        target: its name.
        kind: one of `KINDS`.
        per_residue: whether it labels residues.
        classes: (k,); none for values.
        blocks: names of features, see `blocks_of`.
        weight: (d, k) float32, of features as they are: standardisation is part of it.
        bias: (k,) float32.
        temperature: divides logits.
        threshold: of two classes, the rare one and the probability from which it is predicted; None for the more
            probable one.
    """

    target: str
    kind: str
    per_residue: bool
    classes: tuple[str, ...]
    blocks: tuple[str, ...]
    weight: np.ndarray
    bias: np.ndarray
    temperature: float = 1.0
    threshold: tuple[str, float] | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the blocks that `answers` needs."""
        return self.blocks

    @property
    def reads_residues(self) -> bool:
        """Whether blocks of layers have to be per residue."""
        return self.per_residue

    def answers(self, blocks: Mapping[str, np.ndarray]) -> np.ndarray:
        """Probabilities (k,), per residue (L, k), or values, of one protein from its blocks."""
        features = np.concatenate([blocks[name] for name in self.blocks], axis=-1)
        if features.shape[-1] != len(self.weight):
            raise UserError("a protein of another length: the model was fitted to variants of one protein")
        return self(features) if self.per_residue else self(features[None])[0]

    def logits(self, features: np.ndarray) -> np.ndarray:
        """(r, k) float64 from (r, d)."""
        return (features @ self.weight + self.bias).astype(np.float64)

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Probabilities (r, k), or values (r, 1), from (r, d)."""
        return answers(self.kind, self.logits(features), self.temperature)


def answers(kind: str, logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Probabilities (r, k) of logits (r, k), which sum to 1 unless the kind is multi-label; values as they are.

    >>> answers("classification", np.array([[0.0, np.log(3)]])).round(2).tolist()
    [[0.25, 0.75]]
    """
    if kind in VALUED:
        return logits
    scaled = logits / temperature
    if kind == "multilabel":
        return 0.5 * (1 + np.tanh(scaled / 2))
    scaled = scaled - scaled.max(axis=1, keepdims=True)
    found = np.exp(scaled)
    return found / found.sum(axis=1, keepdims=True)
