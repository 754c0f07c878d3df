"""A synthetic labelled reference: families of related proteins, with a label of their own and one of every other."""

import random
from pathlib import Path

from tests.homology.families import mutated, unrelated

FAMILIES, MEMBERS = 8, 4


def families(seed: int = 0) -> list[tuple[str, str, list[str]]]:
    """(id, sequence, labels); members differ in some 60 % of their residues."""
    generator = random.Random(seed)
    records = []
    for family in range(FAMILIES):
        parent = unrelated(generator, 120)
        for member in range(MEMBERS):
            labels = [f"family {family}", ("even", "odd")[family % 2]]
            records.append((f"f{family}m{member}", mutated(parent, 0.4, generator), labels))
    return records


def write(folder: Path, records: list[tuple[str, str, list[str]]]) -> tuple[Path, Path]:
    """A FASTA file and a table of labels."""
    fasta, table = folder / "reference.fasta", folder / "labels.tsv"
    fasta.write_text("".join(f">{name}\n{sequence}\n" for name, sequence, _ in records))
    rows = [f"{name}\t{'; '.join(labels)}" for name, _, labels in records]
    table.write_text("\n".join(["id\tgo", *rows]) + "\n")
    return fasta, table
