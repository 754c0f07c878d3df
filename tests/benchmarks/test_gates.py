"""The gates of a model: each figure is that of the command it comes from, and fails where it should."""

import csv

import numpy as np
import pytest

from benchmarks import gates
from benchmarks.labelled_tasks import Task
from protlm.corpus.prepare import prepare_corpus
from protlm.corpus.reader import Corpus
from protlm.corpus.splits import SplitRule
from protlm.errors import UserError
from protlm.inference.evaluate import evaluate
from protlm.model_api import load
from tests.supervised.proteins import proteins, table


@pytest.fixture
def annotated(tmp_path):
    """A corpus and its FASTA file with GO terms that follow from composition."""
    sequences, labels = proteins(80)
    terms = {"basic": "M=0000001,0000002 C=0000009", "acidic": "B=0000003"}
    path = tmp_path / "proteins.fasta"
    records = zip(sequences, labels, strict=True)
    path.write_text("".join(f">p{i} {terms[label]}\n{one}\n" for i, (one, label) in enumerate(records)))
    prepare_corpus([path], tmp_path / "corpus.h5", SplitRule(valid=0.1, test=0.3))
    return path, tmp_path / "corpus.h5"


@pytest.fixture
def labelled(tmp_path, monkeypatch):
    """Two tasks of made-up proteins."""
    sequences, labels = proteins(60, 1)
    rows = [(s, y, "test" if i % 3 == 2 else "train") for i, (s, y) in enumerate(zip(sequences, labels, strict=True))]
    table(tmp_path / "location.tsv", rows)
    letters = tmp_path / "letters.fasta"
    parts = {"train": "SET=train VALIDATION=False", "test": "SET=test VALIDATION=False"}
    lines = [f">q{i} {parts[part]}\n{'H' * len(s)}\n" for i, (s, _, part) in enumerate(rows)]
    lines = [line.replace("H", "HE"[i % 2], line.count("H")) if i % 3 else line for i, line in enumerate(lines)]
    letters.write_text("".join(lines))
    source = tmp_path / "letters_of.fasta"
    source.write_text("".join(f">q{i}\n{s}\n" for i, (s, *_) in enumerate(rows)))
    monkeypatch.setitem(
        gates.TASKS, "localisation", lambda *_: Task("localisation", "accuracy", tmp_path / "location.tsv")
    )
    structure = Task("secondary structure", "accuracy", letters, {"sequences": source})
    monkeypatch.setitem(gates.TASKS, "structure", lambda *_: structure)
    return tmp_path


def test_a_table_of_four_gates(annotated, labelled, model_folder, tmp_path, capsys):
    fasta, corpus = annotated
    arguments = [*map(str, (model_folder, corpus, fasta, labelled)), "--csv", str(tmp_path / "gates.csv")]
    gates.main([*arguments, "--draws", "50"])
    with (tmp_path / "gates.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["gate"] for row in rows] == [
        "perplexity",
        "localisation",
        "secondary structure",
        "GO terms of the nearest",
    ]
    found = evaluate(load(model_folder), Corpus(corpus), ["test"])["test"]
    assert float(rows[0]["value"]) == pytest.approx(found["perplexity"], rel=1e-5)
    assert float(rows[0]["baseline"]) == pytest.approx(found["unigram_perplexity"], rel=1e-5)
    assert rows[0]["passed"] == "False"
    assert {row["model"] for row in rows} == {"model"}
    for row in rows[1:]:
        difference = float(row["value"]) - float(row["baseline"])
        assert float(row["gain"]) == pytest.approx(difference, abs=2e-5)  # the file has six digits
        assert float(row["low"]) <= float(row["gain"]) <= float(row["high"])
    assert float(rows[3]["baseline"]) > 0.8  # composition tells the terms of these proteins
    assert capsys.readouterr().out.count("| no |") + sum(row["passed"] == "True" for row in rows) == 4


def test_shared_terms_of_the_nearest():
    reference = gates.Annotated(["A", "C"], [frozenset("ab"), frozenset("c")])
    asked = gates.Annotated(["A", "C", "C"], [frozenset("a"), frozenset("c"), frozenset("d")])
    shared = gates.agreement(np.eye(2), np.array([[1.0, 0], [0, 1], [0, 1]]), reference, asked)
    assert shared.tolist() == [0.5, 1.0, 0.0]


def test_a_perplexity_below_the_gate_passes(tiny_model, corpus_path, monkeypatch):
    for value, passed in ((gates.PERPLEXITY, True), (gates.PERPLEXITY + 0.01, False)):
        found = {"test": {"perplexity": value, "unigram_perplexity": 18.0}}
        monkeypatch.setattr(gates, "evaluate", lambda *_, found=found, **__: found)
        assert gates.perplexity(tiny_model, Corpus(corpus_path), 1_000).passed == passed


def test_proteins_without_terms_are_refused(annotated, tmp_path):
    plain = tmp_path / "plain.fasta"
    plain.write_text(">p1\nMKV\n")
    with pytest.raises(UserError, match=r"plain.fasta: no protein of the train split has GO terms"):
        gates.annotated(plain, Corpus(annotated[1]))
