"""Predictions in HDF5: `ids`, `lengths`, and a dataset of probabilities or values per target."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import h5py
import numpy as np

from protlm.files import atomic_output
from protlm.supervised.linear_head import LinearHead
from protlm.supervised.prediction_table import Answer

_BLOCK = 4_096  # rows of a chunk


def write_hdf5(path: Path, answers: Iterable[Answer], heads: Sequence[LinearHead]) -> None:
    """Writes the file.

    Datasets: `ids` (n,) strings; `lengths` (n,) int64; for each target, with "/" in its name as "_", float32 (n, K)
    probabilities or (n, 1) values, or of residues (total residues, K), the proteins one after the other. Attributes of
    a target: `kind`, `per_residue`, `classes`.
    """
    names: list[str] = []
    lengths: list[int] = []
    with atomic_output(path) as partial, h5py.File(partial, "w") as file:
        datasets = {}
        for head in heads:
            k = head.weight.shape[1]
            dataset = file.create_dataset(
                head.target.replace("/", "_"), (0, k), np.float32, maxshape=(None, k), chunks=(_BLOCK, k), compression=4
            )
            dataset.attrs["kind"], dataset.attrs["per_residue"] = head.kind, head.per_residue
            dataset.attrs["classes"] = list(head.classes)
            datasets[head.target] = dataset
        waiting: list[Answer] = []

        def flush() -> None:
            for head in heads:
                more = np.concatenate([np.atleast_2d(answer.values[head.target]) for answer in waiting])
                dataset = datasets[head.target]
                dataset.resize(len(dataset) + len(more), axis=0)
                dataset[len(dataset) - len(more) :] = more
            waiting.clear()

        for answer in answers:
            names.append(answer.record.id)
            lengths.append(len(answer.record.sequence))
            waiting.append(answer)
            if len(waiting) == _BLOCK:
                flush()
        if waiting:
            flush()
        file.create_dataset("ids", data=names, dtype=h5py.string_dtype())
        file["lengths"] = np.array(lengths, dtype=np.int64)
