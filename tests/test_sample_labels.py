"""The labelled files in data/ are well-formed and match data/README.md."""

import csv
import gzip
import hashlib
import re
from collections import Counter
from pathlib import Path

import pytest

from data import draw_labels
from protlm.proteingym.assays import find_assays
from protlm.sequence.alphabet import STANDARD
from protlm.variants.variant_table import VariantTable

DATA = Path(__file__).parents[1] / "data"
README = (DATA / "README.md").read_text()
LIMITS = {"localization.tsv.gz": 300_000, "secondary_structure.tsv.gz": 150_000, "dms/*": 200_000}
"""Maximum size in bytes."""


def read(name: str) -> list[dict[str, str]]:
    with gzip.open(DATA / name, "rt", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", strict=True))


def residues(rows: list[dict[str, str]]) -> int:
    return sum(len(row["sequence"]) for row in rows)


def assert_split(rows: list[dict[str, str]]) -> None:
    """Unique proteins with known letters, and no run of residues in both splits."""
    for name in ("id", "sequence"):
        assert len({row[name] for row in rows}) == len(rows)
    assert set("".join(row["sequence"] for row in rows)) <= {*STANDARD, "X", "U"}
    runs = {
        split: set().union(*(draw_labels.runs(row["sequence"]) for row in rows if row["split"] == split))
        for split in ("train", "test")
    }
    assert {row["split"] for row in rows} == set(runs)
    assert not runs["train"] & runs["test"]


def test_localization_is_balanced_and_split() -> None:
    rows = read("localization.tsv.gz")
    assert_split(rows)
    counts = Counter((row["split"], row["location"]) for row in rows)
    assert counts == {(split, place): n for split, n in draw_labels.EACH.items() for place in draw_labels.PLACES}
    assert {row["membrane"] for row in rows} == {"M", "S", "U"}
    assert all(40 <= len(row["sequence"]) <= 1000 for row in rows)
    assert f"{len(rows)} eukaryotic proteins, {residues(rows):,} residues" in README


def test_secondary_structure_has_a_letter_for_each_residue() -> None:
    rows = read("secondary_structure.tsv.gz")
    assert_split(rows)
    for row in rows:
        assert len(row["structure"]) == len(row["sequence"])
        assert set(row["structure"]) <= set("HEC-")
        assert len(set(row["structure"]) - {"-"}) > 0
    train, test = ([row for row in rows if row["split"] == split] for split in ("train", "test"))
    assert (len(train), len(test)) == (240, 110)
    assert (
        f"240 PDB chains for training ({residues(train):,} residues) and 110 for testing ({residues(test):,})" in README
    )


def test_scans_fit_their_wild_types() -> None:
    assays = find_assays(DATA / "dms")
    assert [assay.id for assay in assays.found] == list(draw_labels.SCANS)
    assert not assays.foreign
    for assay in assays.found:
        table = VariantTable(assay.path, assay.sequence)  # checks the letters of the wild type
        assert len(table.variants.variant) == len(set(table.variants.names)) == len(table.table.rows)  # all single
        assert len(set(table.table.numbers("DMS_score"))) > 500
        assert re.search(rf"dms/{assay.id}.csv \| .*: {len(table.variants):,} single substitutions", README)


def test_files_are_small_and_match_the_readme() -> None:
    stated = dict(reversed(line) for line in re.findall(r"^([0-9a-f]{64})  (\S+)$", README, re.MULTILINE))
    shipped = {str(file.relative_to(DATA)) for name in LIMITS for file in DATA.glob(name)}
    assert shipped == {name for name in stated if not name.startswith("families.")}
    for name in shipped:
        assert hashlib.sha256((DATA / name).read_bytes()).hexdigest() == stated[name], name
    for name, limit in LIMITS.items():
        assert sum(file.stat().st_size for file in DATA.glob(name)) <= limit
    licences = (DATA / "LICENSES.md").read_text()
    assert all(name in licences for name in shipped)


@pytest.fixture
def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(draw_labels, "HERE", tmp_path)
    return tmp_path


def test_relatives_of_training_proteins_are_not_test_proteins(drawn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = "MKTAYIAKQR" * 5, "GHWCCPFNDE" * 5
    (drawn / "train").write_text(f">a Nucleus-U\n{one}\n>b Nucleus-U\nMKT\n>c Peroxisome-U\n{one}\n")
    (drawn / "test").write_text(f">d Nucleus-U test\nG{one}\n>e Nucleus-S test\n{other}\n")
    draw_labels.draw_localization(drawn / "train", drawn / "test")
    with gzip.open(drawn / "localization.tsv.gz", "rt") as file:
        rows = [line.split("\t")[:4] for line in file]
    assert rows[1:] == [["a", "train", "Nucleus", "U"], ["e", "test", "Nucleus", "S"]]
    (drawn / "sequences").write_text(f">1abc-A\n{one}\n>2abc-A\n{other}\n>3abc-A\n{one}G\n")
    heads = {"1abc-A": "SET=train VALIDATION=False", "2abc-A": "SET=test VALIDATION=False"}
    heads["3abc-A"] = "SET=train VALIDATION=True"
    text = "".join(f">{name} {head}\n{'HEC' * 17}\n" for name, head in heads.items())
    (drawn / "labels").write_text(text.replace("HEC\n", "HE\n", 2))
    (drawn / "mask").write_text("".join(f">{name}\n0{'1' * n}\n" for name, n in zip(heads, (49, 49, 50), strict=True)))
    draw_labels.draw_structure(drawn / "sequences", drawn / "labels", drawn / "mask")
    with gzip.open(drawn / "secondary_structure.tsv.gz", "rt") as file:
        rows = [line.split("\t") for line in file]
    assert [row[:2] for row in rows[1:]] == [["1abc-A", "train"], ["2abc-A", "test"]]
    assert rows[1][3] == f"-EC{'HEC' * 15}HE\n"
