"""Vectors of proteins read back from a file of `protlm embed`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from protlm.embedding import hdf5, npz
from protlm.embedding.description import of_residues, vectors
from protlm.embedding.layouts import read_description
from protlm.errors import UserError


@dataclass(frozen=True)
class StoredVectors:
    """n vectors of D numbers.

    Attributes:
        path: of the file.
        ids: (n,), as in the FASTA file.
        vectors: (n, D) float32.
        description: what they were made from (docs/formats.md); "model" is its fingerprint.
    """

    path: Path
    ids: list[str]
    vectors: np.ndarray
    description: dict[str, Any]


def read_stored_vectors(path: str | Path) -> StoredVectors:
    """Reads a file with one vector per protein: HDF5 or npz, of one layer and pooling.

    Raises:
        UserError: for a file that is something else.
    """
    path = Path(path)
    expected = "expected a .h5 or .npz file of 'protlm embed --output'"
    if not path.is_file():
        raise UserError(f"{path}: no such file; {expected}")
    description = read_description(path)
    if not description or description["layout"] not in ("uniprot", "packed", "npz"):
        raise UserError(f"{path}: not embeddings in HDF5 or npz; {expected}")
    if of_residues(description):
        raise UserError(f"{path}: embeddings of residues; expected one vector per sequence, as of 'protlm embed -o'")
    if len(stored := vectors(description)) > 1:
        raise UserError(
            f"{path}: {len(stored)} vectors per sequence ({', '.join(stored)}); expected one layer and pool"
        )
    ids, rows = npz.read_vectors(path) if description["layout"] == "npz" else hdf5.read_vectors(path, description)
    return StoredVectors(path, ids, rows.astype(np.float32), description)
