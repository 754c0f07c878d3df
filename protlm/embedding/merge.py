"""The shards of an embedding joined into what one run would have written."""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from protlm.embedding.layouts import (
    LISTING,
    check_replaceable,
    new_file,
    read_about,
    write_listing,
    write_names,
)
from protlm.embedding.provenance import differences, parsed_shard
from protlm.errors import UserError
from protlm.files import atomic_output

Progress = Callable[[int, int], None]
_COUNTS = ("proteins", "residues", "copied", "renamed")
_BLOCK = 1 << 24  # bytes copied at a time


def merge_parts(
    parts: Sequence[str | Path], output: str | Path, overwrite: bool = False, progress: Progress | None = None
) -> dict[str, Any]:
    """Joins shards in the order of the FASTA, whatever order they are given in.

    Args:
        parts: outputs of `embed_fasta`, of one model, source and set of options; each shard once.
        output: appears under its name only when it is complete.
        overwrite: replace an output that exists.
        progress: called with the proteins copied and all.

    Returns:
        What the output was made from, see `provenance.about`, with counts of proteins and residues.

    Raises:
        UserError: for parts that do not belong together, are missing, doubled or unfinished; for an output that exists.
    """
    output = Path(output)
    found = [(Path(part), _finished(Path(part))) for part in parts]
    ordered = _ordered(found)
    path, first = ordered[0]
    about = {**first, "shard": "1/1", **{name: sum(each[name] for _, each in ordered) for name in _COUNTS}}
    if output.resolve() in [part.resolve() for part, _ in ordered]:
        raise UserError(f"{output}: is one of the parts; name another output")
    existing = read_about(output)
    if existing is not None:
        if not overwrite:
            raise UserError(f"{output}: exists already; name another output, or pass --overwrite")
        check_replaceable(output, existing)
        if output.is_dir() != path.is_dir():
            raise UserError(f"{output}: is {'a folder' if output.is_dir() else 'a file'}; name another output")
    join = {"uniprot": _join_uniprot, "packed": _join_packed, "esm-pt": _join_files}[about["layout"]]
    count = _Counter(about["proteins"], progress)
    with atomic_output(output) as partial:
        join([part for part, _ in ordered], partial, about, count)
    return about


class _Counter:
    """Tells how many proteins are done."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self.done, self.total, self.progress = 0, total, progress

    def add(self, count: int) -> None:
        self.done += count
        if self.progress:
            self.progress(self.done, self.total)


def _finished(part: Path) -> dict[str, Any]:
    about = read_about(part)
    if about is None:
        if part.with_name(f".{part.name}.partial").is_dir():
            raise UserError(f"{part}: is not finished; run the command that writes it once more")
        raise UserError(f"{part}: no such file; expected what 'protlm embed --shard' wrote")
    if not about:
        raise UserError(f"{part}: not embeddings of protlm; expected what 'protlm embed --shard' wrote")
    return about


def _ordered(found: Sequence[tuple[Path, dict[str, Any]]]) -> list[tuple[Path, dict[str, Any]]]:
    """The parts by number, each once and of the same kind."""
    path, first = found[0]
    parts = parsed_shard(first["shard"])[1]
    by_number: dict[int, tuple[Path, dict[str, Any]]] = {}
    for part, about in found:
        number, of = parsed_shard(about["shard"])
        if different := differences(about, first, leave_out=("shard",)):
            raise UserError(f"{part}: does not belong to {path} ({different})")
        if of != parts:
            raise UserError(f"{part}: is part {about['shard']}, but {path} is part {first['shard']}")
        if number in by_number:
            raise UserError(f"{part} and {by_number[number][0]}: are both part {about['shard']}; give each part once")
        by_number[number] = (part, about)
    if missing := [f"{number}/{parts}" for number in range(1, parts + 1) if number not in by_number]:
        raise UserError(f"{len(missing)} of {parts} parts missing: {', '.join(missing[:9])}; give all of them")
    return [by_number[number] for number in range(1, parts + 1)]


def _join_uniprot(parts: Sequence[Path], draft: Path, about: dict[str, Any], count: _Counter) -> None:
    low: Any = h5py  # its stubs know nothing of copying
    link = low.h5p.create(low.h5p.LINK_CREATE)
    link.set_char_encoding(low.h5t.CSET_UTF8)
    with new_file(draft, about) as file:
        for part in parts:
            with h5py.File(part) as source:
                for name in map(str.encode, source):
                    low.h5o.copy(source.id, name, file.id, name, lcpl=link)
                    count.add(1)


def _join_packed(parts: Sequence[Path], draft: Path, about: dict[str, Any], count: _Counter) -> None:
    sources: list[Any] = [h5py.File(part) for part in parts]
    try:
        with new_file(draft, about) as file:
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
                count.add(source["ids"].shape[0])
            if pointers:
                file["pointers"] = np.concatenate(pointers)
            else:
                file["lengths"] = np.concatenate([source["lengths"][:] for source in sources])
            ids = [name for source in sources for name in source["ids"][:].tolist()]
            write_names(file, "ids", len(ids), ids.__getitem__)
            if any("original_ids" in source for source in sources):
                kinds = ["original_ids" if "original_ids" in source else "ids" for source in sources]
                names = [n for source, kind in zip(sources, kinds, strict=True) for n in source[kind][:].tolist()]
                write_names(file, "original_ids", len(names), names.__getitem__)
    finally:
        for source in sources:
            source.close()


def _join_files(parts: Sequence[Path], draft: Path, about: dict[str, Any], count: _Counter) -> None:
    draft.mkdir()
    write_listing(draft, about)
    for part in parts:
        with os.scandir(part) as entries:
            for entry in entries:
                if entry.name != LISTING:
                    shutil.copyfile(entry.path, draft / entry.name)
                    count.add(1)
