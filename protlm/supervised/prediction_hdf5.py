"""Predictions in HDF5: `ids`, `lengths`, and a dataset of probabilities or values per target."""

from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from protlm.embedding.description import Count
from protlm.strict_json import dumps
from protlm.supervised.prediction_table import Answer
from protlm.supervised.predictor import Head

_BLOCK = 4_096  # rows of a chunk, and proteins written at a time


def write_hdf5(path: Path, answers: Iterable[Answer], heads: Sequence[Head], about: str) -> None:
    """Writes the file.

    Datasets: `ids` (n,) strings; `lengths` (n,) int64; for each target, with "/" in its name as "_", float32 (n, K)
    probabilities or (n, 1) values, or of residues (total residues, K), the proteins one after the other. Attributes of
    a target: `kind`, `per_residue`, `classes`; of the file: `about`.
    """
    names: list[str] = []
    lengths: list[int] = []
    every = iter(answers)
    with _opened(path, "w") as file:
        file.attrs["about"] = about
        for head in heads:
            dataset = _extendable(file, dataset_name(head), max(1, len(head.classes)))
            dataset.attrs["kind"], dataset.attrs["per_residue"] = head.kind, head.per_residue
            dataset.attrs["classes"] = list(head.classes)
        while group := list(islice(every, _BLOCK)):
            for head in heads:
                _append(
                    file[dataset_name(head)],
                    np.concatenate([np.atleast_2d(answer.values[head.target]) for answer in group]),
                )
            names += [answer.id for answer in group]
            lengths += [len(answer.sequence) for answer in group]
        _write_proteins(file, names, lengths)


def dataset_name(head: Head) -> str:
    """The name of the dataset of a target."""
    return head.target.replace("/", "_")


def join_hdf5(shards: Sequence[Path], partial: Path, description: dict[str, Any], count: Count) -> None:
    """Joins shards in order."""
    names: list[str] = []
    lengths: list[int] = []
    with _opened(partial, "w") as file:
        file.attrs["about"] = dumps(description)
        for shard in shards:
            with _opened(shard, "r") as source:
                for name in source:
                    if name in ("ids", "lengths"):
                        continue
                    if name not in file:
                        _extendable(file, name, source[name].shape[1]).attrs.update(source[name].attrs)
                    for start in range(0, len(source[name]), _BLOCK):
                        _append(file[name], source[name][start : start + _BLOCK])
                names += source["ids"].asstr()[:].tolist()
                lengths += source["lengths"][:].tolist()
                count(len(source["ids"]))
        _write_proteins(file, names, lengths)


def _opened(path: Path, mode: str) -> Any:
    return h5py.File(path, mode)


def _extendable(file: Any, name: str, width: int) -> Any:
    return file.create_dataset(
        name, (0, width), np.float32, maxshape=(None, width), chunks=(_BLOCK, width), compression=4
    )


def _append(dataset: Any, more: np.ndarray) -> None:
    dataset.resize(len(dataset) + len(more), axis=0)
    dataset[len(dataset) - len(more) :] = more


def _write_proteins(file: Any, names: list[str], lengths: list[int]) -> None:
    file.create_dataset("ids", data=names, dtype=h5py.string_dtype())
    file["lengths"] = np.array(lengths, dtype=np.int64)
