"""Embeddings as CSV: a row for each protein or residue, a column for each number.

What the table was made from is in a file NAME.json beside it, which also has the checksum of the table.
"""

import csv
import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from protlm.embedding.description import Count, Values, is_description, of_residues, vectors
from protlm.embedding.repeated import check_distinct
from protlm.embedding.survey import Proteins
from protlm.errors import UserError
from protlm.sequence.stream import read_through
from protlm.strict_json import dumps

_DIGITS = {"float16": 5, "float32": 9}  # enough to read back exactly the same number


def about_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


def read_about(path: Path) -> Any:
    """The description beside a table, or {} if it is of another table."""
    about = json.loads(about_path(path).read_text())
    table = read_through(path)
    same = (about.get("table_bytes"), about.get("table_xxh3_128")) == (table["bytes"], table["xxh3_128"])
    return about if same else {}


def check_about(path: Path) -> None:
    """Raises a UserError if the description of a table would replace another file."""
    beside = about_path(path)
    if not beside.exists():
        return
    try:
        ours = is_description(json.loads(beside.read_text()))
    except (OSError, ValueError):
        ours = False
    if not ours:
        raise UserError(f"{beside}: not written by protlm, and would be replaced; rename it, or choose another output")


def write_about(path: Path, target: Path, description: dict[str, Any]) -> None:
    """Describes the table at `path` in the file beside `target`, where it is going to be."""
    table = read_through(path)
    checked = {**description, "table_bytes": table["bytes"], "table_xxh3_128": table["xxh3_128"]}
    path.with_name("about").write_text(dumps(checked, indent=2) + "\n")
    path.with_name("about").replace(about_path(target))


def columns(description: dict[str, Any]) -> list[str]:
    """The names of the columns."""
    width = description["width"]
    numbers = [f"{name}_{i}" for name in vectors(description) for i in range(width)]
    return ["id", *_original(description), "position" if of_residues(description) else "length", *numbers]


def _original(description: dict[str, Any]) -> list[str]:
    return ["original_id"] if description["duplicates"] == "suffix" else []


def write(path: Path, description: dict[str, Any], proteins: Proteins, values: Values) -> None:
    """A row per protein in order, or per residue, with positions from 1."""
    width, per_residue = description["width"], of_residues(description)
    count = width * len(vectors(description))
    row = ",".join([f"%.{_DIGITS[description['dtype']]}g"] * count) + "\n"
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(",".join(columns(description)) + "\n")
        for index, length in enumerate(proteins.lengths.tolist()):
            name = _quoted(proteins.names.unchanged(index).decode())
            if _original(description):
                name += "," + _quoted(proteins.names.original(index).decode())
            rows = values(index).reshape(-1, count).tolist()
            first = range(1, length + 1) if per_residue else [length]
            file.writelines(f"{name},{number},{row % tuple(one)}" for number, one in zip(first, rows, strict=True))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"' if set(name) & set(',"\r\n') else name


def join(shards: Sequence[Path], partial: Path, description: dict[str, Any], count: Count) -> None:
    header = (",".join(columns(description)) + "\n").encode()
    check_distinct(shards, _names_in)
    with partial.open("wb") as file:
        file.write(header)
        for shard in shards:
            with shard.open("rb") as source:
                if source.readline() != header:
                    raise UserError(f"{shard}: the columns differ from those of the other shards")
                while data := source.read(1 << 20):
                    file.write(data)
            count(json.loads(about_path(shard).read_text())["proteins"])


def _names_in(shard: Path) -> Iterator[bytes]:
    """Without parsing the numbers; a protein's residues are in consecutive rows."""
    with shard.open(encoding="utf-8", newline="") as file:
        next(file)
        names = (next(csv.reader([line]))[0] if line.startswith('"') else line.partition(",")[0] for line in file)
        yield from (name.encode() for name, _ in groupby(names))
