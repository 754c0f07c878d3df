"""The files and folders that an embedding is to be written to, checked before anything is computed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from protlm.embedding.csv_table import check_about
from protlm.embedding.description import differences
from protlm.embedding.layouts import LAYOUTS, Layout, read_description
from protlm.embedding.parquet import import_pyarrow
from protlm.errors import UserError

_SUFFIXES = {suffix: name for name, layout in reversed(LAYOUTS.items()) for suffix in layout.suffixes}
"""Suffix -> layout; for HDF5 the first one, "uniprot"."""


@dataclass(frozen=True)
class Output:
    """One file or folder to write.

    Args:
        path: its name.
        pools: poolings stored of each protein; may be empty.
        per_residue: whether every residue is stored; in files either this or `pools`.
        layout: one of `LAYOUTS`.
        dtype: "float16" or "float32".
    """

    path: Path
    pools: tuple[str, ...]
    per_residue: bool
    layout: str
    dtype: str
    what: ClassVar[str] = "embeddings"

    @property
    def stored(self) -> Layout:
        """How it is written."""
        return LAYOUTS[self.layout]

    def described(self, description: dict[str, Any]) -> dict[str, Any]:
        """The description of this output, from that of all."""
        pool = [*self.pools, *(["residues"] * self.per_residue)]
        return {**description, "pool": pool, "layout": self.layout, "dtype": self.dtype}


def layout_of(path: Path, layout: str = "", layouts: Mapping[str, Layout] = LAYOUTS) -> str:
    """The layout of an output: as chosen, otherwise by its suffix; a UserError if they contradict each other.

    >>> layout_of(Path("proteome.parquet")), layout_of(Path("proteome.h5")), layout_of(Path("proteome.h5"), "packed")
    ('parquet', 'uniprot', 'packed')
    """
    suffix = path.suffix.lower()
    if not layout:
        if suffix not in _SUFFIXES:
            raise UserError(f"{path}: expected a name that ends in .h5, .npz, .csv or .parquet, or a chosen format")
        return _SUFFIXES[suffix]
    expected = layouts[layout].suffixes
    known = {one for each in layouts.values() for one in each.suffixes}
    if suffix and suffix in known and suffix not in expected:
        what = f"a name that ends in {expected[0]}" if expected else "the name of a folder"
        raise UserError(f"{path}: expected {what} for the layout {layout}")
    return layout


def checked_outputs(
    layout: str,
    dtype: str | None,
    pools: tuple[str, ...],
    inputs: Sequence[str | Path],
    per_protein: str | Path | None,
    per_residue: str | Path | None,
) -> list[Output]:
    """The outputs of `embed_fasta`; raises a UserError for paths that are unsuitable or not distinct."""

    def output(path: str | Path, pools: tuple[str, ...], residues: bool) -> Output:
        chosen = layout_of(Path(path), layout)
        if chosen == "parquet":
            import_pyarrow()
        return Output(Path(path), pools, residues, chosen, dtype or LAYOUTS[chosen].dtype)

    both = per_protein and per_residue and Path(per_protein).resolve() == Path(per_residue).resolve()
    if layout == "esm-pt" and both and per_protein:
        outputs = [output(per_protein, pools, True)]
    else:
        outputs = [output(per_protein, pools, False)] if per_protein else []
        outputs += [output(per_residue, (), True)] if per_residue else []
    if not outputs:
        raise UserError("no output: expected a file for one vector per protein, one for all residues, or both")
    if per_protein and not pools:
        raise UserError("no pooling: expected mean, bos or max")
    for one in outputs:
        if one.layout == "csv":
            check_about(one.path)
    paths = [one.path for one in outputs]
    if len({path.resolve() for path in paths} - {Path(path).resolve() for path in inputs}) < len(paths):
        raise UserError(f"{paths[0]}: input and outputs must be different files")
    for one in outputs:
        path, folder = one.path, LAYOUTS[one.layout].folder
        if path.exists() and not (path.is_dir() or path.is_file()):
            raise UserError(f"{path}: is neither a file nor a folder; choose another output")
        if path.exists() and path.is_dir() != folder:
            what = ("file", "folder") if folder else ("folder", "file")
            raise UserError(f"{path}: is a {what[0]}; expected the name of a {what[1]} to write")
    return outputs


def check_replaceable(path: Path, found: dict[str, Any]) -> None:
    """Raises a UserError for a folder that protlm has not written; it may hold anything, so it is not removed."""
    if path.is_dir() and not found and any(path.iterdir()):
        raise UserError(f"{path}: a folder that protlm has not written; choose another one, or remove it yourself")


def is_complete(output: Output, expected: dict[str, Any], overwrite: bool) -> bool:
    """Whether the same output already exists; raises a UserError if a different one must not be replaced."""
    found = read_description(output.path)
    if found is None:
        return False
    different = differences(found, expected)
    if not different:
        return True
    check_replaceable(output.path, found)
    if not overwrite:
        what = f"but was made differently ({different})" if found else f"but holds no {output.what} written by protlm"
        raise UserError(f"{output.path}: already exists, {what}; choose another output, or set overwrite", "overwrite")
    return False
