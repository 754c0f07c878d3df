"""Which runs start, resume or are refused, and how they are launched."""

import doctest
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.quality import __main__ as quality
from benchmarks.quality import concat, corpora, recipe, report, runs, table
from benchmarks.quality import time as timing
from benchmarks.quality.recipe import Comparison, Run
from protlm.errors import UserError
from tests.benchmarks.quality.comparison import ALL, EXACT, RELU, call, command, finished, lines


@pytest.mark.parametrize("module", [quality, concat, corpora, report])
def test_docstring_examples(module: Any) -> None:
    assert doctest.testmod(module).failed == 0


def test_runs_have_results_and_a_second_call_does_nothing(trained: Path, monkeypatch, capsys) -> None:
    for name, kind in ((EXACT, "exact"), (RELU, "relu")):
        assert set(json.loads((trained / name / "results.json").read_text())) == {"test", "ood"}
        about = json.loads((trained / name / "run.json").read_text())
        assert about["config"]["model"]["attention"] == kind
        assert [point["step"] for point in runs.read_curve(trained / name)] == [3, 6]
    monkeypatch.setattr(subprocess, "Popen", None)
    assert call(command(trained)) == 0
    assert capsys.readouterr().out.count(": already done\n") == 2


def test_other_options_are_noticed(work: Path, started: list, monkeypatch, capsys) -> None:
    with pytest.raises(UserError, match=r"1 run .*relu/1: trainer.max_steps 6 is now 7.*--redo"):
        call(command(work, kinds="relu", steps=7))
    with monkeypatch.context() as patch:
        patch.setattr(quality, "SAMPLE", ALL)  # another corpus of the same name
        with pytest.raises(UserError, match=r"relu/1: data.corpus .* is now"):
            call(command(work, kinds="relu"))
    assert not started
    assert call(command(work, kinds="relu", steps=7, more=["--redo"])) == 0
    assert started == [(RELU, False)]
    assert call(command(work, kinds="relu", steps=7, more=["--ignore", "trainer.max_steps"])) == 0
    assert len(started) == 1


def test_a_failed_run_starts_again_and_leaves_no_other_record(work: Path, started: list, capsys) -> None:
    (work / RELU / "results.json").unlink()
    assert call(command(work)) == 0
    assert started == [(RELU, True)]
    folders = {path.name for path in work.iterdir()}
    assert folders == {"corpora", "families"}  # no list of runs that could disagree with the folders


@pytest.mark.slow
def test_a_killed_run_resumes(tmp_path: Path, capsys) -> None:
    arguments = [*command(tmp_path, kinds="opt", steps=80), "trainer.val_check_interval=40"]
    arguments.append("callbacks.checkpoint.every_n_train_steps=10")
    folder = tmp_path / "families" / "bidirectional" / "opt" / "1"

    def kill() -> None:
        limit = time.monotonic() + 120
        while not (folder / "checkpoints" / "last.ckpt").exists() and time.monotonic() < limit:
            time.sleep(0.02)
        if callable(signal.getsignal(signal.SIGTERM)):  # otherwise nothing is running any more
            os.kill(os.getpid(), signal.SIGTERM)

    killer = threading.Thread(target=kill)
    killer.start()
    assert call(arguments) == 128 + signal.SIGTERM
    killer.join()
    assert "1 run left; the same command resumes" in capsys.readouterr().out
    assert not (folder / "results.json").exists()
    assert call(arguments) == 0
    said = capsys.readouterr().out
    assert "opt/1: resumes" in said
    assert "s of training" in said
    about = json.loads((folder / "run.json").read_text())
    assert about["resumed_from"].endswith("last.ckpt")
    assert not (folder / "earlier-1").exists()
    assert runs.read_curve(folder)[-1]["step"] == 80
    assert json.loads((folder / "effort.json").read_text())["seconds"] > 0


def test_a_recipe_has_local_heads_only_if_there_are_any() -> None:
    """So that runs of a version without them still count."""
    options = ["+experiment=quality", "data.corpus=none", *quality.KINDS["relu"]]
    without, with_some = (
        recipe.recipe_of(recipe.composed([*options, *more])) for more in ([], ["model.local_heads=2"])
    )
    added = {name: value for name, value in with_some.items() if name not in without}
    assert added == {"model.local_heads": 2, "model.local_window": 128}
    assert {name: with_some[name] for name in without} == without
    assert table.shared_digits(without) == table.shared_digits(with_some)
    assert timing.step_recipe(without) != timing.step_recipe(with_some)


def test_a_full_table_of_one_seed_comes_first() -> None:
    order = quality.combinations([1, 2], ["families", "swissprot"], list(quality.DIRECTIONS), list(quality.KINDS))
    assert len(order) == len(set(order)) == 2 * 2 * (2 * len(quality.KINDS) - 1)
    assert [seed for *_, seed in order] == sorted(seed for *_, seed in order)
    assert {kind for _, _, kind, _ in order[:16]} == set(quality.FIRST)
    assert ("families", "causal", "linformer", 1) not in order


class Process:
    """A run that ends at the third poll; the one in the folder 2 fails."""

    running, most, threads = 0, 0, ""

    def __init__(self, command: list[str], env: dict[str, str], **_: Any) -> None:
        (folder,) = (option.split("=")[1].strip("'") for option in command if option.startswith("hydra.run.dir"))
        self.returncode, self.looks, self.folder = 0, 0, Path(folder)
        Process.running += 1
        Process.most, Process.threads = max(Process.most, Process.running), env["OMP_NUM_THREADS"]

    def poll(self) -> int | None:
        self.looks += 1
        if self.looks < 3:
            return None
        Process.running -= 1
        if self.folder.name == "2":
            self.folder.with_suffix(".log").write_text("some\nerror: no room\n")
            self.returncode = 2
            return 2
        self.folder.mkdir(parents=True)
        (self.folder / "results.json").write_text(json.dumps({"test": {"accuracy": 0.1}}))
        (self.folder / "effort.json").write_text(json.dumps({"seconds": 1.0}))
        return 0


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Process]]:
    Process.running = Process.most = 0
    monkeypatch.setattr(subprocess, "Popen", Process)
    monkeypatch.setattr(runs, "POLL", 0.0)
    return Process


def test_two_jobs_share_the_threads_and_a_failure_ends_only_its_run(
    processes: type[Process], tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    five = [Run(f"a/{number}", tmp_path / "c.h5", ()) for number in (1, 2, 3, 4, 5)]
    comparison = Comparison(tmp_path, {run.name: {"seed": 1} for run in five})
    assert runs.run_all(five, comparison, jobs=2) == 1
    assert (processes.most, processes.running, processes.threads) == (2, 0, "3")
    out = capsys.readouterr().out
    assert "a/2: failed with code 2: error: no room" in out
    assert out.count("s of training") == 4


def test_a_comparison_needs_a_run_and_has_each_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--kinds linformer: only defined for bidirectional models"):
        call(["train", "--corpora", "families", "--kinds", "linformer", "--directions", "causal", "--work", tmp_path])
    assert not list(tmp_path.iterdir())
    twice = quality.combinations([1, 1], ["families"] * 2, ["causal"] * 2, ["exact"])
    assert twice == [("families", "causal", "exact", 1)]


def test_user_errors_are_one_line_and_leave_nothing(tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit):
        call(["train", "x.fasta", "--clusters", "t.tsv", "--kinds", "exact,nonsense"])
    assert "nonsense: expected some of exact,relu" in capsys.readouterr().err
    with pytest.raises(UserError, match="none.h5: no such corpus"):
        call(["concat", tmp_path / "none.h5", "--work", tmp_path])
    with pytest.raises(UserError, match=r"^Could not override 'model.layrs'.* \(options: [^{}]*model.layrs=3\)$"):
        call([*command(tmp_path / "work"), "model.layrs=3"])
    with pytest.raises(UserError, match="width 15"):
        call([*command(tmp_path / "work"), "model.width=15"])
    with pytest.raises(UserError, match=r"model.local_heads 1.5: expected an integer"):
        call([*command(tmp_path / "work", kinds="relu_local"), "model.local_heads=1.5"])
    assert not list((tmp_path / "work").iterdir())  # not even a corpus
    swissprot = ["train", "--corpora", "families,swissprot", "--work", tmp_path / "none"]
    with pytest.raises(UserError, match="none.fasta: no such file"):
        call([*swissprot, tmp_path / "none.fasta", "--clusters", ALL.clusters])
    assert not (tmp_path / "none" / "corpora").exists()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"file: cannot be written \((Not a directory|File exists)\)"):
        call(["train", "--corpora", "families", "--work", tmp_path / "file"])
    for arguments in (["train", "--seeds", "0"], ["train", "--seeds", str(2**32)]):
        with pytest.raises(SystemExit) as left:
            call(arguments)
        assert left.value.code == 2
        assert "expected" in capsys.readouterr().err


def test_other_parts_refuse_bad_arguments_before_they_compute(tmp_path: Path) -> None:
    results = tmp_path / "r"
    results.mkdir()
    table.write_runs([finished("exact", 1, 0.2, [0.1, 0.2])], results)
    with pytest.raises(UserError, match="x.foo: expected a picture"):
        call(["report", "--work", tmp_path / "none", "--results", results, "--figure", tmp_path / "x.foo"])
    with pytest.raises(UserError, match="--kinds linformer: only defined for bidirectional models"):
        call(["time", "--kinds", "linformer", "--directions", "causal", "--csv", tmp_path / "t.csv"])
    garbage = tmp_path / "garbage.h5"
    garbage.write_text("none")
    with pytest.raises(UserError, match="garbage.h5"):
        call(["concat", garbage, "--work", tmp_path / "c", "--csv", tmp_path / "c.csv"])
    assert len(lines(results / "quality.csv")) == 1
