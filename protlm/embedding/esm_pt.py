"""Embeddings as a folder of .pt files, as the script extract.py of fair-esm 2.0 writes them."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from protlm.embedding.description import Count, Values
from protlm.embedding.repeated import repeated
from protlm.embedding.survey import Proteins
from protlm.errors import UserError
from protlm.strict_json import dumps

ABOUT = "protlm.json"
"""File that records what a folder was made from."""

_LONGEST_FILE = 255  # bytes of a file's name on all common file systems


def read_about(path: Path) -> Any:
    return json.loads((path / ABOUT).read_text())


def refuse_file(name: bytes) -> str | None:
    """Why no file can have this name; None if one can."""
    if len(name) + len(".pt") > _LONGEST_FILE:
        return f"identifier of {len(name)} bytes, too long for a file name; use the accession or the first word"
    return None


def _new_folder(path: Path, description: dict[str, Any]) -> None:
    path.mkdir()
    (path / ABOUT).write_text(dumps(description, indent=2) + "\n")


def write_files(path: Path, description: dict[str, Any], proteins: Proteins, values: Values) -> None:
    """One file per protein."""
    layers, width = description["layers"], description["width"]
    pools = [pool for pool in description["pool"] if pool != "residues"]
    _new_folder(path, description)
    for index in range(len(proteins.lengths)):
        arrays = values(index).reshape(-1, width)
        content: dict[str, Any] = {"label": proteins.names.original(index).decode()}
        if len(arrays) > len(pools) * len(layers):
            residues = arrays[len(pools) * len(layers) :].reshape(len(layers), -1, width)
            content["representations"] = dict(zip(layers, map(torch.tensor, residues), strict=True))
        for number, pool in enumerate(pools):
            of_pool = arrays[number * len(layers) : (number + 1) * len(layers)]
            content[f"{pool}_representations"] = dict(zip(layers, map(torch.tensor, of_pool), strict=True))
        torch.save(content, path / f"{proteins.names[index].decode()}.pt")
    os.sync()


def join_files(shards: Sequence[Path], partial: Path, description: dict[str, Any], count: Count) -> None:
    _new_folder(partial, description)
    for shard in shards:
        with os.scandir(shard) as entries:
            for entry in entries:
                if entry.name != ABOUT:
                    if (partial / entry.name).exists():
                        raise UserError(repeated(shard, entry.name.removesuffix(".pt")))
                    shutil.copyfile(entry.path, partial / entry.name)
                    count(1)
