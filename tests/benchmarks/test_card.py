"""The figures of a model card equal those of the commands."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks import card
from protlm.checkpoint import export
from protlm.corpus.reader import Corpus
from protlm.errors import UserError
from protlm.inference.evaluate import evaluate
from protlm.model_api import load
from protlm.variants.notation import parse

WILD_TYPE = "MKTAYIAKQRMKLLILAVVA"


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    folder = tmp_path / "dms"
    folder.mkdir()
    (folder / "wt.fasta").write_text(f">one\n{WILD_TYPE}\n>two\n{WILD_TYPE}\n")
    (folder / "one.csv").write_text("mutant,DMS_score\nM1A,0.5\nK2R,1.0\nT3W,0.1\nA4L:Y5F,0.2\n")
    (folder / "two.csv").write_text("mutant,DMS_score\nM1A,1\nK2R,1\n")
    return folder


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr("sys.argv", ["card", *map(str, arguments)])
    card.main()


def test_figures_are_those_of_the_commands(
    protlm, model_folder: Path, corpus_path: Path, scans: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    path = tmp_path / "results" / "card.csv"
    run(monkeypatch, model_folder, corpus_path, scans, "--csv", path)
    printed = capsys.readouterr().out
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == card.COLUMNS
    found = {(row["set"], row["part"], row["figure"]): row for row in rows}
    assert len(found) == len(rows)
    for split, result in evaluate(load(model_folder), Corpus(corpus_path)).items():
        split = card.described(Corpus(corpus_path), split)
        for part, expected in (("all", result), ("129-256", next(r for r in result.by_length if r["min"] == 129))):
            for figure in ("accuracy", "perplexity"):
                row = found[split, part, figure]
                assert float(row["model"]) == pytest.approx(expected[figure], rel=1e-5)
                assert float(row["unigram"]) == pytest.approx(expected[f"unigram_{figure}"], rel=1e-5)
        assert sum(int(found[split, letter, "accuracy"]["count"]) for letter in result.by_residue) == result.scored
        assert f"| {split} | {result.scored:,} | {100 * result['accuracy']:.1f} % |" in printed
    outcome = protlm("proteingym", scans, "--model", model_folder, "-o", tmp_path / "table.csv")
    assert outcome.code == 0
    with (tmp_path / "table.csv").open() as file:
        expected = {row["DMS_id"]: row for row in csv.DictReader(file)}
    one = found["one", "all", "Spearman"]
    assert float(one["model"]) == pytest.approx(float(expected["one"]["protlm"]), abs=1e-5)
    assert float(one["blosum62"]) == pytest.approx(float(expected["one"]["BLOSUM62"]), abs=1e-5)
    assert found["mean", "all", "Spearman"]["unigram"] == one["unigram"]  # the other assay is constant
    assert math.isnan(float(found["two", "all", "Spearman"]["model"]))
    assert "| two | 2 | - | - | - |" in printed
    assert "| test: new members of training clusters, by residue | scored residues | accuracy |" in printed
    assert "| ood: held-out clusters, by residue | scored residues | accuracy |" in printed
    for table in printed.split("\n\n")[1:]:
        assert len({line.count("|") for line in table.strip().splitlines()}) == 1


def test_the_unigram_score_is_a_ratio_of_frequencies(corpus_path: Path) -> None:
    unigram = Corpus(corpus_path).unigram()
    one, both, wild_type = card.frequency_score(parse(WILD_TYPE, ["M1A", "M1A:K2W", "WT"]), unigram)
    frequency = dict(zip("MAKW", unigram.probabilities[[card.INDEX[letter] for letter in "MAKW"]], strict=True))
    assert one == pytest.approx(np.log(frequency["A"] / frequency["M"]))
    assert both == pytest.approx(one + np.log(frequency["W"] / frequency["K"]))
    assert wild_type == 0


def test_user_errors_are_one_line_and_leave_nothing(
    model_folder: Path, causal_model, corpus_path: Path, scans: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    export(causal_model, tmp_path / "causal")
    path = tmp_path / "results" / "card.csv"
    for model, folder, words in (
        (tmp_path / "causal", scans, "the model is causal"),
        (model_folder, tmp_path / "absent", "no such folder"),
        (tmp_path / "absent", scans, "no such model"),
    ):
        with pytest.raises(UserError, match=words):
            run(monkeypatch, model, corpus_path, folder, "--csv", path)
    with pytest.raises(UserError, match="cannot be written .Is a directory"):
        run(monkeypatch, tmp_path / "absent", corpus_path, scans, "--csv", tmp_path)
    assert not path.exists()
    with pytest.raises(UserError, match="the model is causal"):
        card.measure(causal_model, Corpus(corpus_path), scans, 1024)
