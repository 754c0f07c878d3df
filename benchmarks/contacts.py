"""Precision of contact maps against structures, by method.

    pip download --no-deps --no-binary biopython biopython==1.88 && tar xf biopython-1.88.tar.gz
    python -m benchmarks.contacts biopython-1.88/Tests/PDB --model MODEL --database swissprot.fasta

Each chain of the structure files of a folder is a protein, with the residues that it has there. Chains whose length is
out of bounds and those similar to an earlier one are left out. Pairs are in contact below 8 angstroms between beta
carbons; L is the number of residues of the chain.
"""

import argparse
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.measure import positive, program
from benchmarks.tables import check_outputs, markdown, write_csv
from protlm.contacts.contact_map import METHODS, contact_map
from protlm.contacts.precision import PARTS, RANGES, precision, read_contacts
from protlm.errors import UserError
from protlm.homology.cache import default_folder
from protlm.homology.search import find_homologs
from protlm.inference.engine import Computer
from protlm.model_api import load
from protlm.structures import SUFFIXES, read_chains

WORD, SHARED = 5, 0.3
"""Length of words, and the fraction of them that two chains must share to be similar."""


def chains(folder: Path, least: int, most: int) -> Iterator[tuple[str, Path, str]]:
    """Name, file and residues of each chain of a folder that differs from the earlier ones."""
    seen: list[set[str]] = []
    for path in sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = read_chains(path)
        except UserError as error:  # some files of the folder are damaged on purpose
            print(f"left out: {error}")
            continue
        for name, (_, letters) in found.items():
            words = {letters[i : i + WORD] for i in range(len(letters) - WORD + 1)}
            if not least <= len(letters) <= most or any(
                len(words & other) > SHARED * min(len(words), len(other)) for other in seen
            ):
                continue
            seen.append(words)
            yield f"{path.stem}:{name}", path, letters


def measured(
    folder: Path, model: Path, methods: Sequence[str], databases: Sequence[Path], least: int, most: int, budget: int
) -> Iterator[dict[str, object]]:
    """Rows with the precision at L / k of each chain, method and range of separations."""
    computer = Computer(load(model), budget)
    for name, path, letters in chains(folder, least, most):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of biotite, about atoms that it leaves out
            structure = read_contacts(path, letters)
        for method in methods:
            source = computer
            if method == "couplings":
                source = find_homologs(letters, databases, cache=default_folder())
            found = contact_map(letters, method, source)
            for one in precision(found, structure):
                about = {"chain": name, "residues": len(letters), "method": method}
                values = {column(part): round(value, 4) for part, value in one.values.items()}
                yield {**about, "separation": one.separation, "contacts": one.contacts, **values}


def column(part: int) -> str:
    """Of the precision of the best L / part pairs."""
    return f"L/{part}" if part > 1 else "L"


def summary(rows: Sequence[Mapping[str, object]], methods: Sequence[str]) -> str:
    """A table of the means over chains."""
    table = []
    for method in methods:
        for separation in RANGES:
            own = [row for row in rows if (row["method"], row["separation"]) == (method, separation)]
            means = [np.nanmean([row[column(part)] for row in own]) for part in PARTS]
            table.append([method, separation, len(own), *(f"{mean:.3f}" for mean in means)])
    return markdown(["method", "separation", "chains", *map(column, PARTS)], table)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.contacts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="structure files")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--database", type=Path, action="append", default=[], help="FASTA file, for couplings")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--least", type=positive, default=60, help="residues of a chain, at least")
    parser.add_argument("--most", type=positive, default=350, help="residues of a chain, at most")
    parser.add_argument("--token-budget", type=positive, default=4096)
    parser.add_argument("--output", type=Path, default=Path("contacts.csv"))
    arguments = parser.parse_args()
    check_outputs(arguments.output)
    rows = []

    def kept() -> Iterator[dict[str, object]]:
        for row in measured(
            arguments.folder,
            arguments.model,
            arguments.methods,
            arguments.database,
            arguments.least,
            arguments.most,
            arguments.token_budget,
        ):
            rows.append(row)
            yield row

    write_csv(kept(), arguments.output)
    print(summary(rows, arguments.methods))


if __name__ == "__main__":
    program(main)
