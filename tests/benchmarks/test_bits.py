"""The comparison in bits per byte, on a corpus and runs of a moment."""

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from benchmarks.bits import __main__ as bits
from benchmarks.bits.completions import completed, draw, held_out
from benchmarks.bits.runs import measured
from benchmarks.bits.studies import IMAGES, STUDIES, TEXT
from benchmarks.quality.recipe import composed
from benchmarks.quality.runs import EFFORT
from benchmarks.switch import __main__ as switch
from protlm.corpus.ingest import Selection
from protlm.corpus.prepare import prepare_corpus
from protlm.corpus.splits import SplitRule
from protlm.errors import UserError
from protlm.performer import Performer, PerformerConfig
from protlm.sequence.alphabets import alphabet_of
from tests.benchmarks.quality.comparison import lines, train_here
from tests.tiny import TINY

SMALL = [*(option for option in TINY if "progress" not in option), "trainer.val_check_interval=2"]
SMALL += ["trainer.limit_val_batches=1", "trainer.limit_test_batches=1", "trainer.log_every_n_steps=1"]
SMALL += ["data.max_length=32", "data.token_budget=64", "model.num_features=4"]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Documents of bytes."""
    files = []
    for number in range(20):
        files.append(tmp_path / f"{number}.txt")
        files[-1].write_bytes(f"document {number}, of a few words\n".encode() * (10 + number))
    selection = Selection(alphabet=alphabet_of("bytes"))
    rule = SplitRule(0.2, 0.2, held_out=frozenset({"3.txt"}))
    prepare_corpus(files, tmp_path / "corpus.h5", rule, selection)
    return tmp_path / "corpus.h5"


def call(arguments: Sequence[object]) -> int:
    """`python -m benchmarks.bits`, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["bits", *map(str, arguments)])
        return bits.main()


def write_run(folder: Path, losses: Sequence[float], finished: bool) -> None:
    """The files of a run with one validation."""
    (folder / "metrics").mkdir(parents=True)
    rows = [f"{10 * number - 1},{loss},,\n" for number, loss in enumerate(losses, 1)]
    rows.append(f"{10 * len(losses) - 1},,{8.0},{1234}\n")
    (folder / "metrics" / "metrics.csv").write_text("step,train/loss,valid/perplexity,train/residues\n" + "".join(rows))
    (folder / "run.json").write_text(json.dumps({"config": {"trainer": {"max_steps": 20}}}))
    if finished:
        row = {"accuracy": 0.5, "perplexity": 4.0, "unigram_accuracy": 0.1, "unigram_perplexity": 32.0}
        (folder / "results.json").write_text(json.dumps({"test": row}))
        (folder / EFFORT).write_text(json.dumps({"seconds": 40.0, "parameters": 1000}))


@pytest.mark.parametrize("study", STUDIES)
def test_options_of_all_kinds_are_known(study: str) -> None:
    for kind in STUDIES[study].kinds.values():
        config = composed([f"+experiment={STUDIES[study].experiment}", *kind.options])
        assert config.model.causal


@pytest.mark.slow
def test_runs_are_trained_reported_and_switched(corpus: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(bits, "run_all", train_here)
    arguments = ["train", "text", corpus, "--work", tmp_path / "work", "--kinds", "relu,exact", "--steps", 4]
    assert call([*arguments, "--overrides", *SMALL]) == 0
    table, figure = tmp_path / "text.csv", tmp_path / "text.png"
    assert call(["report", "text", "--work", tmp_path / "work", "--csv", table, "--figure", figure]) == 0
    rows = lines(table)
    assert [(row["kind"], row["split"], row["steps"], row["state"]) for row in rows] == [
        (kind, split, "4", "finished") for kind in ("exact", "relu") for split in ("test", "ood")
    ]
    results = json.loads((tmp_path / "work" / "text" / "relu" / "1" / "results.json").read_text())
    assert float(rows[2]["bits"]) == pytest.approx(math.log2(results["test"]["perplexity"]), rel=1e-5)
    assert figure.stat().st_size > 0
    assert "| ReLU | 1 |" in capsys.readouterr().out
    curves = lines(tmp_path / "text_curves.csv")
    assert [row["step"] for row in curves if (row["kind"], row["split"]) == ("relu", "valid")] == ["2", "4"]

    monkeypatch.setattr(switch, "run_all", lambda runs, *_: train_here(runs[:2], *_))  # exact and positive features
    original = tmp_path / "work" / "text" / "exact" / "1"
    options = ["--features", 4, "--percent", "0,50", "--limit", 1, "--work", tmp_path / "switch"]
    monkeypatch.setattr(sys, "argv", ["switch", "train", *map(str, (original, *options))])
    assert switch.main() == 0
    along = [json.loads((tmp_path / "switch" / name / "along.json").read_text()) for name in ("exact", "softmax_4")]
    assert [list(points) for points in along] == [["0", "2"]] * 2
    assert along[0]["0"]["test"]["perplexity"] != along[1]["0"]["test"]["perplexity"]


@pytest.mark.slow
def test_pictures_are_completed_by_a_trained_model(tmp_path: Path, monkeypatch) -> None:
    np.random.default_rng(1).integers(0, 256, (20, 48), dtype=np.uint8).tofile(tmp_path / "a.raw")
    held = frozenset({f"a.raw:{n * 48 + 1}-{(n + 1) * 48}" for n in range(3)})
    selection = Selection(alphabet=alphabet_of("bytes"), cut=48)
    rule = SplitRule(0.2, 0, held_out=held)
    prepare_corpus([tmp_path / "a.raw"], tmp_path / "pictures.h5", rule, selection)
    monkeypatch.setattr(bits, "run_all", train_here)
    arguments = ["train", "images", tmp_path / "pictures.h5", "--work", tmp_path / "work", "--kinds", "relu_6"]
    options = [*SMALL, "data.max_length=50", "data.sample_by=protein"]
    assert call([*arguments, "--steps", 2, "--overrides", *options]) == 0
    figure = tmp_path / "a.png"
    pictures = ["draw", "images", tmp_path / "pictures.h5", "--pictures", 2]
    assert call([*pictures, "--work", tmp_path / "work", "--figure", figure]) == 0
    assert figure.stat().st_size > 0


def test_bits_are_logarithms_to_base_2(tmp_path: Path) -> None:
    write_run(tmp_path / "relu" / "1", [2 * math.log(2), math.log(2)], finished=True)
    (run,) = measured(TEXT, tmp_path)
    assert run.results == {"test": {"bits": 2.0, "unigram_bits": 5.0, "accuracy": 0.5}}
    assert run.curves == {"train": [(10, pytest.approx(2)), (20, pytest.approx(1))], "valid": [(20, 3.0)]}
    assert (run.seconds, run.bytes, run.state) == (2.0, 1234, "finished")


def test_runs_that_did_not_finish_are_reported_as_such(tmp_path: Path, capsys) -> None:
    work = tmp_path / "work"
    write_run(work / "text" / "trig" / "1", [1.0, math.nan], finished=False)
    write_run(work / "text" / "relu" / "1", [1.0], finished=False)
    (work / "text" / "exact" / "1").mkdir(parents=True)
    table = tmp_path / "text.csv"
    assert call(["report", "text", "--work", work, "--csv", table, "--figure", tmp_path / "text.png"]) == 0
    assert [(row["kind"], row["state"], row["bits"]) for row in lines(table)] == [
        ("trig", "loss not finite by step 20", ""),
        ("relu", "step 10 of 20", ""),
    ]
    assert "| trigonometric, redrawn | 1 | - | loss not finite by step 20 | - |" in capsys.readouterr().out


@pytest.mark.slow
def test_time_is_measured_at_the_length_of_each_kind(tmp_path: Path, capsys) -> None:
    assert call(["time", "text_short", "--kinds", "exact,relu", "--repeats", 1, "--csv", tmp_path / "time.csv"]) == 0
    rows = lines(tmp_path / "time.csv")
    assert [(row["kind"], row["length"]) for row in rows] == [("exact", "512"), ("relu", "512")]
    assert all(float(row["processor_seconds"]) > 0 for row in rows)
    assert "| ReLU | 512 | 3 |" in capsys.readouterr().out


def test_wrong_inputs_are_named(corpus: Path, corpus_path: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--kinds rel: expected some of exact,softmax"):
        call(["train", "text", corpus, "--kinds", "rel", "--work", tmp_path])
    with pytest.raises(UserError, match="expected a corpus of bytes"):
        call(["train", "text", corpus_path, "--work", tmp_path])
    with pytest.raises(UserError, match="has no runs of this study"):
        call(["report", "images", "--work", tmp_path, "--csv", tmp_path / "a.csv", "--figure", tmp_path / "a.png"])
    with pytest.raises(UserError, match="has no held-out square pictures"):
        call(["draw", "images", corpus, "--work", tmp_path, "--figure", tmp_path / "a.png"])


def test_completions_keep_what_is_given(tmp_path: Path) -> None:
    picture = np.arange(48, dtype=np.uint8)
    config = PerformerConfig(260, 257, 1, 1, 8, 8, causal=True, max_length=64, num_features=4, alphabet="bytes")
    drawn = completed(Performer(config).eval(), picture, seed=1)
    assert drawn[:24].tolist() == picture[:24].tolist()
    assert (drawn.shape, drawn.dtype) == ((48,), np.uint8)


def test_held_out_pictures_are_drawn(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (3, 48), dtype=np.uint8)
    pixels.tofile(tmp_path / "cat.raw")
    dog = pixels[0, ::-1]
    dog.tofile(tmp_path / "dog.raw")
    held = frozenset({f"cat.raw:{n * 48 + 1}-{(n + 1) * 48}" for n in range(3)})
    selection = Selection(alphabet=alphabet_of("bytes"), cut=48)
    files = [tmp_path / "cat.raw", tmp_path / "dog.raw"]
    prepare_corpus(files, tmp_path / "pictures.h5", SplitRule(0, 0.99, held_out=held), selection)
    found = held_out(tmp_path / "pictures.h5", 2)
    assert len(found) == 3
    assert np.array_equal(found[0], dog)  # of the test split
    assert {one.tobytes() for one in found[1:]} < {one.tobytes() for one in pixels}
    draw({"original": found, next(iter(IMAGES)): found}, tmp_path / "drawn.png")
    assert (tmp_path / "drawn.png").stat().st_size > 0
