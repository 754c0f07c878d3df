"""Embeddings as Parquet: a row per protein, in row groups of a few megabytes that engines read in parallel.

A vector is a list of fixed size; of residues, a list of such lists. The description is in the metadata of the schema.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from protlm.embedding.description import BLOCK, Count, Values, of_residues, stored_dtype, vectors
from protlm.embedding.repeated import check_distinct
from protlm.embedding.survey import Proteins
from protlm.errors import UserError
from protlm.strict_json import dumps

ABOUT = b"protlm"
"""Key of the description in the metadata."""


def import_pyarrow() -> Any:
    """The package, which is optional."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UserError("Parquet requires the package pyarrow; install it: pip install pyarrow") from error
    return pyarrow


def read_about(path: Path) -> Any:
    metadata = import_pyarrow().parquet.read_schema(path).metadata or {}
    return json.loads(metadata[ABOUT])


def _schema(description: dict[str, Any]) -> Any:
    arrow = import_pyarrow()
    kind = arrow.list_(arrow.from_numpy_dtype(np.dtype(description["dtype"])), description["width"])
    fields = [arrow.field("id", arrow.string(), nullable=False)]
    if description["duplicates"] == "suffix":
        fields.append(arrow.field("original_id", arrow.string(), nullable=False))
    fields.append(arrow.field("length", arrow.int32(), nullable=False))
    kind = arrow.list_(kind) if of_residues(description) else kind
    fields += [arrow.field(name, kind) for name in vectors(description)]
    return arrow.schema(fields, metadata={ABOUT: dumps(description).encode()})


def _writer(path: Path, schema: Any) -> Any:
    # numbers hardly repeat: a dictionary of them would only take time
    return import_pyarrow().parquet.ParquetWriter(path, schema, compression="zstd", use_dictionary=False)


def write(path: Path, description: dict[str, Any], proteins: Proteins, values: Values) -> None:
    """A row group for each few megabytes."""
    arrow, schema, names = import_pyarrow(), _schema(description), proteins.names
    with _writer(path, schema) as writer:
        for start, arrays in _groups(len(proteins.lengths), values):
            indices = range(start, start + len(arrays))
            lengths = proteins.lengths[start : start + len(arrays)]
            columns = [arrow.array([names.unchanged(i).decode() for i in indices])]
            if description["duplicates"] == "suffix":
                columns.append(arrow.array([names.original(i).decode() for i in indices]))
            columns.append(arrow.array(lengths.astype(np.int32)))
            columns += _vectors(arrow, description, lengths, arrays)
            writer.write_table(arrow.table(columns, schema=schema), row_group_size=len(arrays))


def _groups(count: int, values: Values) -> Iterator[tuple[int, list[np.ndarray]]]:
    start = size = 0
    group: list[np.ndarray] = []
    for index in range(count):
        group.append(values(index))
        size += group[-1].size
        if size >= BLOCK or index == count - 1:
            yield start, group
            start, size, group = index + 1, 0, []


def _vectors(arrow: Any, description: dict[str, Any], lengths: np.ndarray, arrays: list[np.ndarray]) -> Iterator[Any]:
    """The columns of vectors, from the values of each protein."""
    width, count, dtype = description["width"], len(vectors(description)), stored_dtype(description)
    parts = [array.reshape(count, -1) for array in arrays]
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
    for number in range(count):
        flat = np.concatenate([part[number] for part in parts]).astype(dtype, copy=False)
        column = arrow.FixedSizeListArray.from_arrays(arrow.array(flat), width)
        yield arrow.ListArray.from_arrays(offsets, column) if of_residues(description) else column


def join(shards: Sequence[Path], partial: Path, description: dict[str, Any], count: Count) -> None:
    """Copies one row group at a time."""
    check_distinct(shards, _names_in)
    parquet, schema = import_pyarrow().parquet, _schema(description)
    with _writer(partial, schema) as writer:
        for shard in shards:
            with parquet.ParquetFile(shard) as source:
                for number in range(source.num_row_groups):
                    table = source.read_row_group(number).cast(schema)
                    writer.write_table(table, row_group_size=max(1, table.num_rows))
                    count(table.num_rows)


def _names_in(shard: Path) -> Iterator[bytes]:
    with import_pyarrow().parquet.ParquetFile(shard) as source:
        for batch in source.iter_batches(columns=["id"]):
            yield from (name.encode() for name in batch.column(0).to_pylist())
