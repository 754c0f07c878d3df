"""The files that predictions are written to: one layout per format, and how shards of each are joined."""

import json
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from protlm.embedding.csv_table import about_path
from protlm.embedding.description import Count, Values
from protlm.embedding.layouts import Layout
from protlm.embedding.parquet import ABOUT, import_pyarrow
from protlm.embedding.survey import Proteins
from protlm.errors import UserError
from protlm.strict_json import dumps
from protlm.supervised.prediction_hdf5 import join_hdf5, write_hdf5
from protlm.supervised.prediction_table import Answer, write_parquet, write_strings, write_text
from protlm.supervised.predictor import Head

_BLOCK = 1 << 20  # bytes copied at a time

Answers = Callable[[Values], Iterable[Answer]]
"""The predictions of all proteins, from their values by number."""


def layouts(heads: Sequence[Head] = (), answers: Answers | None = None) -> dict[str, Layout]:
    """Name -> layout.

    Args:
        heads: whose predictions are written; none for joining.
        answers: to be written.
    """

    def text(write: Callable[..., None], **options: Any) -> Callable[..., None]:
        def write_file(path: Path, description: dict[str, Any], proteins: Proteins, values: Values) -> None:
            assert answers is not None
            with path.open("w", encoding="utf-8", newline="") as file:
                write(file, answers(values), heads, **options)

        return write_file

    def binary(write: Callable[..., None]) -> Callable[..., None]:
        def write_file(path: Path, description: dict[str, Any], proteins: Proteins, values: Values) -> None:
            assert answers is not None
            write(path, answers(values), heads, dumps(description))

        return write_file

    beside = partial(Layout, dtype="float32", text=True, slashes=True, beside=True)
    inside = partial(Layout, dtype="float32", slashes=True)
    table = partial(beside, join=partial(_join_text, header=True))
    return {
        "predictions-csv": table((".csv",), write=text(write_text)),
        "predictions-tsv": table((".tsv", ".txt"), write=text(write_text, delimiter="\t")),
        "predictions-fasta": beside(
            (".fasta", ".fa", ".faa", ".fas"), write=text(write_strings), join=partial(_join_text, header=False)
        ),
        "predictions-parquet": inside((".parquet",), write=binary(write_parquet), join=_join_parquet),
        "predictions-hdf5": inside((".h5", ".hdf5"), write=binary(write_hdf5), join=join_hdf5),
    }


def layout_name(path: Path) -> str:
    """The layout of a file, by its suffix.

    >>> layout_name(Path("out.parquet"))
    'predictions-parquet'
    """
    for name, layout in layouts().items():
        if path.suffix.lower() in layout.suffixes:
            return name
    raise UserError(f"{path}: expected a name that ends in .csv, .tsv, .parquet, .h5 or .fasta")


def _join_text(shards: Sequence[Path], partial: Path, description: dict[str, Any], count: Count, header: bool) -> None:
    first = b""
    with partial.open("wb") as file:
        for number, shard in enumerate(shards):
            with shard.open("rb") as source:
                line = source.readline() if header else b""
                if number == 0:
                    first = line
                    file.write(line)
                if line != first:
                    raise UserError(f"{shard}: the columns differ from those of {shards[0]}")
                while data := source.read(_BLOCK):
                    file.write(data)
            count(json.loads(about_path(shard).read_text())["proteins"])


def _join_parquet(shards: Sequence[Path], partial: Path, description: dict[str, Any], count: Count) -> None:
    parquet = import_pyarrow().parquet
    schema = parquet.read_schema(shards[0]).with_metadata({ABOUT: dumps(description).encode()})
    with parquet.ParquetWriter(partial, schema, compression="zstd") as writer:
        for shard in shards:
            with parquet.ParquetFile(shard) as source:
                for number in range(source.num_row_groups):
                    writer.write_table(source.read_row_group(number).cast(schema))
                count(json.loads(source.schema_arrow.metadata[ABOUT])["proteins"])
