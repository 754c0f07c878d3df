"""A map as a bundle for ProtSpace (Senoner et al. 2025), which its web page and its package open.

A bundle is three Parquet tables with a delimiter between them: annotations, a row per protein; projections; and the
coordinates of each projection. Free text in cells is percent-encoded, as the format's version 2 has it.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from protlm.annotation.coordinates import Coordinates
from protlm.embedding.parquet import import_pyarrow
from protlm.files import atomic_output
from protlm.strict_json import dumps

DELIMITER = b"---PARQUET_DELIMITER---"
_VERSION = {b"protspace_format_version": b"2"}
_ENCODED = str.maketrans({one: f"%{ord(one):02X}" for one in ("%", "|", "\x7f", *map(chr, range(32)))})


def write_bundle(
    path: Path, ids: Sequence[str], coordinates: Coordinates, annotations: Mapping[str, Sequence[str]]
) -> None:
    """Writes a `.parquetbundle`.

    Args:
        path: of the bundle.
        ids: (n,).
        coordinates: of each.
        annotations: name -> n cells, blank where unknown; several labels in a cell are separated by `;`.

    Raises:
        UserError: without pyarrow.
    """
    arrow = import_pyarrow()
    name = coordinates.method.upper()
    cells = {column: [cell.translate(_ENCODED) for cell in values] for column, values in annotations.items()}
    about = arrow.table({"protein_id": list(ids), **cells}).replace_schema_metadata(_VERSION)
    projections = arrow.table(
        {"projection_name": [name], "dimensions": [2], "info_json": [dumps(coordinates.settings)]}
    )
    x, y = coordinates.values.T
    places = arrow.table(
        {
            "projection_name": [name] * len(ids),
            "identifier": list(ids),
            "x": x.astype("float32"),
            "y": y.astype("float32"),
            "z": arrow.nulls(len(ids), arrow.float32()),
        }
    )
    with atomic_output(path) as partial:
        partial.write_bytes(DELIMITER.join(_parquet(arrow, table) for table in (about, projections, places)))


def _parquet(arrow: Any, table: Any) -> bytes:
    buffer = io.BytesIO()
    arrow.parquet.write_table(table, buffer)
    return buffer.getvalue()
