"""The comparison of probe, head and LoRA on public tasks."""

import gzip

import pytest

from benchmarks import finetune
from benchmarks.labelled_tasks import TASKS, Task
from benchmarks.tables import read_rows
from protlm.checkpoint import export
from protlm.errors import UserError
from tests.supervised.proteins import proteins, variants


@pytest.fixture
def data(tmp_path):
    sequences, values = variants(60)
    rows = [("sequence", "target", "set", "validation")]
    for number, (sequence, value) in enumerate(zip(sequences, values, strict=True)):
        part = "test" if number % 3 == 2 else "train"
        rows.append((sequence, f"{value:.3f}", part, "True" if part == "train" and number < 12 else ""))
    (tmp_path / "data" / "supervised").mkdir(parents=True)
    text = "".join(",".join(row) + "\n" for row in rows)
    (tmp_path / "data" / "supervised" / "gb1_two_vs_rest.csv.gz").write_bytes(gzip.compress(text.encode()))
    return tmp_path / "data"


def test_cells_that_are_there_are_not_fitted_again(data, tiny_model, tmp_path, monkeypatch, capsys):
    export(tiny_model, tmp_path / "base")
    arguments = [str(data), "--model", str(tmp_path / "base"), "--name", "tiny", "--tasks", "gb1"]
    arguments += ["--runs", str(tmp_path / "runs"), "--output", str(tmp_path / "out.csv"), "--epochs", "1"]
    finetune.main([*arguments, "--methods", "probe", "head"])
    rows = read_rows(tmp_path / "out.csv")
    assert {(row["cell"], row["method"]) for row in rows} >= {
        ("probe", "probe"),
        ("head", "head"),
        ("head", finetune.SAME),
    }
    assert {row["task"] for row in rows} == {"GB1 two_vs_rest"}
    assert all(-1 <= float(row["value"]) <= 1 for row in rows if row["metric"] == "Spearman" and row["value"])
    assert "| GB1 two_vs_rest | tiny | head | head |" in capsys.readouterr().out

    def fail(*arguments, **options):
        raise AssertionError("a cell is fitted again")

    monkeypatch.setattr(finetune, "fit", fail)
    finetune.main([*arguments, "--methods", "probe", "head"])
    assert read_rows(tmp_path / "out.csv") == rows


def test_proteins_are_drawn_by_their_hashes(tmp_path):
    folder = tmp_path / "secondary_structure"
    folder.mkdir()
    headers = [f">p{number} SET={('train', 'test')[number % 2]} VALIDATION=False\nHEC\n" for number in range(900)]
    (folder / "sampled.fasta").write_text("".join(headers))
    one = TASKS["structure"](tmp_path, tmp_path).labels.read_text().splitlines()[::2]
    assert [sum(f"SET={part}" in line for line in one) for part in ("train", "test")] == [250, 100]
    (folder / "sampled.fasta").write_text("".join(reversed(headers)))
    assert TASKS["structure"](tmp_path, tmp_path).labels.read_text().splitlines()[::2] == one


def test_missing_data_are_named(tmp_path):
    with pytest.raises(UserError, match="deeploc_our_val_set.fasta: no such file"):
        TASKS["localisation"](tmp_path, tmp_path)


def test_the_validation_part_is_searched_once(tmp_path, capsys):
    path = tmp_path / "localisation.tsv"
    sequences, labels = proteins(60)
    rows = [("id", "sequence", "location", "split")]
    for number, (sequence, label) in enumerate(zip(sequences, labels, strict=True)):
        rows.append((f"p{number}", sequence, label, "test" if number >= 40 else "train"))
    path.write_text("".join("\t".join(row) + "\n" for row in rows))
    task = finetune.validated(Task("localisation", "accuracy", path), 0)
    parts = [line.rpartition("\t")[2] for line in task.labels.read_text().splitlines()[1:]]
    assert parts.count("valid") == 4
    assert parts[40:] == ["test"] * 20
    assert "4 training proteins for validation, 4 held-out clusters" in capsys.readouterr().out
    assert finetune.validated(Task("localisation", "accuracy", path), 0) == task
    assert not capsys.readouterr().out
