"""The command `protlm contacts`."""

import json
from pathlib import Path

import numpy as np
import pandas
import pytest

from protlm import model_api
from protlm.contacts import contact_map
from tests.command import assert_refused
from tests.contacts.structures import write_structure
from tests.contacts.test_precision import HAIRPIN, SEQUENCE
from tests.homology.families import QUERY, database

OTHER = "MKTAYIAKQRQISFVKSHFSRQ"


@pytest.fixture
def proteins(write_fasta) -> Path:
    return write_fasta([("sp|P1|A_B", SEQUENCE), ("q/2", OTHER)])


def test_a_table_and_a_picture_for_each_protein(protlm, proteins: Path, model_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "maps"
    done = protlm("contacts", proteins, "-o", folder, "--model", model_folder)
    assert (done.code, done.out) == (0, "")
    assert done.err.splitlines()[-1] == f"{folder}: contacts of 2 proteins by jacobian"
    assert {path.name for path in folder.iterdir()} == {
        *("contacts.json", "P1.tsv", "P1.png", "q_2.tsv", "q_2.png"),
    }
    table = pandas.read_csv(folder / "P1.tsv", sep="\t")
    scores = model_api.load(model_folder).contacts(SEQUENCE)
    assert len(table) == len(np.triu_indices(len(SEQUENCE), 6)[0])
    assert (table.j - table.i >= 6).all()
    assert table.score.is_monotonic_decreasing
    np.testing.assert_allclose(table.score, scores[table.i - 1, table.j - 1], rtol=1e-5, atol=1e-9)
    assert [SEQUENCE[i - 1] for i in table.i] == table.residue_i.tolist()
    assert [SEQUENCE[j - 1] for j in table.j] == table.residue_j.tolist()
    assert (folder / "P1.png").read_bytes().startswith(b"\x89PNG")


def test_an_interrupted_run_continues(
    protlm, proteins: Path, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = []
    original = contact_map.contact_map

    def interrupted(sequence: str, *arguments: object) -> object:
        computed.append(sequence)
        if len(computed) == 2:
            raise KeyboardInterrupt
        return original(sequence, *arguments)

    monkeypatch.setattr(contact_map, "contact_map", interrupted)
    arguments = ("contacts", proteins, "--model", model_folder)
    assert protlm(*arguments, "-o", tmp_path / "maps").code == 130
    again = protlm(*arguments, "-o", tmp_path / "maps")
    assert again.code == 0
    assert "1 of them by an earlier run" in again.err
    assert computed == [SEQUENCE, OTHER, OTHER]
    assert protlm(*arguments, "-o", tmp_path / "whole").code == 0
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "maps" / path.name).read_bytes()
    computed.clear()
    (tmp_path / "maps" / "P1.png").unlink()
    assert protlm(*arguments, "-o", tmp_path / "maps").code == 0
    assert not computed
    assert (tmp_path / "maps" / "P1.png").exists()
    assert protlm(*arguments, "-o", tmp_path / "maps", "--overwrite").code == 130  # computes all


def test_results_of_another_model_or_protein_are_not_kept(
    protlm, write_fasta, model_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "maps"
    assert protlm("contacts", SEQUENCE, "-o", folder, "--model", model_folder).code == 0
    assert_refused(protlm("contacts", SEQUENCE, "-o", folder, "--model", model_folder, "--precision", "bfloat16"),
                   folder, "precision differ", "overwrite")  # fmt: skip
    other = protlm("contacts", SEQUENCE[::-1], "-o", folder, "--model", model_folder)
    assert_refused(other, folder / "sequence.tsv", "of another protein")
    assert protlm("contacts", SEQUENCE[::-1], "-o", folder, "--model", model_folder, "--overwrite").code == 0


def test_precision_against_structures_named_after_proteins(
    protlm, proteins: Path, model_folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("biotite.structure", reason="biotite, an extra, is not installed")
    folder, path = tmp_path / "maps", write_structure(tmp_path / "p1.pdb", SEQUENCE, HAIRPIN)
    arguments = ("contacts", proteins, "-o", folder, "--model", model_folder)
    assert protlm(*arguments).code == 0
    plain = (folder / "P1.png").read_bytes()
    done = protlm(*arguments, "--structure", path)  # of tables that are there already
    assert done.code == 0
    table = pandas.read_csv(folder / "precision.tsv", sep="\t")
    assert table.columns.tolist() == [
        *("protein", "chain", "resolved", "separation", "contacts"),
        *("precision_L", "precision_L/2", "precision_L/5"),
    ]
    assert table.separation.tolist() == ["short", "medium", "long"]
    assert (table.protein + table.chain).unique().tolist() == ["P1A"]
    assert done.out.splitlines()[0].split() == table.columns.tolist()
    assert (folder / "P1.png").read_bytes() != plain
    odd = path.rename(tmp_path / "other.pdb")
    assert_refused(protlm(*arguments, "--structure", odd), odd, "of none of the proteins", "P1.cif")
    assert_refused(protlm(*arguments, "--structure", tmp_path / "none.cif"), "none.cif: no such file")


def test_couplings_of_homologs(protlm, write_fasta, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    swissprot, family = write_fasta(database(), "swissprot.fasta"), tmp_path / "family.a3m"
    assert protlm("homologs", QUERY, swissprot, "-o", family, "--threads", 1).code == 0
    searched, given = tmp_path / "searched", tmp_path / "given"
    assert protlm("contacts", QUERY, "-o", searched, "--database", swissprot, "--threads", 1).code == 0
    assert protlm("contacts", QUERY, "-o", given, "--alignment", family).code == 0
    assert (searched / "sequence.tsv").read_bytes() == (given / "sequence.tsv").read_bytes()
    assert json.loads((given / "contacts.json").read_text()) == {"method": "couplings", "homologs": [str(family)]}
    assert pandas.read_csv(given / "sequence.tsv", sep="\t").score.max() > 0


def test_options_that_contradict_each_other_are_refused(
    protlm, proteins: Path, model_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "maps"
    for options, words in (
        (("--method", "couplings"), ("--method couplings", "requires homologs")),
        (("--method", "head", "--model", model_folder), ("--method head", "no contact head")),
        (("--method", "x"), ("--method 'x'", "auto, head")),
        (("--alignment", "a.a3m", "--database", "b.fasta"), ("one of --alignment and --database",)),
        (("--alignment", "a.a3m", "--model", model_folder), ("--model is not used",)),
        (("--alignment", "a.a3m", "--method", "jacobian"), ("--method jacobian", "does not use homologs")),
        (("--alignment", "a.a3m"), ("of one protein, found 2",)),
    ):
        assert_refused(protlm("contacts", proteins, "-o", folder, *options), *words)
        assert not folder.exists()
