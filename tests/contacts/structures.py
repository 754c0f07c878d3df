"""Structure files made of alpha and beta carbons."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.variants.test_structure import NAMES


def write_structure(path: Path, sequence: str, betas: Sequence[Sequence[float]], left_out: Sequence[int] = ()) -> Path:
    """Writes a chain whose beta carbons, of glycine alpha carbons, are at the given places (L, 3)."""
    import biotite.structure as struc
    from biotite.structure.io import pdb

    atoms = []
    for i, (letter, place) in enumerate(zip(sequence, np.asarray(betas, dtype=float), strict=True)):
        if i in left_out:
            continue
        about = {"chain_id": "A", "res_id": i + 1, "res_name": NAMES[letter], "element": "C"}
        if letter != "G":  # no two of these touch
            atoms.append(struc.Atom(place + np.array([0, 0, 20 * (i + 1)]), atom_name="CA", **about))
        atoms.append(struc.Atom(place, atom_name="CA" if letter == "G" else "CB", **about))
    file = pdb.PDBFile()
    file.set_structure(struc.array(atoms))
    file.write(path)
    return path
