import csv

import pytest

import protlm as package
from tests.annotation.labelled import families, write
from tests.command import assert_refused


@pytest.fixture
def given(tmp_path, write_fasta):
    queries = write_fasta([(f"q{number}", one) for number, (_, one, _) in enumerate(families()[::7])])
    reference, labels = write(tmp_path, families())
    return queries, "--reference", reference, "--labels", labels, "--threads", 1


def test_the_command_writes_what_the_function_returns(protlm, given, model_folder, tmp_path):
    outcome = protlm("annotate", *given, "-m", model_folder, "-o", tmp_path / "out.tsv")
    assert outcome.code == 0
    assert "32 labelled proteins; go: 10 labels of 32 proteins" in outcome.err
    assert "go: of 32 proteins without their clusters, labels are called for" in outcome.err
    rows = list(csv.DictReader((tmp_path / "out.tsv").read_text().splitlines(), delimiter="\t"))
    assert list(rows[0]) == ["query", "column", "label", "precision", "reference", "distance", "identity"]
    frame = package.annotate(given[0], given[2], given[4], model=model_folder, threads=1)
    assert [(row["query"], row["label"], row["reference"]) for row in rows] == [
        tuple(row) for row in frame[["query", "label", "reference"]].fillna("").to_numpy()
    ]
    for row, precision in zip(rows, frame["precision"], strict=True):
        assert row["precision"] == ("" if precision != precision else f"{precision:.3f}")
    printed = protlm("annotate", *given, "-m", model_folder)
    assert printed.out.replace(",", "\t") == (tmp_path / "out.tsv").read_text()


def test_several_columns_in_one_run(protlm, given, tmp_path):
    rows = [f"{name}\t{labels[0]}\t{labels[1]}\t" for name, _, labels in families()]
    labels = tmp_path / "columns.tsv"
    labels.write_text("\n".join(["id\tfamily\tparity\tempty", *rows]) + "\n")
    command = ["annotate", *given, "--by", "homology"]
    command[command.index(given[4])] = labels
    outcome = protlm(*command, "--column", "parity", "--column", "family", "-o", tmp_path / "out.csv")
    assert outcome.code == 0
    assert "32 labelled proteins; parity: 2 labels of 32 proteins; family: 8 labels of 32 proteins" in outcome.err
    for name in ("parity", "family"):
        assert f"{name}: of 32 proteins without their clusters" in outcome.err
        assert f"{name}: 5 labels of 5 of 5 proteins, at a precision" in outcome.err
    found = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert [row["column"] for row in found] == ["parity", "family"] * 5
    assert {row["label"] for row in found if row["column"] == "parity"} == {"even", "odd"}
    assert_refused(protlm(*command), "expected one column of labels, found family, parity, empty", "--column")
    assert_refused(protlm(*command, "--column", "family", "--column", "Family"), "--column 'family'", "twice")
    assert_refused(protlm(*command, "--column", "family", "--column", "ec"), "no column 'ec'; found: id, family")
    assert_refused(protlm(*command, "--column", "family", "--column", "empty"), "no protein", "'empty'")


def test_homology_needs_no_model(protlm, given, tmp_path):
    outcome = protlm("annotate", *given, "--by", "homology", "--model", tmp_path / "none")
    assert outcome.code == 0
    assert "go: 10 labels of 5 of 5 proteins" in outcome.err


def test_what_was_changed_or_skipped_is_reported(protlm, given, write_fasta, tmp_path):
    queries = write_fasta([("a", families()[0][1].lower()), ("b", "MK1T")], "odd.fasta")
    outcome = protlm("annotate", queries, *given[1:], "--by", "homology", "--invalid", "skip")
    assert outcome.code == 0
    assert f"{queries}: " in outcome.err
    assert "lower" in outcome.err
    assert "invalid" in outcome.err
    outcome = protlm("map", queries, "-o", tmp_path / "map", "-m", "absent")
    assert_refused(outcome, "record 2")


def test_an_interrupted_index_says_how_to_resume(protlm, given, model_folder, monkeypatch, tmp_path):
    from protlm.annotation import index
    from protlm.embedding.resumable import ResumableInterrupt

    def stopped(*arguments):
        raise ResumableInterrupt("stopped; repeat the command to resume")

    monkeypatch.setattr(index, "embed_fasta", stopped)
    outcome = protlm("annotate", *given, "-m", model_folder, "--index", tmp_path / "index.h5")
    assert outcome.code == 130
    assert "repeat the command to resume" in outcome.err


def test_inputs_are_not_overwritten_and_errors_name_options(protlm, given, tmp_path):
    for options, words in (
        (("-o", given[4]), ("--output", "is an input")),
        (("--by", "x"), ("--by 'x'", "embedding, homology, both")),
        (("--precision", "7"), ("--precision 7",)),
        (("--index", tmp_path / "index.txt"), ("--index", ".h5")),
        (("--column", "ec"), ("no column 'ec'; found: id, go",)),
    ):
        assert_refused(protlm("annotate", *given, "-m", "absent", *options), *words)


def test_a_map_of_proteins_and_of_their_embeddings_is_the_same(protlm, given, model_folder, tmp_path):
    _, _, reference, _, labels, *_ = given
    embeddings = tmp_path / "reference.h5"
    assert protlm("embed", reference, "-o", embeddings, "-m", model_folder, "--dtype", "float32").code == 0
    outcome = protlm("map", reference, "-o", tmp_path / "one", "-m", model_folder, "--labels", labels)
    assert outcome.code == 0
    assert "32 proteins, PC1 (" in outcome.err
    assert protlm("map", embeddings, "-o", tmp_path / "other", "--labels", labels, "--color", "go").code == 0
    again = ("map", embeddings, "-o", tmp_path / "other")
    assert_refused(protlm(*again), "already exists", "--overwrite")
    assert protlm(*again, "--labels", labels, "--color", "go", "--overwrite").code == 0
    tables = [
        list(csv.reader((tmp_path / name / "coordinates.csv").read_text().splitlines())) for name in ("one", "other")
    ]
    rows = [{row[0]: row[1:] for row in table} for table in tables]
    assert rows[0].keys() == rows[1].keys()
    for name, (x, y, label) in rows[0].items():
        other = rows[1][name]
        assert label == other[2]
        if name != "id":
            assert (float(x), float(y)) == pytest.approx((float(other[0]), float(other[1])), abs=1e-4)


def test_maps_that_cannot_be_drawn_are_refused(protlm, given, tmp_path):
    reference, labels, folder = given[2], given[4], tmp_path / "map"
    mapped = ("map", reference, "-m", "absent", "-o")
    assert_refused(protlm(*mapped, folder, "--color", "go"), "--color requires --labels")
    assert_refused(protlm(*mapped, folder, "--labels", labels, "--color", "ec"), "--color 'ec'", "found: go")
    assert_refused(protlm(*mapped, tmp_path / "map.html"), "--output", "the name of a folder")
    assert_refused(protlm("map", tmp_path / "none.h5", "-o", folder), "none.h5: no such file")
