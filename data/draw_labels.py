"""Selects the labelled proteins of this folder from their sources.

    python data/draw_labels.py localization TRAIN.fasta TEST.fasta
    python data/draw_labels.py structure SEQUENCES.fasta LABELS.fasta MASK.fasta
    python data/draw_labels.py dms SCANS_FOLDER

The selection follows a fixed rule. Proteins of 40 to 1,000 residues (localisation) or 40 to 500 (structure) are taken
in the order of the BLAKE2b hash of their identifier: 40 for training and 35 for testing per location, or 240 and 110
chains. A test protein is left out if it shares 10 consecutive residues with any training protein of the source. The two
rarest locations are left out: peroxisomes, and proteins found in both nucleus and cytoplasm. Deep mutational scans are
reduced to single substitutions.
"""

import argparse
import csv
import gzip
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from Bio.SeqIO.FastaIO import SimpleFastaParser

HERE = Path(__file__).parent
RUN = 10  # consecutive residues that a test protein must not share with a training protein
PLACES = (
    "Cell.membrane",
    "Cytoplasm",
    "Endoplasmic.reticulum",
    "Extracellular",
    "Golgi.apparatus",
    "Lysosome/Vacuole",
    "Mitochondrion",
    "Nucleus",
    "Plastid",
)
EACH = {"train": 40, "test": 35}
CHAINS = {"train": 240, "test": 110}
SCANS = ("BLAT_ECOLX_Ranganathan2015", "grb2-abundance")


def records(path: Path) -> Iterator[tuple[list[str], str]]:
    """The words of each header, and the letters."""
    with path.open() as file:
        for title, letters in SimpleFastaParser(file):
            yield title.split(), letters


def runs(sequence: str) -> set[str]:
    """All stretches of `RUN` consecutive residues."""
    return {sequence[i : i + RUN] for i in range(len(sequence) - RUN + 1)}


def print_related(sequences: list[str], seen: set[str]) -> None:
    """Reports how many test sequences are left out."""
    related = sum(not seen.isdisjoint(runs(sequence)) for sequence in sequences)
    print(f"test: {related} of {len(sequences):,} share {RUN} consecutive residues with a training protein")


def in_order(identifiers: Iterable[str]) -> list[str]:
    """Sorted by hash."""
    return sorted(identifiers, key=lambda name: hashlib.blake2b(name.encode()).digest())


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Writes a tab-separated file, gzipped without time stamp or name, so that the same input gives the same bytes."""
    with path.open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as out:
        for row in (columns, *rows):
            out.write(("\t".join(row) + "\n").encode())


def draw_localization(train: Path, test: Path) -> None:
    found = {
        split: {words[0]: (words[1], letters) for words, letters in records(path)}
        for split, path in (("train", train), ("test", test))
    }
    seen = set().union(*(runs(letters) for _, letters in found["train"].values()))
    print_related([letters for _, letters in found["test"].values()], seen)
    rows = []
    for split, proteins in found.items():
        taken = dict.fromkeys(PLACES, 0)
        for name in in_order(proteins):
            label, sequence = proteins[name]
            place, _, membrane = label.rpartition("-")
            if taken.get(place, EACH[split]) == EACH[split] or not 40 <= len(sequence) <= 1000:
                continue
            if split == "train" or not runs(sequence) & seen:
                taken[place] += 1
                rows.append((name, split, place, membrane, sequence))
        print(split, taken)
    write_table(HERE / "localization.tsv.gz", ("id", "split", "location", "membrane", "sequence"), rows)


def draw_structure(sequences: Path, labels: Path, mask: Path) -> None:
    letters = {words[0]: text for words, text in records(sequences)}
    resolved = {words[0]: text for words, text in records(mask)}
    found: dict[str, dict[str, str]] = {"train": {}, "test": {}}
    held_back = []  # validation proteins, used neither for training nor for testing
    for (name, split, validation), states in records(labels):
        if validation == "VALIDATION=True":
            held_back.append(name)
        else:
            pairs = zip(states, resolved[name], strict=True)
            found[split.removeprefix("SET=")][name] = "".join(s if r == "1" else "-" for s, r in pairs)
    seen = set().union(*(runs(letters[name]) for name in (*found["train"], *held_back)))
    print_related([letters[name] for name in found["test"]], seen)
    rows = []
    for split, chains in found.items():
        fitting = [name for name in in_order(chains) if 40 <= len(letters[name]) <= 500]
        if split == "test":
            fitting = [name for name in fitting if not runs(letters[name]) & seen]
        rows += [(name, split, letters[name], chains[name]) for name in fitting[: CHAINS[split]]]
        print(split, f"{len(fitting)} candidates")
    write_table(HERE / "secondary_structure.tsv.gz", ("id", "split", "sequence", "structure"), rows)


def draw_scans(folder: Path) -> None:
    wild_types = {words[0]: letters for words, letters in records(folder / "wt.fasta")}
    (HERE / "dms").mkdir(exist_ok=True)
    for name in SCANS:
        with (folder / f"{name}.csv").open(newline="") as file:
            header, *rows = csv.reader(file)
        with (HERE / "dms" / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerows([header, *(row for row in rows if ":" not in row[0])])
        print(name, sum(":" not in row[0] for row in rows), "of", len(rows))
    (HERE / "dms" / "wt.fasta").write_text("".join(f">{name}\n{wild_types[name]}\n" for name in SCANS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = parser.add_subparsers(dest="part", required=True)
    for part, function, names in (
        ("localization", draw_localization, ("train", "test")),
        ("structure", draw_structure, ("sequences", "labels", "mask")),
        ("dms", draw_scans, ("folder",)),
    ):
        one = parts.add_parser(part)
        one.set_defaults(function=function)
        for name in names:
            one.add_argument(name, type=Path)
    options = vars(parser.parse_args())
    del options["part"]
    options.pop("function")(**options)


if __name__ == "__main__":
    main()
