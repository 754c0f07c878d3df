"""Joins the shards of an embedding, or of predictions, into what a single run would have written."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from protlm.embedding.csv_table import check_about
from protlm.embedding.description import differences
from protlm.embedding.layouts import LAYOUTS, Layout, publish_description, read_description
from protlm.embedding.outputs import check_replaceable, layout_of
from protlm.errors import UserError
from protlm.files import atomic_output
from protlm.progress import Progress, summed

_COUNTS = ("proteins", "residues", "copied", "renamed")


def merge_shards(
    shards: Sequence[str | Path],
    output: str | Path,
    overwrite: bool = False,
    progress: Progress | None = None,
    layouts: Mapping[str, Layout] = LAYOUTS,
) -> dict[str, Any]:
    """Joins shards in the order of the FASTA, regardless of the order in which they are given.

    Args:
        shards: outputs of `embed_fasta`, or of predictions, for one model, source and set of options; each shard once.
        output: appears under its name only once it is complete.
        overwrite: replace an existing output.
        progress: called with the proteins copied and in total.
        layouts: that the shards may have.

    Returns:
        The description of the output, see `EmbedOptions.description`, with the numbers of proteins and residues.

    Raises:
        UserError: for shards that do not belong together, are missing, repeated or unfinished; for an existing output.
    """
    output = Path(output)
    ordered = _ordered(_described([Path(shard) for shard in shards], layouts))
    path, first = ordered[0]
    layout = layouts[layout_of(output, first["layout"], layouts)]
    if layout.beside:
        check_about(output)
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
    with atomic_output(output) as partial:
        layout.join([shard for shard, _ in ordered], partial, description, summed(progress, description["proteins"]))
        publish_description(layout, partial, output, description)
    return description


def _described(shards: Sequence[Path], layouts: Mapping[str, Layout]) -> list[tuple[Path, dict[str, Any]]]:
    """The shards with their descriptions; one error for all that cannot be used."""
    found, problems = [], []
    for shard in shards:
        description = read_description(shard)
        if description and description["layout"] in layouts:
            found.append((shard, description))
        elif description is not None:
            problems.append(f"{shard}: not embeddings or predictions of protlm; expected a shard of these")
        elif shard.with_name(f".{shard.name}.partial").is_dir():
            problems.append(f"{shard}: is unfinished; run the command that writes it again")
        else:
            problems.append(f"{shard}: no such file; expected a shard of embeddings or predictions")
    if problems:
        raise UserError("; ".join(problems))
    return found


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
            if shard.resolve() == (other := by_number[int(number)][0]).resolve():
                raise UserError(f"{shard}: given twice; give each shard once")
            both = f"{shard} and {other}"
            raise UserError(f"{both}: are both shard {description['shard']}; give each shard once")
        by_number[int(number)] = (shard, description)
    if missing := [number for number in range(1, count + 1) if number not in by_number]:
        raise UserError(f"{len(missing):,} of {count:,} shards missing: {_ranges(missing)}; give all of them")
    return [by_number[number] for number in range(1, count + 1)]


def _ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers as the option --array of SLURM takes them.

    >>> _ranges([1, 4, 5, 6, 9])
    '1,4-6,9'
    """
    edges = [i for i, (one, other) in enumerate(pairwise(numbers), start=1) if other > one + 1]
    runs = [numbers[begin:end] for begin, end in pairwise([0, *edges, len(numbers)])]
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
