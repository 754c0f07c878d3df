"""Contact maps of many proteins in a folder: a table and a picture of each, and their precision against structures."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from protlm.contacts.contact_map import ContactMap
from protlm.contacts.contact_table import read_contacts, write_contacts
from protlm.contacts.precision import PARTS, Contacts, Precision, precision
from protlm.contacts.precision import read_contacts as contacts_of
from protlm.errors import UserError
from protlm.files import atomic_output
from protlm.plots.contacts import contact_plot
from protlm.strict_json import dumps
from protlm.structures import SUFFIXES
from protlm.tables import write_table

ABOUT, PRECISION = "contacts.json", "precision"
Compute = Callable[[Sequence[str]], Iterator[ContactMap]]
"""Sequences -> their contact maps, in order."""


@dataclass(frozen=True)
class Protein:
    """A protein, the name of its files, and its structure, if any."""

    id: str
    name: str
    sequence: str
    structure: Path | None = None


@dataclass(frozen=True)
class Written:
    """What was done.

    Attributes:
        computed, kept: numbers of proteins.
        precisions: name of a protein -> its structure and precision in each range.
    """

    computed: int
    kept: int
    precisions: Mapping[str, tuple[Contacts, list[Precision]]]


def write_folder(
    folder: Path, proteins: Sequence[Protein], about: Mapping[str, object], compute: Compute, overwrite: bool = False
) -> Written:
    """Writes the folder; each file is written atomically, and tables of an earlier run are kept.

    Args:
        folder: is made if necessary.
        proteins: with distinct names.
        about: the method, and what else the scores depend on.
        compute: gets the proteins without a table.
        overwrite: compute all.

    Raises:
        UserError: for tables of an earlier run that depend on something else, or are of other proteins.
    """
    structures = {one.name: contacts_of(one.structure, one.sequence) for one in proteins if one.structure}
    folder.mkdir(exist_ok=True)
    if not overwrite:
        _check_about(folder / ABOUT, about)
    with atomic_output(folder / ABOUT) as partial:
        partial.write_text(dumps(about, indent=2) + "\n")
    new = [one for one in proteins if overwrite or not (folder / f"{one.name}.tsv").exists()]
    kept = {
        one.name: read_contacts(folder / f"{one.name}.tsv", one.sequence, str(about["method"]))
        for one in proteins
        if one not in new
    }
    maps = compute([one.sequence for one in new])
    precisions = {}
    for one in proteins:
        table, picture = folder / f"{one.name}.tsv", folder / f"{one.name}.png"
        found, structure = kept.get(one.name), structures.get(one.name)
        if old := found is not None:
            assert found is not None
        else:
            found = next(maps)
            write_contacts(table, found)
        if structure:
            precisions[one.name] = structure, list(precision(found, structure))
        if structure or not old or not picture.exists():
            with atomic_output(picture) as partial:
                contact_plot(partial, found.scores, one.id, found.method, structure and structure.distances)
    if precisions:
        write_table(folder / f"{PRECISION}.tsv", *precision_table(precisions), "\t")
    return Written(len(new), len(kept), precisions)


def matched(structures: Sequence[Path], ids: Sequence[str], names: Sequence[str]) -> list[Path | None]:
    """The structure of each protein (n,): that of the same name; a single one is that of a single protein.

    Raises:
        UserError: for a file that does not exist, a structure without a protein, or two for one.
    """
    if missing := [path for path in structures if not path.exists()]:
        raise UserError(f"{missing[0]}: no such file")
    if len(structures) == len(ids) == 1:
        return [structures[0]]
    found: list[Path | None] = [None] * len(ids)
    for path in structures:
        stem = _stem(path)
        own = [n for n, both in enumerate(zip(ids, names, strict=True)) if stem in map(str.casefold, both)]
        if len(own) != 1:
            example = f"expected a file named after the identifier of one, such as {names[0]}.cif"
            raise UserError(f"{path}: of none of the proteins; {example}")
        if found[own[0]]:
            raise UserError(f"{path} and {found[own[0]]}: two structures of {ids[own[0]]}; expected one")
        found[own[0]] = path
    return found


def _stem(path: Path) -> str:
    name = path.name.casefold()
    for suffix in (".gz", ".zst", *SUFFIXES):
        name = name.removesuffix(suffix)
    return name


def _check_about(path: Path, about: Mapping[str, object]) -> None:
    if not path.exists():
        return
    try:
        before = json.loads(path.read_text())
    except ValueError:
        before = None
    if before != about:
        odd = [name for name in about if not isinstance(before, dict) or before.get(name) != about[name]]
        raise UserError(
            f"{path.parent}: has contacts that were made otherwise ({', '.join(odd) or 'more was given'} differ); "
            "choose another folder, or overwrite"
        )


def precision_table(
    precisions: Mapping[str, tuple[Contacts, list[Precision]]],
) -> tuple[list[str], Iterator[list[object]]]:
    """Column names and rows: the precision of each protein and range of separations."""
    columns = ["protein", "chain", "resolved", "separation", "contacts", *map(column, PARTS)]

    def rows() -> Iterator[list[object]]:
        for name, (structure, each) in precisions.items():
            for one in each:
                values = ["" if np.isnan(value) else f"{value:.4f}" for value in one.values.values()]
                yield [name, structure.chain, int(structure.resolved.sum()), one.separation, one.contacts, *values]

    return columns, rows()


def column(part: int) -> str:
    """Of the precision of the best L / part pairs.

    >>> column(1), column(5)
    ('precision_L', 'precision_L/5')
    """
    return "precision_L" if part == 1 else f"precision_L/{part}"
