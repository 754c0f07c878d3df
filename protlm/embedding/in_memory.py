"""Embeddings of sequences as arrays."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch

from protlm.embedding.proteome import check_pools, chosen_layers
from protlm.embedding.representations import Representations, representations
from protlm.inference.engine import Computer, encoded, windows
from protlm.performer import Performer


def embed(
    model: Performer,
    sequences: Iterable[str],
    token_budget: int = 16_384,
    layers: Sequence[int] = (-1,),
    pool: str | None = None,
    precision: str = "float32",
) -> Iterator[np.ndarray]:
    """Representations of each sequence, in order: (residues, width) float32, or (width,) with one of `POOLS`.

    Several layers are the first axis. Arguments as in `ProteinModel.embed`.

    >>> from protlm.performer import PerformerConfig
    >>> model = Performer(PerformerConfig(33, 1, layers=1, heads=2, width=8, feed_forward=8)).eval()
    >>> [embedding.shape for embedding in embed(model, ["MKT", "MKTAYIAK"])]
    [(3, 8), (8, 8)]
    >>> [embedding.shape for embedding in embed(model, ["MKT"], layers=(0, 1), pool="mean")]
    [(2, 8)]
    """
    pools = () if pool is None else (pool,)
    check_pools(pools)
    dtype = torch.float32 if pool is None else None
    compute = representations(model, chosen_layers(layers, model.config.layers), pools, dtype)
    return _embedded(Computer(model, token_budget, precision), sequences, compute)


def _embedded(
    computer: Computer, sequences: Iterable[str], compute: Callable[..., Representations]
) -> Iterator[np.ndarray]:
    for window in windows(sequences, lambda sequence: len(sequence) if isinstance(sequence, str | bytes) else 0):
        rows = encoded(computer.model, window)
        results: dict[int, np.ndarray] = {}
        for batch, (pooled, single) in computer(rows, compute):
            for row, index in enumerate(batch.tolist()):
                value = np.stack([layer[row] for layer in single]) if pooled is None else pooled[row, 0].copy()
                results[index] = value[0] if len(value) == 1 else value
        for index in range(len(rows)):
            yield results.pop(index)
