"""Predictions of whole files: the same bytes after a stop or a kill, the same values from shards."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pandas
import pytest

import protlm as library
from protlm.embedding import survey
from protlm.embedding.merge import merge_shards
from protlm.embedding.resumable import ResumableInterrupt
from protlm.errors import UserError
from protlm.model_api import example
from protlm.supervised.prediction_layouts import layouts
from protlm.supervised.prediction_output import predict_fasta
from protlm.supervised.predictor import Predictor, called
from tests.command import assert_refused
from tests.supervised.proteins import proteins

ROOT = Path(library.__file__).parents[1]


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    sequences, labels = proteins(24)
    table = pandas.DataFrame({"sequence": sequences, "label": labels, "split": ["train", "train", "test"] * 8})
    return library.fit(table, model=example(), relatives=False)


@pytest.fixture(scope="module")
def residues() -> Predictor:
    sequences, _ = proteins(24)
    letters = ["".join("+" if one in "KR" else "o" for one in sequence) for sequence in sequences]
    table = pandas.DataFrame({"sequence": sequences, "charge": letters, "split": ["train", "train", "test"] * 8})
    return library.fit(table, model=example(), relatives=False)


@pytest.fixture
def fasta(write_fasta, monkeypatch) -> Path:
    """Twenty-four proteins in windows of about 300 residues; some have the same sequence or identifier."""
    monkeypatch.setattr(survey, "WINDOW_TOKENS", 300)
    monkeypatch.setattr(os, "sync", lambda: None)
    sequences, _ = proteins(20, seed=3)
    return write_fasta((f"p{number % 22}", sequence) for number, sequence in enumerate(sequences + sequences[:4]))


def stop_after(calls: int):
    def progress(done: int, total: int) -> None:
        nonlocal calls
        calls -= 1
        if not calls:
            raise KeyboardInterrupt

    return progress


def content(path: Path) -> list:
    """Everything in a file of predictions but its description."""
    if path.suffix == ".h5":
        with h5py.File(path) as file:
            return [(name, file[name][:].tolist(), sorted(file[name].attrs)) for name in file]
    return pandas.read_parquet(path).to_numpy().tolist() if path.suffix == ".parquet" else [path.read_bytes()]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".h5"])
def test_a_stopped_run_gives_the_same_bytes(predictor, fasta, tmp_path, suffix):
    whole, parts = tmp_path / f"whole{suffix}", tmp_path / f"parts{suffix}"
    predict_fasta(predictor, "x", fasta, whole)
    with pytest.raises(ResumableInterrupt, match="repeat the command to resume"):
        predict_fasta(predictor, "x", fasta, parts, progress=stop_after(14))
    assert not parts.exists()
    summary = predict_fasta(predictor, "x", fasta, parts)
    assert 0 < summary.computed < summary.residues
    assert summary.copied == 4
    assert parts.read_bytes() == whole.read_bytes()
    assert predict_fasta(predictor, "x", fasta, parts).complete
    assert not list(tmp_path.glob(".*"))


def test_other_predictions_are_replaced_only_on_request(predictor, fasta, tmp_path):
    predict_fasta(predictor, "x", fasta, tmp_path / "out.csv")
    with pytest.raises(UserError, match=r"already exists, but was made differently \(model: y instead of x|x instead"):
        predict_fasta(predictor, "y", fasta, tmp_path / "out.csv")
    predict_fasta(predictor, "y", fasta, tmp_path / "out.csv", overwrite=True)
    assert predict_fasta(predictor, "y", fasta, tmp_path / "out.csv").complete


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".h5", ".fasta"])
def test_shards_join_to_what_one_run_writes(residues, fasta, tmp_path, suffix, monkeypatch):
    """The shards have the windows of the whole run, so that batches are the same."""
    monkeypatch.setattr(survey, "WINDOW_TOKENS", 1)
    whole, merged = tmp_path / f"whole{suffix}", tmp_path / f"merged{suffix}"
    predict_fasta(residues, "x", fasta, whole)
    shards = [tmp_path / f"{number}{suffix}" for number in (1, 2, 3)]
    for number, shard in enumerate(shards, start=1):
        predict_fasta(residues, "x", fasta, shard, shard=(number, 3))
    description = merge_shards([shards[2], shards[0], shards[1]], merged, layouts=layouts())
    assert description["proteins"] == 24
    assert content(merged) == content(whole)
    assert predict_fasta(residues, "x", fasta, merged).complete
    with pytest.raises(UserError, match="1 of 3 shards missing: 2"):
        merge_shards([shards[0], shards[2]], tmp_path / f"other{suffix}", layouts=layouts())
    with pytest.raises(UserError, match="not embeddings or predictions of protlm"):
        merge_shards(shards, tmp_path / f"other{suffix}")


SCRIPT = """
import os, signal, sys
from protlm.embedding import survey
survey.WINDOW_TOKENS = 300
os.sync = lambda: None
replace, calls = os.replace, 0
def dying(*given, **named):  # a kill when the third window is complete
    global calls
    calls += 1
    if calls == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(*given, **named)
if sys.argv.pop(1) == "die":
    os.replace = dying
from protlm.cli import main
main()
"""


@pytest.mark.slow
def test_a_killed_command_is_repeated(predictor, fasta, tmp_path):
    predictor.save(tmp_path / "fitted", copy_base=True)

    def run(mode: str, output: Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", SCRIPT, mode, "predict", fasta, "-m", tmp_path / "fitted", "-o", output]
        return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})

    killed, whole = tmp_path / "killed.csv", tmp_path / "whole.csv"
    assert run("die", killed).returncode == -signal.SIGKILL
    assert not killed.exists()
    assert (tmp_path / ".killed.csv.partial").is_dir()
    outcome = run("live", killed)
    assert outcome.returncode == 0, outcome.stderr
    assert "computed by an earlier run" in outcome.stderr
    assert run("live", whole).returncode == 0
    assert killed.read_bytes() == whole.read_bytes()


def test_predictions_along_a_protein_are_drawn(protlm, residues, write_fasta, tmp_path):
    folder, picture = tmp_path / "fitted", tmp_path / "track.png"
    residues.save(folder, copy_base=True)
    one = write_fasta([("a", proteins(1)[0][0])])
    outcome = protlm("predict", one, "-m", folder, "--picture", picture)
    assert outcome.code == 0
    assert outcome.out == ""
    assert picture.read_bytes().startswith(b"\x89PNG")
    two = write_fasta([("a", "MKTAYIAK"), ("b", "MKTAYIAK")], "two.fasta")
    assert_refused(protlm("predict", two, "-m", folder, "--picture", picture), "expected a file with one")
    assert_refused(protlm("predict", one, "-m", folder, "--picture", tmp_path / "x.gif"), "expected a file name")
    assert_refused(protlm("predict", one, "-m", folder, "--shard", "1/2"), "--shard requires --output")


def test_a_picture_needs_a_target_per_residue(protlm, predictor, write_fasta, tmp_path):
    predictor.save(tmp_path / "fitted", copy_base=True)
    one = write_fasta([("a", "MKTAYIAK")])
    outcome = protlm("predict", one, "-m", tmp_path / "fitted", "--picture", tmp_path / "track.png")
    assert_refused(outcome, "label is predicted per protein; a picture shows targets per residue")


def test_values_of_the_stream_and_of_the_file_agree(protlm, predictor, fasta, tmp_path):
    predictor.save(tmp_path / "fitted", copy_base=True)
    printed = protlm("predict", fasta, "-m", tmp_path / "fitted")
    assert protlm("predict", fasta, "-m", tmp_path / "fitted", "-o", tmp_path / "out.parquet").code == 0
    (tmp_path / "printed.csv").write_text(printed.out)
    one, other = pandas.read_csv(tmp_path / "printed.csv"), pandas.read_parquet(tmp_path / "out.parquet")
    assert one["id"].tolist() == other["id"].tolist()
    np.testing.assert_allclose(one["label:basic"], other["label:basic"], atol=1e-3)


def test_a_rare_class_is_predicted_from_its_threshold(residues):
    report = {"targets": [{"name": "charge", "threshold": {"class": "+", "probability": 0.1}}]}
    rare = Predictor(residues.model, residues.heads, report, residues.base)
    assert called(residues.head(), np.array([[0.2, 0.8], [0.05, 0.95], [0.9, 0.1]])) == "oo+"
    assert called(rare.head(), np.array([[0.2, 0.8], [0.05, 0.95], [0.9, 0.1]])) == "+o+"


@pytest.mark.slow
def test_two_ranks_write_the_file_of_two_shards(protlm, predictor, fasta, tmp_path):
    predictor.save(tmp_path / "fitted", copy_base=True)
    command = ["predict", str(fasta), "-m", str(tmp_path / "fitted"), "--device", "cpu", "-o"]
    for number in "12":
        assert protlm(*command, tmp_path / f"{number}.csv", "--shard", f"{number}/2").code == 0
    assert protlm("merge", tmp_path / "1.csv", tmp_path / "2.csv", "-o", tmp_path / "merged.csv").code == 0
    ranks = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "protlm"]
    ranks += [*command, str(tmp_path / "out.csv")]
    done = subprocess.run(ranks, capture_output=True, text=True, timeout=200)
    assert (done.returncode, done.stderr.count("24 proteins")) == (0, 1), done.stderr
    assert (tmp_path / "out.csv").read_bytes() == (tmp_path / "merged.csv").read_bytes()
    assert not list(tmp_path.glob(".out*"))
    again = subprocess.run(ranks, capture_output=True, text=True, timeout=200)
    assert (again.returncode, again.stderr.count("already complete")) == (0, 1)
