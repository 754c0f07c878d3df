"""The benchmark of contact maps, on structures made for the test."""

from pathlib import Path

import pytest

from benchmarks.contacts import chains, measured, summary
from tests.contacts.structures import write_structure
from tests.contacts.test_precision import HAIRPIN, SEQUENCE

pytest.importorskip("biotite.structure", reason="biotite, an extra, is not installed")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A chain, one almost the same, one that differs, one that is too short, and damaged and other files."""
    for name, sequence in (("a", SEQUENCE), ("b", SEQUENCE[1:]), ("c", "K" * 20 + "V" * 20), ("d", SEQUENCE[:9])):
        write_structure(tmp_path / f"{name}.pdb", sequence, HAIRPIN[: len(sequence)])
    (tmp_path / "e.cif").write_text("not a structure")
    (tmp_path / "notes.txt").write_text("")
    return tmp_path


def test_chains_are_neither_similar_nor_of_other_lengths(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = list(chains(folder, 20, 50))
    assert [(name, len(letters)) for name, _, letters in found] == [("a:A", 40), ("c:A", 40)]
    assert "left out" in capsys.readouterr().out


def test_each_chain_method_and_range_has_a_row(folder: Path, model_folder: Path) -> None:
    rows = list(measured(folder, model_folder, ["jacobian"], [], 20, 50, 4096))
    assert [(row["chain"], row["separation"]) for row in rows] == [
        (chain, separation) for chain in ("a:A", "c:A") for separation in ("short", "medium", "long")
    ]
    table = summary(rows, ["jacobian"])
    assert "| jacobian | long | 2 |" in table
    mean = sum(float(str(row["L/5"])) for row in rows[2::3]) / 2
    assert table.splitlines()[-1].endswith(f"{mean:.3f} |")
