"""Contact maps as tables: one row per pair of residues, the best first."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from protlm.contacts.contact_map import SEPARATION, ContactMap
from protlm.errors import UserError
from protlm.tables import read_table, write_table

COLUMNS = ("i", "j", "residue_i", "residue_j", "score")


def write_contacts(path: Path, found: ContactMap) -> None:
    """Writes all pairs at least `SEPARATION` apart, with positions from 1, atomically."""

    def rows() -> Iterator[tuple[object, ...]]:
        for i, j, score in zip(*(array.tolist() for array in found.pairs()), strict=True):
            yield i + 1, j + 1, found.sequence[i], found.sequence[j], f"{score:.6g}"

    write_table(path, COLUMNS, rows(), "\t")


def read_contacts(path: Path, sequence: str, method: str) -> ContactMap:
    """Reads what `write_contacts` wrote for a protein; scores of nearer pairs are NaN.

    Raises:
        UserError: for another file, or one of another protein.
    """
    table, length = read_table(path), len(sequence)
    if tuple(table.columns) != COLUMNS:
        raise UserError(f"{path}: expected a table of contacts with the columns {', '.join(COLUMNS)}")
    i, j = (table.numbers(name).astype(int) - 1 for name in COLUMNS[:2])
    inside = len(i) == 0 or (min(i.min(), j.min()) >= 0 and max(i.max(), j.max()) < length)
    same = inside and all(
        sequence[place] == letter
        for places, name in ((i, "residue_i"), (j, "residue_j"))
        for place, letter in zip(places.tolist(), table[name], strict=True)
    )
    if not same or len(i) != len(np.triu_indices(length, SEPARATION)[0]):
        raise UserError(f"{path}: contacts of another protein; choose another folder, or overwrite")
    scores = np.full((length, length), np.nan, dtype=np.float32)
    scores[i, j] = scores[j, i] = table.numbers("score")
    return ContactMap(sequence, scores, method)
