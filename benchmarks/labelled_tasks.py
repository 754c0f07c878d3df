"""Four public tasks as inputs of `protlm fit`: localisation, secondary structure, GB1, binding residues.

Sets that would take too long are cut to the first proteins of each part in the order of the BLAKE2b hashes of their
identifiers (of variants, of their sequences), which is a random sample that anyone can draw again.
"""

import csv
import gzip
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from protlm.errors import UserError
from protlm.supervised.letters import Letters, read_letters
from protlm.tables import write_table


@dataclass(frozen=True)
class Task:
    """A task for `protlm fit`.

    Attributes:
        name: as in tables.
        metric: that is compared.
        labels: file.
        options: more arguments of `protlm.fit`.
    """

    name: str
    metric: str
    labels: Path
    options: dict[str, Any] = field(default_factory=dict)


def localisation(data: Path, folder: Path) -> Task:
    """DeepLoc's classes (Almagro Armenteros et al. 2017): its validation set for training, setHARD for the test."""
    rows = []
    for name, part in (("deeploc_our_val_set", "train"), ("setHARD", "test")):
        for header, sequence in _records(data / "localization" / f"{name}.fasta"):
            identifier, location, *_ = header.split()
            rows.append((identifier, sequence, location.rpartition("-")[0], part))
    path = folder / "localisation.tsv"
    write_table(path, ("id", "sequence", "location", "split"), rows)
    return Task("localisation", "accuracy", path)


def secondary_structure(data: Path, folder: Path) -> Task:
    """FLIP's three states (Dallago et al. 2021): 250 chains for training and validation, 100 for the test."""
    source = data / "secondary_structure"
    records = _sampled(read_letters(_existing(source / "sampled.fasta")), 250, 100)
    path = _write_letters(folder / "secondary_structure.fasta", records)
    options = {"sequences": source / "sequences.fasta", "mask": source / "mask.fasta"}
    return Task("secondary structure", "accuracy", path, options)


def gb1(data: Path, folder: Path) -> Task:
    """FLIP's two_vs_rest of GB1 (Wu et al. 2016): 424 variants for training and validation, 600 for the test.

    A ranking, since the metric is Spearman's correlation.
    """
    text = gzip.decompress(_existing(data / "supervised" / "gb1_two_vs_rest.csv.gz").read_bytes()).decode()
    header, *rows = csv.reader(text.splitlines())
    part, sequence = header.index("set"), header.index("sequence")
    tested = _first([row for row in rows if row[part] == "test"], 600, lambda row: row[sequence])
    path = folder / "gb1.csv"
    write_table(path, header, [*(row for row in rows if row[part] == "train"), *tested])
    return Task("GB1 two_vs_rest", "Spearman", path, {"kind": "ranking"})


def binding(data: Path, folder: Path) -> Task:
    """FLIP's binding residues (Littmann et al. 2021), of any kind: 200 proteins, and 100 for the test."""
    source = data / "supervised"
    records = _sampled(read_letters(_existing(source / "bind_from_publication.fasta")), 200, 100)
    path = _write_letters(folder / "binding.fasta", records)
    options = {"sequences": source / "bind_sequences.fasta", "classes": {"b": "1234567"}}
    return Task("binding residues", "AUPRC", path, options)


TASKS: dict[str, Callable[[Path, Path], Task]] = {
    "structure": secondary_structure,
    "gb1": gb1,
    "binding": binding,
    "localisation": localisation,
}


def _sampled(records: Sequence[Letters], train: int, test: int) -> list[Letters]:
    parts = ([record for record in records if (record.part == "test") == tested] for tested in (False, True))
    return [
        record
        for part, most in zip(parts, (train, test), strict=True)
        for record in _first(part, most, lambda record: record.id)
    ]


def _first(items: Iterable[Any], most: int, key: Callable[[Any], str]) -> list[Any]:
    return sorted(items, key=lambda item: blake2b(key(item).encode()).digest())[:most]


def _write_letters(path: Path, records: Iterable[Letters]) -> Path:
    headers = {"train": "SET=train VALIDATION=False", "valid": "SET=train VALIDATION=True"}
    lines = [f">{one.id} {headers.get(one.part, 'SET=test VALIDATION=False')}\n{one.letters}\n" for one in records]
    path.write_text("".join(lines))
    return path


def _records(path: Path) -> list[tuple[str, str]]:
    """Headers and sequences."""
    blocks = _existing(path).read_text().split(">")[1:]
    return [(head, "".join(rest.split())) for head, _, rest in (block.partition("\n") for block in blocks)]


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    return path
