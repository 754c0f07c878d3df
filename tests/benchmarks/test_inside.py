"""The benchmark runs on tiny inputs; the figures themselves are not tested."""

import csv
import os
import signal
import subprocess
import sys
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from benchmarks import inside
from benchmarks.measure import program
from protlm.corpus.reader import Corpus
from protlm.sequence.alphabet import encode
from protlm.sequence.fasta import Record


def test_a_corpus_means_its_test_split(corpus_path: Path) -> None:
    corpus = Corpus(corpus_path)
    records = list(inside.records_of(str(corpus_path)))
    assert {record.id for record in records} == {corpus.ids()[index] for index in corpus.members("test")}
    for record in records:
        assert (encode(record.sequence) == corpus[corpus.ids().index(record.id)]).all()


@pytest.mark.slow
def test_it_writes_its_table_and_pictures(
    model_folder: Path, sample: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    out = tmp_path / "docs" / "results" / "inside.csv"
    options = [
        "--proteins",
        "40",
        "--longest",
        "200",
        "--controls",
        "1",
        "--csv",
        out,
        "--figures",
        tmp_path / "figures",
    ]
    monkeypatch.setattr("sys.argv", ["inside", *map(str, [model_folder, sample, *options])])
    moved, replace = [], os.replace
    monkeypatch.setattr("os.replace", lambda *paths: (moved.append(paths), replace(*paths)))
    inside.main()
    assert len(moved) == 4
    assert all(source.parent.parent == target.parent for source, target in moved)  # folders may be on different disks
    with out.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["weights"] for row in rows].count("random 1") == 5
    assert [row["similarity"] for row in rows if row["weights"] == "none"] == [inside.EVEN]
    assert {row["proteins"] for row in rows} == {"40"}
    assert all(-1 <= float(row["pearson"]) <= 1 and 0 < float(row["p_pearson"]) <= 1 for row in rows)
    names = sorted(path.name for path in (tmp_path / "figures").iterdir())
    assert names == ["attention_maps.png", "residues.png", "similarity.png"]
    assert [path.name for path in out.parent.iterdir()] == ["inside.csv"]
    assert "against BLOSUM62, 190 pairs" in capsys.readouterr().out


def test_a_user_error_is_one_line(model_folder: Path, sample: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    for arguments in ([tmp_path / "none", sample], [model_folder, tmp_path / "none"]):
        monkeypatch.setattr("sys.argv", ["inside", *map(str, arguments), "--csv", str(tmp_path / "i.csv")])
        with pytest.raises(SystemExit) as stop:
            program(inside.main)
        assert stop.value.code == 2
        assert capsys.readouterr().err.startswith("error: ")
    assert not (tmp_path / "i.csv").exists()
    (tmp_path / "empty.fasta").write_text(">a\n>b\n")
    for options, words in (
        (["--csv", tmp_path], "cannot be written (Is a directory)"),
        (["--figures", model_folder / "config.json"], "cannot be written"),
        (["--controls", "-3"], "--controls: invalid natural value"),
        ([], "empty.fasta"),
    ):
        fasta = sample if options else tmp_path / "empty.fasta"
        monkeypatch.setattr("sys.argv", ["inside", *map(str, [model_folder, fasta, *options])])
        monkeypatch.setattr(inside, "similarities", None)  # nothing is computed before
        with pytest.raises(SystemExit) as stop:
            program(inside.main)
        assert stop.value.code == 2
        assert words in capsys.readouterr().err


@pytest.mark.slow
def test_ctrl_c_during_imports_prints_no_traceback(tmp_path: Path) -> None:
    """Importing torch takes seconds; here a module of that name shadows it and waits for the signal."""
    (tmp_path / "torch.py").write_text("print('importing', flush=True)\nimport time\ntime.sleep(60)\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "benchmarks.inside", "model", "x.fasta"]
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment}
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # background jobs of a shell ignore it
    with subprocess.Popen(command, preexec_fn=heard, **options) as process:
        assert process.stdout
        assert process.stdout.readline() == "importing\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate()[1] == ""
    assert process.returncode == -signal.SIGINT  # 130 in a shell


def test_ctrl_c_ends_the_processes_of_a_benchmark_without_a_traceback() -> None:
    """They leave the signal to the system; a terminal sends it to all."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a new process has, too
    try:
        with get_context("spawn").Pool(1) as pool:
            assert pool.apply(signal.getsignal, (signal.SIGINT,)) == signal.default_int_handler
            pool.apply(exec, ("import benchmarks",))
            assert pool.apply(signal.getsignal, (signal.SIGINT,)) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGINT, before)


def test_proteins_are_sampled_uniformly_in_file_order() -> None:
    records = [Record(str(i), "", "M" * (i + 1)) for i in range(100)]
    drawn = [inside.drawn(records, 10, 60, seed) for seed in range(300)]
    assert inside.drawn(records, 500, 60) == records[:60]
    counts = [sum(record in one for one in drawn) for record in records]
    assert all(20 < count < 90 for count in counts[:60])
    assert not any(counts[60:])
    assert all([int(r.id) for r in one] == sorted({int(r.id) for r in one}) for one in drawn)
