"""Maps of proteins: a folder with coordinates as a table, a page to look at, and a bundle for ProtSpace.

Legend: n proteins.
"""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from protlm.annotation.coordinates import Coordinates
from protlm.annotation.map_page import write_map
from protlm.annotation.protspace import write_bundle
from protlm.errors import ProtlmWarning, UserError, counted
from protlm.sequence.containers import ID, SEQUENCE
from protlm.sequence.headers import accession
from protlm.supervised.labels import table_of
from protlm.tables import write_table

COORDINATES, PAGE, BUNDLE = "coordinates.csv", "map.html", "map.parquetbundle"
DIGITS = 6
"""Significant digits of coordinates in the table."""


def write_map_folder(
    folder: Path,
    title: str,
    ids: Sequence[str],
    coordinates: Coordinates,
    columns: Mapping[str, Sequence[str]],
    colour: str | None,
    record: str = "protein",
) -> list[Path]:
    """Writes all files of a map, replacing those of an earlier one; without pyarrow no bundle.

    Args:
        folder: created if necessary.
        title: of the page.
        ids: (n,).
        coordinates: of each.
        columns: name -> n cells.
        colour: name of a column.
        record: what a point is, for the page.
    """
    folder.mkdir(exist_ok=True)
    cells = [[f"{value:.{DIGITS}g}" for value in axis] for axis in coordinates.values.T.tolist()]
    write_table(folder / COORDINATES, [ID, "x", "y", *columns], zip(ids, *cells, *columns.values(), strict=True))
    write_map(folder / PAGE, title, ids, coordinates, columns, colour, record)
    written = [folder / COORDINATES, folder / PAGE]
    try:
        write_bundle(folder / BUNDLE, ids, coordinates, columns)
    except UserError as error:  # pyarrow is optional
        warnings.warn(f"no bundle for ProtSpace: {error}", ProtlmWarning, stacklevel=2)
        return written
    return [*written, folder / BUNDLE]


def label_columns(given: Any, ids: Sequence[str], source: str) -> dict[str, list[str]]:
    """The columns of a table of labels, name -> n cells, blank for proteins without a row.

    Args:
        given: CSV, TSV or Parquet file, or a pandas DataFrame, with a column `id`.
        ids: (n,); those of the table may be whole UniProt names.
        source: of the proteins, for messages.

    Raises:
        UserError: for a table without ids, with duplicates, or of other proteins.
    """
    table = table_of(given)
    if ID not in table:
        raise UserError(f"{table.path}: no column {ID!r}; found: {', '.join(table.columns[:8])}")
    row_of: dict[str, int] = {}
    for row, name in enumerate(map(accession, table[ID])):
        if name in row_of:
            raise UserError(f"{table.path}: duplicate id {name!r} (rows {row_of[name] + 1} and {row + 1})")
        row_of[name] = row
    rows = [row_of.get(name) for name in ids]
    if missing := rows.count(None):
        what = f"{table.path}: no row for {missing:,} of {counted(len(ids), 'identifier')} of {source}"
        if missing == len(ids):
            raise UserError(f"{what}; expected identifiers such as {ids[0]!r}, found {next(iter(row_of))!r}")
        warnings.warn(what, ProtlmWarning, stacklevel=2)
    kept = [name for name in table.columns if name.casefold() not in (ID, SEQUENCE, "x", "y")]
    cells = {name: table[name] for name in kept}
    return {name: ["" if row is None else values[row] for row in rows] for name, values in cells.items()}
