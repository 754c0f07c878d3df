"""A tiny exact Transformer is switched to other kinds of attention and fine-tuned, with a row for every step."""

import csv
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import protlm
from benchmarks.quality.recipe import recipe_in
from benchmarks.switch import __main__ as switch
from benchmarks.switch import report as switch_report
from benchmarks.switch.report import Tuned
from protlm import train
from protlm.errors import UserError
from tests.benchmarks.quality.comparison import train_here
from tests.tiny import TINY

STEPS = ["trainer.max_steps=20", "trainer.val_check_interval=10", "trainer.limit_val_batches=1", "schedule.steps=2"]
DATA = ["trainer.limit_test_batches=2", "data.token_budget=2000", "optimizer.lr=2e-2", "model.positions=learned"]


def run_program(patch: pytest.MonkeyPatch, *arguments: object) -> None:
    patch.setattr(sys, "argv", ["protlm-train", *map(str, arguments)])
    train.main()


@pytest.fixture(scope="module")
def original(corpus_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run with exact attention."""
    folder = tmp_path_factory.mktemp("original")
    with pytest.MonkeyPatch.context() as patch:
        options = ["model.attention=exact", f"data.corpus={corpus_path}", f"hydra.run.dir={folder}"]
        run_program(patch, *TINY, *STEPS, *DATA, *options)
    return folder


@pytest.fixture
def call(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`python -m benchmarks.switch train` in this process; `call.trained` has the names of the runs."""
    trained: list[str] = []

    def run_all(runs, comparison, jobs) -> int:
        trained.extend(run.name for run in runs if not comparison.is_done(run.name))
        return train_here(runs, comparison)

    def program(*options: object) -> int:
        usual = ["--features", "8", "--percent", "0,10,25", "--limit", 2, "--work", tmp_path / "work"]
        monkeypatch.setattr(sys, "argv", ["switch", "train", *map(str, (original, *usual, *options))])
        return switch.main()

    monkeypatch.setattr(switch, "run_all", run_all)
    program.trained = trained  # type: ignore[attr-defined]
    return program


@pytest.mark.slow
def test_all_kinds_are_measured_from_the_switch_on(call, original: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    assert call() == call() == 0
    names = ["exact", "softmax_8", "softmax_8_fixed", "hyperbolic_4", "hyperbolic_4_fixed", "relu"]
    assert call.trained == names  # the second call has nothing to do
    work = tmp_path / "work"
    assert {recipe_in(work / name)["optimizer.lr"] for name in names} == {4e-3}  # a fifth of the run's
    known = {name: json.loads((work / name / "along.json").read_text()) for name in names}
    assert all(list(points) == ["0", "2", "5"] for points in known.values())
    for split in ("test", "ood"):
        before = json.loads((original / "results.json").read_text())[split]
        assert known["exact"]["0"][split] == pytest.approx(before)  # the same weights and the same masked residues
        assert known["softmax_8"]["0"][split]["perplexity"] != known["exact"]["0"][split]["perplexity"]
        assert known["softmax_8"]["0"] == known["softmax_8_fixed"]["0"]
    models = {name: protlm.load(work / name / "checkpoints" / "last.ckpt") for name in names}
    assert models["softmax_8"].draw_number > models["softmax_8_fixed"].draw_number == 0
    assert not torch.equal(models["exact"].head.weight, protlm.load(original / "checkpoints/best.ckpt").head.weight)

    files = ["--csv", tmp_path / "s.csv", "--figure", tmp_path / "s.png"]
    monkeypatch.setattr(sys, "argv", ["switch", "report", "--work", str(work), *map(str, files)])
    assert switch.main() == 0
    with (tmp_path / "s.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 * 3 * 2
    assert {(row["step"], row["percent"]) for row in rows} == {("0", "0"), ("2", "10"), ("5", "25")}
    assert [row["redraw"] for row in rows[6::6]] == ["True", "False", "True", "False", "False"]
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    assert "Performer-softmax (hyperbolic, 2 x 4), no redraw" in capsys.readouterr().out

    with pytest.raises(UserError, match=r"6 runs .*along.limit 2 is now 3"):
        call("--limit", 3)
    about = json.loads((original / "run.json").read_text())
    longer = json.loads(json.dumps(about))
    longer["config"]["trainer"]["max_steps"] *= 2
    (original / "run.json").write_text(json.dumps(longer))
    with pytest.raises(UserError, match="6 runs "):
        call()
    assert json.loads((work / "original.json").read_text())["steps"] == 20  # those of the runs in the folder
    (original / "run.json").write_text(json.dumps(about))
    (work / "relu" / "results.json").unlink()
    monkeypatch.setattr(sys, "argv", ["switch", "report", "--work", str(work), *map(str, files)])
    assert switch.main() == 0
    assert "1 of 6 runs have not finished: relu" in capsys.readouterr().out
    assert call() == 0
    assert call.trained[6:] == ["relu"]
    assert json.loads((work / "relu" / "along.json").read_text()) == known["relu"]


def test_only_finished_runs_with_exact_attention_are_accepted(original: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run of protlm.train"):
        switch.original_run(tmp_path)
    about = json.loads((original / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match="has not finished"):
        switch.original_run(tmp_path)
    about["config"]["model"]["attention"] = "relu"
    (tmp_path / "run.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match="has relu attention"):
        switch.original_run(tmp_path)


def test_the_initial_model_is_named_by_its_content(original: Path, tmp_path: Path) -> None:
    path = switch.initial_model(original, tmp_path)
    assert switch.initial_model(original, tmp_path) == path
    weights = protlm.load(original / "checkpoints" / "best.ckpt").state_dict()
    assert all(torch.equal(weight, weights[name]) for name, weight in protlm.load(path).state_dict().items())


def test_a_folder_of_another_benchmark_is_refused(tmp_path: Path) -> None:
    (tmp_path / "original.json").write_text('{"steps": 20}')
    (tmp_path / "relu").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "run.json").touch()
    with pytest.raises(UserError, match="none of 0 runs has finished"):
        switch_report.report(tmp_path, tmp_path / "s.csv", tmp_path / "s.png")
    for odd in ("[]", '{"a": {}}', '{"0": {"test": {"accuracy": 0.1}}}', '{"0": [1]}'):
        (tmp_path / "relu" / "along.json").write_text(odd)
        with pytest.raises(UserError, match="along.json: not of this benchmark; remove it, and train again"):
            switch_report.read_tuned(["relu"], tmp_path)
    (tmp_path / "original.json").write_text("{}")
    with pytest.raises(UserError, match="original.json: not of this benchmark"):
        switch_report.read_tuned([], tmp_path)


def test_the_table_has_a_dash_where_nothing_was_measured() -> None:
    def point(accuracy: float) -> dict[str, dict[str, float]]:
        row = {"accuracy": accuracy, "perplexity": 10.0, "unigram_accuracy": 0.09, "unigram_perplexity": 18.0}
        return {"test": row}

    runs = [Tuned("exact", {0: point(0.25), 10: point(0.26)}), Tuned("softmax_64", {0: point(0.1)})]
    table = switch_report.tables(runs, 100).splitlines()
    assert "before the switch 25.00, unigram 9.00" in table[0]
    bits = switch_report.tables(runs, 100, "bits").splitlines()[0]
    assert f"bits per byte against steps of fine-tuning in % of 100 (before the switch {math.log2(10):.2f}" in bits
    assert table[2].startswith("| attention | after the switch | 10.0 % |")
    assert table[4] == "| exact Transformer | 25.00 | 26.00 | 10.00 |"
    assert table[5] == "| Performer-softmax (positive, M=64) | 10.00 | - | - |"


@pytest.mark.parametrize(
    "options", [["--percent", "nan"], ["--percent", "inf"], ["--percent", "x"], ["--lr", "0"], ["--lr", "nan"]]
)
def test_invalid_numbers_are_refused(options: list[str], tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["switch", "train", str(tmp_path), *options])
    with pytest.raises(SystemExit) as left:
        switch.main()
    assert left.value.code == 2
    assert f"{options[0]}: {options[1]}: expected" in capsys.readouterr().err
