"""Joins the shards of an embedding into what a single run would have written."""

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from protlm.embedding.layouts import (
    DESCRIPTION,
    check_replaceable,
    differences,
    new_file,
    read_description,
    write_description,
    write_names,
)
from protlm.errors import UserError
from protlm.files import atomic_output
from protlm.progress import Progress, summed

Count = Callable[[int], None]
_COUNTS = ("proteins", "residues", "copied", "renamed")
_BLOCK = 1 << 24  # bytes copied at a time


def merge_shards(
    shards: Sequence[str | Path], output: str | Path, overwrite: bool = False, progress: Progress | None = None
) -> dict[str, Any]:
    """Joins shards in the order of the FASTA, regardless of the order in which they are given.

    Args:
        shards: outputs of `embed_fasta` for one model, source and set of options; each shard once.
        output: appears under its name only once it is complete.
        overwrite: replace an existing output.
        progress: called with the proteins copied and in total.

    Returns:
        The description of the output, see `EmbedOptions.description`, with the numbers of proteins and residues.

    Raises:
        UserError: for shards that do not belong together, are missing, repeated or unfinished; for an existing output.
    """
    output = Path(output)
    ordered = _ordered([(Path(shard), _description(Path(shard))) for shard in shards])
    path, first = ordered[0]
    description = {**first, "shard": "1/1", **{name: sum(each[name] for _, each in ordered) for name in _COUNTS}}
    if output.resolve() in [shard.resolve() for shard, _ in ordered]:
        raise UserError(f"{output}: is one of the shards; choose another output")
    existing = read_description(output)
    if existing is not None:
        if not overwrite:
            raise UserError(f"{output}: already exists; choose another output, or set overwrite", "overwrite")
        check_replaceable(output, existing)
        if output.is_dir() != path.is_dir():
            raise UserError(f"{output}: is a {'folder' if output.is_dir() else 'file'}; choose another output")
    join = {"uniprot": _join_uniprot, "packed": _join_packed, "esm-pt": _join_files}[description["layout"]]
    with atomic_output(output) as partial:
        join([shard for shard, _ in ordered], partial, description, summed(progress, description["proteins"]))
    return description


def _description(shard: Path) -> dict[str, Any]:
    description = read_description(shard)
    if description is None:
        if shard.with_name(f".{shard.name}.partial").is_dir():
            raise UserError(f"{shard}: is unfinished; run the command that writes it again")
        raise UserError(f"{shard}: no such file; expected a shard of embeddings")
    if not description:
        raise UserError(f"{shard}: not embeddings of protlm; expected a shard of embeddings")
    return description


def _ordered(found: Sequence[tuple[Path, dict[str, Any]]]) -> list[tuple[Path, dict[str, Any]]]:
    """The shards by number, each once and made in the same way."""
    path, first = found[0]
    count = int(first["shard"].partition("/")[2])
    by_number: dict[int, tuple[Path, dict[str, Any]]] = {}
    for shard, description in found:
        number, _, of = description["shard"].partition("/")
        if different := differences(description, first, leave_out=("shard",)):
            raise UserError(f"{shard}: does not belong to {path} ({different})")
        if int(of) != count:
            raise UserError(f"{shard}: is shard {description['shard']}, but {path} is shard {first['shard']}")
        if int(number) in by_number:
            both = f"{shard} and {by_number[int(number)][0]}"
            raise UserError(f"{both}: are both shard {description['shard']}; give each shard once")
        by_number[int(number)] = (shard, description)
    if missing := [f"{number}/{count}" for number in range(1, count + 1) if number not in by_number]:
        raise UserError(f"{len(missing)} of {count} shards missing: {', '.join(missing[:9])}; give all of them")
    return [by_number[number] for number in range(1, count + 1)]


def _join_uniprot(shards: Sequence[Path], partial: Path, description: dict[str, Any], count: Count) -> None:
    low: Any = h5py  # its stubs do not know of copying
    link = low.h5p.create(low.h5p.LINK_CREATE)
    link.set_char_encoding(low.h5t.CSET_UTF8)
    with new_file(partial, description) as file:
        for shard in shards:
            with h5py.File(shard) as source:
                for name in map(str.encode, source):
                    low.h5o.copy(source.id, name, file.id, name, lcpl=link)
                    count(1)


def _join_packed(shards: Sequence[Path], partial: Path, description: dict[str, Any], count: Count) -> None:
    with ExitStack() as stack:
        sources: list[Any] = [stack.enter_context(h5py.File(shard)) for shard in shards]
        file = stack.enter_context(new_file(partial, description))
        matrices = [source["embeddings"] for source in sources]
        rows = sum(matrix.shape[0] for matrix in matrices)
        joined = file.create_dataset("embeddings", (rows, *matrices[0].shape[1:]), matrices[0].dtype)
        begin, pointers = 0, []
        for source, matrix in zip(sources, matrices, strict=True):
            if "pointers" in source:
                pointers.append(source["pointers"][:] + np.array([begin, 0]))
            step = max(1, _BLOCK // (matrix.dtype.itemsize * int(np.prod(matrix.shape[1:]))))
            for start in range(0, matrix.shape[0], step):
                block = matrix[start : start + step]
                joined[begin : begin + len(block)] = block
                begin += len(block)
            count(source["ids"].shape[0])
        if pointers:
            file["pointers"] = np.concatenate(pointers)
        else:
            file["lengths"] = np.concatenate([source["lengths"][:] for source in sources])
        for dataset in ("ids", "original_ids"):
            if any(dataset in source for source in sources):
                names = [n for source in sources for n in source[dataset if dataset in source else "ids"][:].tolist()]
                write_names(file, dataset, len(names), names.__getitem__)


def _join_files(shards: Sequence[Path], partial: Path, description: dict[str, Any], count: Count) -> None:
    partial.mkdir()
    write_description(partial, description)
    for shard in shards:
        with os.scandir(shard) as entries:
            for entry in entries:
                if entry.name != DESCRIPTION:
                    shutil.copyfile(entry.path, partial / entry.name)
                    count(1)
