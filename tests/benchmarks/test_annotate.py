"""Figures of the benchmark of annotation: those of its parts, and a check of each on data that are easy to judge."""

import csv

import numpy as np
import pytest

from benchmarks import annotate
from tests.annotation.labelled import MEMBERS, families, write


def test_figures_of_perfect_scores():
    truth = np.array([[1, 0, 1], [0, 1, 0]])
    found = annotate.figures(truth, truth * 0.95, 10)
    assert (found["fmax"], found["called_0.9"], found["right_0.9"]) == (1, 3, 1)
    assert annotate.figures(truth, 0.6 * (1 - truth), 10)["right_0.5"] == 0


def test_homologs_beat_frequencies_on_families(tmp_path, model_folder, write_fasta, capsys):
    records = families()
    queries = [record for number, record in enumerate(records) if number % MEMBERS == 0]
    known = [record for record in records if record not in queries]
    fasta, _ = write(tmp_path, known)
    asked = write_fasta([(name, sequence) for name, sequence, _ in queries])
    labels = tmp_path / "all.tsv"
    rows = [f"{name}\t{';'.join(own)}" for name, _, own in records]
    labels.write_text("\n".join(["id\tgo", *rows]) + "\n")
    clusters = tmp_path / "clusters.tsv"
    clusters.write_text("".join(f"{name}\t{name}\n" for name, _, _ in known))
    path = tmp_path / "annotate.csv"
    annotate.main([*map(str, (fasta, asked, labels, clusters, model_folder)), "--draws", "20", "--csv", str(path)])
    with path.open() as file:
        found = {row["method"]: row for row in csv.DictReader(file)}
    assert list(found) == ["naive", "embedding", "homology", "both"]
    assert {row["queries"] for row in found.values()} == {"8"}
    assert float(found["homology"]["fmax"]) > 0.9 > float(found["naive"]["fmax"])
    assert float(found["homology"]["right_0.5"]) == pytest.approx(1, abs=0.1)
    assert capsys.readouterr().out.count("| go |") == 4
