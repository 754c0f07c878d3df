import csv
import io

import h5py
import numpy as np
import pandas
import pytest

from tests.command import assert_refused
from tests.supervised.proteins import proteins, table


@pytest.fixture
def labels(tmp_path):
    sequences, labels = proteins(60)
    parts = ["train", "train", "test"] * 20
    table(tmp_path / "labels.tsv", list(zip(sequences, labels, parts, strict=True)))
    return tmp_path / "labels.tsv"


@pytest.fixture
def fitted(protlm, labels, model_folder, tmp_path):
    outcome = protlm("fit", labels, "-o", tmp_path / "fitted", "-m", model_folder, "--threads", 1)
    assert outcome.code == 0
    return tmp_path / "fitted", outcome


def test_a_fit_prints_its_test_beside_baselines(fitted):
    folder, outcome = fitted
    lines = outcome.out.splitlines()
    assert lines[0].split() == ["label", "accuracy", "95", "%", "interval", "MCC", "macro", "F1", "AUROC", "AUPRC"]
    assert [line.split("  ")[0] for line in lines[1:]] == ["probe", "majority", "composition", "nearest relative"]
    assert "label: classification per protein, 2 classes, 60 labels" in outcome.err
    assert "of 20 test proteins have a training relative above 50 % identity" in outcome.err
    assert (folder / "report.html").is_file()


def test_predictions_are_the_same_in_all_formats(protlm, fitted, write_fasta, tmp_path):
    sequences, labels = proteins(6, seed=7)
    fasta = write_fasta([(f"p{number}", sequence) for number, sequence in enumerate(sequences)])
    printed = protlm("predict", fasta, "-m", fitted[0])
    rows = list(csv.DictReader(io.StringIO(printed.out)))
    assert [row["label"] for row in rows] == labels
    assert list(rows[0]) == ["id", "label", "label:acidic", "label:basic"]
    for suffix in ("parquet", "h5", "tsv"):
        assert protlm("predict", fasta, "-m", fitted[0], "-o", tmp_path / f"out.{suffix}").code == 0
    frame = pandas.read_parquet(tmp_path / "out.parquet")
    assert frame["label"].tolist() == labels
    expected = frame[["label:acidic", "label:basic"]].to_numpy()
    np.testing.assert_allclose(expected.sum(axis=1), 1, rtol=1e-5)
    rounded = [[float(row["label:acidic"]), float(row["label:basic"])] for row in rows]
    np.testing.assert_allclose(rounded, expected, atol=1e-3)
    with h5py.File(tmp_path / "out.h5") as file:
        np.testing.assert_allclose(file["label"][:], expected, rtol=1e-6)
        assert file["ids"].asstr()[:].tolist() == [f"p{number}" for number in range(6)]
        assert file["label"].attrs["classes"].tolist() == ["acidic", "basic"]
    assert (tmp_path / "out.tsv").read_text() == printed.out.replace(",", "\t")


def test_residues_are_predicted_as_tables_and_strings(protlm, model_folder, write_fasta, tmp_path):
    sequences, _ = proteins(30)
    fasta = write_fasta([(f"p{number}", sequence) for number, sequence in enumerate(sequences)])
    labels = tmp_path / "labels.fasta"
    labels.write_text(
        "".join(
            f">p{number} SET={'test' if number % 3 == 2 else 'train'} VALIDATION=False\n"
            + "".join("+" if one in "KR" else "o" for one in sequence)
            + "\n"
            for number, sequence in enumerate(sequences)
        )
    )
    folder = tmp_path / "fitted"
    run = ("fit", labels, "--sequences", fasta, "-o", folder, "-m", model_folder, "--target", "charge")
    assert protlm(*run, "--no-relatives").code == 0
    assert protlm("predict", fasta, "-m", folder, "-o", tmp_path / "out.fasta").code == 0
    strings = (tmp_path / "out.fasta").read_text().splitlines()
    assert strings[0::2] == [f">p{number}" for number in range(30)]
    assert [len(line) for line in strings[1::2]] == [len(sequence) for sequence in sequences]
    rows = list(csv.DictReader(io.StringIO(protlm("predict", fasta, "-m", folder).out)))
    assert list(rows[0]) == ["id", "position", "residue", "charge", "charge:+", "charge:o"]
    assert "".join(row["charge"] for row in rows) == "".join(strings[1::2])
    assert [row["residue"] for row in rows if row["id"] == "p2"] == list(sequences[2])
    assert protlm("predict", fasta, "-m", folder, "-o", tmp_path / "out.h5").code == 0
    with h5py.File(tmp_path / "out.h5") as file:
        assert file["charge"].shape == (sum(map(len, sequences)), 2)
        assert file["lengths"][:].tolist() == [len(sequence) for sequence in sequences]


def test_what_cannot_be_used_is_one_line(protlm, labels, fitted, model_folder, write_fasta, tmp_path):
    folder, fasta = fitted[0], write_fasta([("a", "MKTAYIAK")])
    fit = ("fit", labels, "-o", tmp_path / "new", "-m", model_folder)
    for arguments, words in (
        ((*fit, "--method", "boost"), "--method 'boost': expected one of probe, head, lora, full"),
        ((*fit, "--target", "place"), "no column 'place'; found: sequence, label, split"),
        ((*fit, "--kind", "regression"), "row 1: label is 'basic'; expected a finite number"),
        (
            (*fit, "--kind", "label=order"),
            "--kind 'order': expected one of classification, multilabel, regression, ranking",
        ),
        ((*fit, "--split-by", "time"), "--split-by 'time': expected one of"),
        ((*fit, "--method", "head", "--packed-batches"), "--packed-batches, --padded-batches: are for a probe"),
        ((*fit, "--epochs", 3), "--epochs: is for --method head, lora and full"),
        (("predict", fasta, "-m", folder, "-o", "s.csv", "--shard", "3/2"), "--shard 3/2: expected i/n with i from 1"),
        (("predict", fasta, "-m", folder, "-o", "s.csv", "--shard", "0/2"), "--shard 0/2: expected i/n with i from 1"),
        (("fit", fasta, "--sequences", fasta, *fit[2:]), "its labels are the sequences themselves"),
        ((*fit, "--folds", 1), "--folds 1: expected at least 2"),
        ((*fit, "--layers", "7"), "layer 7: expected 0"),
        ((*fit, "--layers", "x"), "--layers 'x': expected numbers"),
        ((*fit, "--clusters", tmp_path / "none.tsv", "--split-by", "random"), "--clusters: requires split_by homology"),
        (("fit", labels, "-o", folder, "-m", model_folder), "already exists"),
        (
            ("predict", fasta, "-m", model_folder),
            f"{model_folder}: no fitted head there; expected a folder with",
        ),
        (("predict", fasta, "-m", "nowhere"), "nowhere: no such folder; expected a folder with a fitted head"),
        (("predict", fasta, "-m", folder, "--target", "place"), "--target 'place': expected one of label"),
        (
            ("predict", fasta, "-m", folder, "-o", tmp_path / "out.fasta"),
            "FASTA takes classes of one target per residue",
        ),
        (("predict", fasta, "-m", folder, "-o", tmp_path / "out.xml"), "expected a file name that ends in"),
        (
            ("embed", fasta, "-m", folder, "-o", tmp_path / "out.h5"),
            "written by protlm fit; use it",
        ),
    ):
        outcome = protlm(*arguments)
        told = [line for line in outcome.err.splitlines(keepends=True) if not line.startswith("label:")]
        assert_refused(outcome._replace(err="".join(told)), words)
    assert not (tmp_path / "new").exists()


def test_an_input_without_proteins_leaves_no_output(protlm, fitted, tmp_path):
    fasta, output = tmp_path / "none.fasta", tmp_path / "out.csv"
    for content, words in (("", "is empty; expected FASTA"), (">a\n\n", "no record has a sequence")):
        fasta.write_text(content)
        assert_refused(protlm("predict", fasta, "-m", fitted[0]), words)
        assert_refused(protlm("predict", fasta, "-m", fitted[0], "-o", output), words)
        assert not output.exists()
