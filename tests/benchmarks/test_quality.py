"""The comparison of kinds of attention, on sizes that take a moment: what is run, gone on with, noticed, reported."""

import csv
import doctest
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hydra.utils import instantiate

from benchmarks import (
    quality,
    quality_concat,
    quality_corpora,
    quality_plan,
    quality_report,
    quality_runs,
    quality_table,
    quality_time,
    switch_report,
)
from benchmarks.quality_plan import Plan, Run, read_plan
from benchmarks.quality_table import Done
from protlm import train
from protlm.corpus.reader import Corpus
from protlm.errors import UserError
from protlm.training.optimizer import adamw
from protlm.training.task import LanguageModelTask
from tests.conftest import DATA
from tests.tiny import TINY

ALL = quality_corpora.Sources(DATA / "families.fasta.gz", DATA / "families.clusters.tsv", ood_share=0.1)
FEW = ["trainer.limit_val_batches=1", "trainer.limit_test_batches=1", "trainer.log_every_n_steps=1"]
SMALL = [
    *(option for option in TINY if "progress" not in option),
    *FEW,
    "trainer.val_check_interval=3",
    "callbacks.checkpoint.every_n_train_steps=2",
]


def command(work: Path, *, kinds: str = "exact,relu", steps: int = 6, more: Sequence[str] = ()) -> list[str]:
    which = ["--corpora", "families", "--directions", "bidirectional", "--seeds", "1", "--kinds", kinds]
    return ["train", "--work", str(work), *which, "--steps", str(steps), *more, "--overrides", *SMALL]


def call(arguments: Sequence[object]) -> int:
    """`python -m benchmarks.quality`, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["quality", *map(str, arguments)])
        return quality.main()


def lines(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder with two runs that are done."""
    work = tmp_path_factory.mktemp("quality")
    assert call(command(work)) == 0
    return work


@pytest.fixture
def work(trained: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(trained, tmp_path / "work")


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """Nothing is trained; what would be begun, and whether it would go on."""
    found: list[tuple[str, bool]] = []

    def run_all(runs: Sequence[Run], plan: Plan, work: Path, jobs: int = 1) -> int:
        left = [run.name for run in runs if not plan.is_done(run.name, work)]
        found.extend((name, not plan.changes(name, work / name)) for name in left)
        return 0

    monkeypatch.setattr(quality, "run_all", run_all)
    return found


@pytest.mark.parametrize("module", [quality, quality_concat, quality_corpora, quality_report])
def test_examples(module: Any) -> None:
    assert doctest.testmod(module).failed == 0


def test_runs_have_results_and_a_second_call_does_nothing(trained: Path, monkeypatch, capsys) -> None:
    for kind in ("exact", "relu"):
        folder = trained / "families" / "bidirectional" / kind / "1"
        assert set(json.loads((folder / "results.json").read_text())) == {"test", "ood"}
        about = json.loads((folder / "run.json").read_text())
        assert about["config"]["model"]["attention"] == kind
        assert [point["step"] for point in quality_runs.read_curve(folder)] == [3, 6]
    monkeypatch.setattr(subprocess, "Popen", None)
    assert call(command(trained)) == 0
    assert capsys.readouterr().out.count(": done before\n") == 2


def test_other_options_are_noticed(work: Path, begun: list, monkeypatch, capsys) -> None:
    relu = "families/bidirectional/relu/1"
    with pytest.raises(UserError, match=r"2 runs .*exact/1: trainer.max_steps 6 is now 7.*--redo"):
        call(command(work, steps=7))
    with monkeypatch.context() as patch:
        patch.setattr(quality, "SAMPLE", ALL)  # another corpus of the same name
        with pytest.raises(UserError, match=r"exact/1: data.corpus .* is now"):
            call(command(work))
    capsys.readouterr()
    assert not begun
    assert call(command(work, kinds="relu", steps=7, more=["--redo"])) == 0
    assert begun == [(relu, False)]
    assert call(command(work, kinds="relu", steps=7, more=["--ignore", "trainer.max_steps"])) == 0
    assert len(begun) == 1


def test_a_killed_run_is_gone_on_with(work: Path, capsys) -> None:
    arguments = [*command(work, kinds="opt", steps=150), "trainer.val_check_interval=50"]
    folder = work / "families" / "bidirectional" / "opt" / "1"

    def kill() -> None:
        limit = time.monotonic() + 120
        while not (folder / "checkpoints" / "last.ckpt").exists() and time.monotonic() < limit:
            time.sleep(0.02)
        if callable(signal.getsignal(signal.SIGTERM)):  # else nothing is running any more
            os.kill(os.getpid(), signal.SIGTERM)

    killer = threading.Thread(target=kill)
    killer.start()
    assert call(arguments) == 128 + signal.SIGTERM
    killer.join()
    assert "1 runs are left to the next call" in capsys.readouterr().out
    assert not (folder / "results.json").exists()
    assert call(arguments) == 0
    assert "opt/1: goes on" in capsys.readouterr().out
    about = json.loads((folder / "run.json").read_text())
    assert about["resumed_from"].endswith("last.ckpt")
    assert not (folder / "earlier-1").exists()
    assert quality_runs.read_curve(folder)[-1]["step"] == 150


def test_the_report_says_what_is_missing_and_what_differs(work: Path, begun: list, tmp_path: Path, capsys) -> None:
    call(command(work, kinds="exact,relu,opt"))
    arguments = ["report", "--work", work, "--results", tmp_path / "r", "--figure", tmp_path / "f" / "f.png"]
    capsys.readouterr()
    assert call(arguments) == 0
    out = capsys.readouterr().out
    assert "1 of 3 runs of the plan are missing: families/bidirectional/opt/1" in out
    assert "Performer-ReLU" in out
    assert "differ" not in out
    assert "an estimate, since the runs themselves have shorter proteins" in out
    assert "with seed 1\n(decisions.md); the other kinds were not tuned" in out
    assert "no step at L=1,024 with the options of bidirectional/exact, bidirectional/relu\n" in out
    rows = lines(tmp_path / "r" / "quality.csv")
    assert [(row["kind"], row["split"]) for row in rows] == [
        (kind, split) for kind in ("exact", "relu") for split in ("test", "ood")
    ]
    for row in rows:
        folder = work / row["corpus"] / row["direction"] / row["kind"] / row["seed"]
        stored = json.loads((folder / "results.json").read_text())[row["split"]]
        assert float(row["accuracy"]) == pytest.approx(stored["accuracy"], rel=1e-4)
        assert float(row["seconds"]) > 0
        assert int(row["residues"]) > 6 * 64
        assert (row["steps"], int(row["parameters"]) > 1000) == ("6", True)
    assert len(lines(tmp_path / "r" / "quality_curves.csv")) == 2 * 2
    assert (tmp_path / "f" / "f.png").read_bytes().startswith(b"\x89PNG")
    plan = read_plan(work)
    recipes = {**plan.recipes, "families/bidirectional/relu/1": {**plan.recipes["families/bidirectional/relu/1"]}}
    recipes["families/bidirectional/relu/1"]["optimizer.lr"] = 7
    (*_, note) = quality_report.notes(Plan(recipes), quality_report.read_done(plan, work), [])
    assert note == "families/bidirectional: the runs differ in more than attention: optimizer.lr"


def test_runs_in_the_files_outlive_their_work_folder(work: Path, begun: list, tmp_path: Path, capsys) -> None:
    results = tmp_path / "r"
    arguments = ["report", "--work", work, "--results", results, "--figure", tmp_path / "f.png"]
    call(arguments)
    written = [(results / name).read_bytes() for name in ("quality.csv", "quality_curves.csv")]
    capsys.readouterr()
    shutil.rmtree(work / "families" / "bidirectional" / "relu")
    call(arguments)
    out = capsys.readouterr().out
    assert "1 runs are not in the work folder and were kept from quality.csv\n" in out
    assert "missing" not in out
    assert "differ" not in out
    assert [(results / name).read_bytes() for name in ("quality.csv", "quality_curves.csv")] == written
    lost = tmp_path / "lost"  # a plan that has never had it
    call(command(lost, kinds="exact"))
    shutil.copytree(work / "families", lost / "families")
    call(["report", "--work", lost, *arguments[3:]])
    assert "1 runs are not in the work folder" in capsys.readouterr().out
    assert [(results / name).read_bytes() for name in ("quality.csv", "quality_curves.csv")] == written
    call(["report", "--work", tmp_path / "none", *arguments[3:]])
    assert "2 runs are not in the work folder" in capsys.readouterr().out
    assert [(results / name).read_bytes() for name in ("quality.csv", "quality_curves.csv")] == written
    call(command(work, kinds="relu", steps=7, more=["--redo"]))  # a plan that has it with other options
    capsys.readouterr()
    call(arguments)
    assert "1 of 2 runs of the plan are missing: families/bidirectional/relu/1\n" in capsys.readouterr().out
    assert {row["kind"] for name in ("quality.csv", "quality_curves.csv") for row in lines(results / name)} == {"exact"}


def test_earlier_runs_with_other_options_are_named(work: Path, tmp_path: Path, capsys) -> None:
    results = tmp_path / "r"
    results.mkdir()
    quality_table.write_runs([done("relu", 7, 0.2, [0.1, 0.2])], results)
    text = [
        (results / name).read_text().replace("causal", "bidirectional")
        for name in ("quality.csv", "quality_curves.csv")
    ]
    for name, content in zip(("quality.csv", "quality_curves.csv"), text, strict=True):
        (results / name).write_text(content)
    arguments = ["report", "--work", work, "--results", results, "--figure", tmp_path / "f.png"]
    call(arguments)
    assert "differ in more than attention: options of earlier ones, kept from quality.csv\n" in capsys.readouterr().out
    assert "7" in {row["seed"] for row in lines(results / "quality.csv")}
    (results / "quality.csv").write_text("seed,kind\n1,relu\n")
    with pytest.raises(UserError, match=r"quality.csv: no table of 'python -m benchmarks.quality report'; remove it"):
        call(arguments)


@pytest.mark.parametrize("writes", [0, 1])
def test_a_kill_leaves_whole_tables(writes: int, tmp_path: Path, monkeypatch) -> None:
    old = [done("exact", 1, 0.2, [0.1, 0.2])]
    quality_table.write_runs(old, tmp_path)
    left = [None] * writes

    def replace(source: Path, target: Path) -> None:
        left.pop()  # IndexError is the kill
        source.rename(target)

    monkeypatch.setattr(quality_table, "os", SimpleNamespace(replace=replace))
    with pytest.raises(IndexError):
        quality_table.write_runs([*old, done("relu", 1, 0.3, [0.1, 0.3])], tmp_path)
    assert quality_table.read_runs(tmp_path) == old


def test_the_report_needs_a_run(work: Path, tmp_path: Path) -> None:
    arguments = ["report", "--work", work, "--results", tmp_path / "r", "--figure", tmp_path / "f.png"]
    for path in (work / "families" / "bidirectional").glob("*/1/results.json"):
        path.unlink()
    with pytest.raises(UserError, match="none of 2 runs is done"):
        call(arguments)
    (work / "plan.json").write_text("{}")
    with pytest.raises(UserError, match=r"plan.json: not a plan"):
        call(arguments)
    (work / "plan.json").unlink()
    with pytest.raises(UserError, match=r"plan.json: no such file"):
        call(arguments)
    assert not (tmp_path / "r").exists()


def done(kind: str, seed: int, accuracy: float, curve: Sequence[float]) -> Done:
    row = {"accuracy": accuracy, "perplexity": 10.0, "unigram_accuracy": 0.09, "unigram_perplexity": 18.0}
    points = [
        {"step": 10.0 * i, "accuracy": value, "perplexity": 9.0, "unigram_accuracy": 0.09, "unigram_perplexity": 18.0}
        for i, value in enumerate(curve, start=1)
    ]
    about = {
        "steps": 30,
        "residues": 1e6,
        "seconds": 60.0,
        "parameters": 1000,
        "features": 8,
        "shared": "s",
        "step": "r",
    }
    return Done("families", "causal", kind, seed, **about, results={"test": row}, curve=points)


def test_the_table_compares_with_the_exact_transformer_of_the_same_seed() -> None:
    runs = [done("exact", 1, 0.20, [0.1, 0.196, 0.2]), done("exact", 2, 0.30, [0.1, 0.2, 0.3])]
    runs += [done("relu", 1, 0.21, [0.194, 0.195, 0.21]), done("window", 1, 0.1, [0.1, 0.1, 0.1])]
    runs.append(done("softmax", 1, 0.1, [0.1, 0.1, 0.1]))
    table = quality_report.markdown(runs, {("causal", "exact", "r"): 6.0, ("causal", "relu", "r"): 3.0})
    head, _, *cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    assert head[:3] == ["attention", "seeds", "parameters"]
    assert head[-2:] == ["steps to exact's*", "minutes to it at L=1,024, estimated*"]
    assert cells[0] == ["exact Transformer", "2", "0.00 M", "25.00 ± 5.00", "", "10.00 ± 0.00", "25", "2.5"]
    assert cells[1] == ["Performer-ReLU", "1", "0.00 M", "21.00", "+1.00", "10.00", "20", "1.0"]
    assert cells[2][:3] == ["Performer-softmax (hyperbolic, 2 x 8)", "1", "0.00 M"]
    assert cells[3] == ["window", "1", "0.00 M", "10.00", "-10.00", "10.00", "-", "-"]
    assert cells[4][:4] == ["unigram", "", "", "9.00 ± 0.00"]


def test_local_heads_are_part_of_a_recipe_where_there_are_any() -> None:
    """So runs of a version without them are still those of the plan."""
    options = ["+experiment=quality", "data.corpus=none", *quality.KINDS["relu"]]
    recipes = [
        quality_plan.recipe_of(quality_plan.composed([*options, *more])) for more in ([], ["model.local_heads=2"])
    ]
    without, with_some = recipes
    added = {name: value for name, value in with_some.items() if name not in without}
    assert added == {"model.local_heads": 2, "model.local_window": 128}
    assert {name: with_some[name] for name in without} == without
    assert quality_table.shared_digits(without) == quality_table.shared_digits(with_some)
    assert quality_time.step_recipe(without) != quality_time.step_recipe(with_some)


def test_what_cannot_be_is_refused_before_anything_is_done(tmp_path: Path, capsys) -> None:
    with pytest.raises(UserError, match=r"model.local_heads 1.5: expected a whole number"):
        call([*command(tmp_path / "w", kinds="relu_local"), "model.local_heads=1.5"])
    results = tmp_path / "r"
    results.mkdir()
    quality_table.write_runs([done("exact", 1, 0.2, [0.1, 0.2])], results)
    with pytest.raises(UserError, match="x.foo: expected the name of a picture"):
        call(["report", "--work", tmp_path / "none", "--results", results, "--figure", tmp_path / "x.foo"])
    with pytest.raises(UserError, match="--kinds linformer: only defined for bidirectional models"):
        call(["time", "--kinds", "linformer", "--directions", "causal", "--csv", tmp_path / "t.csv"])
    garbage = tmp_path / "garbage.h5"
    garbage.write_text("none")
    with pytest.raises(UserError, match="garbage.h5"):
        call(["concat", garbage, "--work", tmp_path / "c", "--csv", tmp_path / "c.csv"])
    for arguments in (["train", "--seeds", "0"], ["train", "--seeds", str(2**32)]):
        with pytest.raises(SystemExit) as left:
            call(arguments)
        assert left.value.code == 2
        assert "expected" in capsys.readouterr().err
    assert not list((tmp_path / "w").glob("*"))


def test_a_full_table_of_one_seed_comes_first() -> None:
    order = quality.combinations([1, 2], ["families", "swissprot"], list(quality.DIRECTIONS), list(quality.KINDS))
    assert len(order) == len(set(order)) == 2 * 2 * (2 * len(quality.KINDS) - 1)
    assert [seed for *_, seed in order] == sorted(seed for *_, seed in order)
    assert {kind for _, _, kind, _ in order[:16]} == set(quality.FIRST)
    assert ("families", "causal", "linformer", 1) not in order


class Process:
    """A run that ends when it is looked at for the third time."""

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
    monkeypatch.setattr(quality_runs, "POLL", 0.0)
    return Process


def test_two_at_a_time_share_the_threads_and_a_failure_ends_only_its_run(
    processes: type[Process], tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 6)
    runs = [Run(f"a/{number}", tmp_path / "c.h5", ()) for number in (1, 2, 3, 4, 5)]
    plan = Plan({run.name: {"seed": 1} for run in runs})
    assert quality_runs.run_all(runs, plan, tmp_path, jobs=2) == 1
    assert (processes.most, processes.running, processes.threads) == (2, 0, "3")
    out = capsys.readouterr().out
    assert "a/2: failed with code 2: error: no room" in out
    assert out.count("s of training") == 4


def test_corpora_depend_only_on_what_they_are_made_from(tmp_path: Path, capsys) -> None:
    table = quality_corpora.table_of(ALL.clusters)
    path = quality_corpora.make_corpus("families", quality_corpora.SAMPLE, tmp_path)
    names = {split: corpus_ids(Corpus(path), split) for split in ("train", "valid", "test", "ood")}
    assert {table[name] for name in names["ood"]} == set((DATA / "families.ood.txt").read_text().split())
    trained_on = {table[name] for name in names["train"]}
    assert len(trained_on) == 17
    assert {table[name] for name in names["test"]} == trained_on
    before = path.stat().st_mtime_ns
    quality_corpora.make_corpus("families", quality_corpora.SAMPLE, tmp_path)
    assert path.stat().st_mtime_ns == before

    whole = Corpus(quality_corpora.make_corpus("swissprot", ALL, tmp_path))
    sides = [{table[name] for name in corpus_ids(whole, split)} for split in ("train", "valid", "test", "ood")]
    assert sum(map(len, sides)) == len(set.union(*sides)) == len(set(table.values()))
    assert sides[3] == set((tmp_path / "swissprot.ood.txt").read_text().split())
    assert len(sides[3]) == 2
    other = quality_corpora.Sources(ALL.fasta, ALL.clusters, ood_share=0.2)
    assert Corpus(quality_corpora.make_corpus("swissprot", other, tmp_path)).fingerprint != whole.fingerprint


def test_no_run_is_no_comparison_and_a_run_is_made_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--kinds linformer: only defined for bidirectional models"):
        call(["train", "--corpora", "families", "--kinds", "linformer", "--directions", "causal", "--work", tmp_path])
    assert not list(tmp_path.iterdir())
    twice = quality.combinations([1, 1], ["families"] * 2, ["causal"] * 2, ["exact"])
    assert twice == [("families", "causal", "exact", 1)]


def test_all_of_swissprot_needs_a_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give FASTA and --clusters TABLE, or --corpora families"):
        call(["train", "--work", tmp_path])
    one = tmp_path / "one.tsv"
    one.write_text("P1\tP1\nP1\tP2\n")
    with pytest.raises(UserError, match="names 1 clusters; expected 2 at least"):
        quality_corpora.make_corpus("swissprot", quality_corpora.Sources(ALL.fasta, one), tmp_path)


def corpus_ids(corpus: Corpus, split: str) -> list[str]:
    ids = corpus.ids()
    return [ids[index] for index in corpus.members(split)]


def test_steps_are_timed_at_two_lengths(tmp_path: Path, capsys) -> None:
    path = tmp_path / "t.csv"
    sizes = [option for option in SMALL if option.startswith("model.")]
    options = ["--kinds", "exact,relu", "--directions", "causal", "--repeats", 1, "--lengths", "16,32", "--csv", path]
    assert call(["time", *options, "--overrides", *sizes, "data.max_length=16", "data.token_budget=64"]) == 0
    rows = lines(path)
    assert [(row["kind"], row["length"], row["batch"]) for row in rows] == [
        ("exact", "16", "4"),
        ("relu", "16", "4"),
        ("exact", "32", "2"),
        ("relu", "32", "2"),
    ]
    found = quality_report.read_seconds(path, 32)
    assert {key[:2] for key in found} == {("causal", "exact"), ("causal", "relu")}
    assert quality_report.read_seconds(tmp_path / "none.csv") == {}
    one = ["time", "--kinds", "exact", *options[2:], "--overrides", *sizes, "data.max_length=16"]
    assert call([*one, "data.token_budget=64"]) == 0
    assert {(row["kind"], row["length"]) for row in lines(path)} == {(r["kind"], r["length"]) for r in rows}
    again = quality_report.read_seconds(path, 32)
    assert set(again) == set(found)
    assert again[key := next(key for key in found if key[1] == "relu")] == found[key]
    threads = torch.get_num_threads()
    path.write_text(path.read_text().replace(f",{threads},", f",{threads + 1},", 1))
    capsys.readouterr()
    assert call(["time", "--kinds", "relu", *one[3:], "data.token_budget=64", "--lengths", 64]) == 0
    assert "1 row of other options or threads left out" in capsys.readouterr().out
    assert {row["threads"] for row in lines(path)} == {str(threads)}
    assert sorted((r["kind"], r["length"]) for r in lines(path)) == [
        ("exact", "32"),
        ("relu", "16"),
        ("relu", "32"),
        ("relu", "64"),
    ]
    assert call([*one, "data.token_budget=128"]) == 0  # another recipe
    assert {row["kind"] for row in lines(path)} == {"exact"}
    assert not set(quality_report.read_seconds(path, 32)) & set(found)
    for odd in ("a,b\n1,2\n", "\0", path.read_text().replace("seconds", "minutes")):
        path.write_text(odd)
        with pytest.raises(UserError, match=r"t.csv: no table of 'python -m benchmarks.quality time'; remove it"):
            call([*one, "data.token_budget=64"])


def test_times_are_those_of_the_runs_options(trained: Path) -> None:
    """A step is timed with random weights at another length, and known by what else it depends on."""
    about = json.loads((trained / "families" / "bidirectional" / "relu" / "1" / "run.json").read_text())["overrides"]
    kept = [option for option in about if not option.startswith(("data.corpus", "hydra.", "ckpt_path"))]
    made, longer, other = (
        quality_time.step_recipe(quality_plan.recipe_of(quality_plan.composed([*kept, "data.corpus=none", *more])))
        for more in ([], ["data.max_length=99", "seed=5"], ["callbacks.redraw.every_n_steps=9"])
    )
    (run,) = [run for run in quality_report.read_done(read_plan(trained), trained) if run.kind == "relu"]
    assert run.step == made == longer != other


@pytest.mark.parametrize(
    ("kind", "options", "draws"),
    [
        ("reformer", [], 19),
        ("reformer", ["callbacks.redraw.until=0.5"], 10),
        ("softmax", ["callbacks.redraw.every_n_steps=3", "callbacks.redraw.until=0.65"], 4),
        ("softmax", [], 0),
        ("relu", [], 0),
    ],
)
def test_draws_are_as_many_as_in_training(kind: str, options: list[str], draws: int) -> None:
    sizes = ["model.layers=1", "model.width=16", "model.heads=2", "trainer.max_steps=20"]
    options = ["+experiment=quality", "data.corpus=none", f"model.attention={kind}", *sizes, *options]
    config = quality_plan.composed(options)
    step = quality_time.training_step(config, 16)
    step.run()
    assert step.model.draw_number == 0  # draws are timed apart
    callback, task = instantiate(config.callbacks.redraw), LanguageModelTask(step.model, adamw)
    trainer: Any = SimpleNamespace(global_step=0, max_steps=20)
    callback.on_train_start(trainer, task)
    for trainer.global_step in range(20):
        callback.on_train_batch_start(trainer, task, None, 0)
    assert step.model.draw_number == draws == pytest.approx(20 * step.draws)


def test_draws_count_in_the_time_of_a_step(monkeypatch) -> None:
    monkeypatch.setattr(quality_time.TrainingStep, "draw", lambda self: time.sleep(0.2))
    model: Any = None
    steps = {str(draws): quality_time.TrainingStep(model, lambda: None, draws) for draws in (0.0, 0.5)}
    found = quality_time.mean_seconds(steps, 1)
    assert found["0.0"] < 0.1 <= found["0.5"]


def test_blocks_compare_a_performer_with_a_transformer_as_fast(
    corpus_path: Path, tmp_path, monkeypatch, capsys
) -> None:
    def run_all(runs: Sequence[Run], plan: Plan, work: Path, jobs: int = 1) -> int:
        for run in runs:
            folder = (work / run.name).resolve()
            if not plan.is_done(run.name, work):
                monkeypatch.setattr(sys, "argv", ["train", *run.arguments(folder)])
                train.main()
                trained.append(run.name)
        return 0

    trained: list[str] = []
    tables: list[str] = []
    monkeypatch.setattr(quality_concat, "run_all", run_all)
    options = [
        "--layers",
        "1,2",
        "--widths",
        "8,16",
        "--heads",
        "1,2",
        "--repeats",
        1,
        "--steps",
        2,
        "--csv",
        tmp_path / "c.csv",
    ]
    sizes = ["data.max_length=256", "data.token_budget=512", "model.heads=2", "model.layers=1", "model.width=32", *FEW]
    arguments = ["concat", corpus_path, "--work", tmp_path / "work", *options, "--overrides", *sizes]
    usual = quality_concat.mean_seconds
    monkeypatch.setattr(quality_concat, "mean_seconds", lambda steps, repeats: dict.fromkeys(usual(steps, repeats), 1))
    for _ in range(2):  # the second time with what the first has chosen
        assert call(arguments) == 0
        said = capsys.readouterr().out
        assert "the Transformer has the greatest layers and width and heads of the grid" in said
        tables.append(said)
    assert trained == ["bidirectional/performer/1", "bidirectional/transformer/1"]
    assert ["a step at L=256" in said for said in tables] == [True, False]
    rows = lines(tmp_path / "c.csv")
    assert [(row["kind"], row["split"]) for row in rows][:3:2] == [("performer", "test"), ("transformer", "test")]
    assert {row["layers"] for row in rows if row["kind"] == "transformer"} <= {"1", "2"}
    assert all(float(row["seconds_per_step"]) > 0 and row["steps"] == "2" for row in rows)
    config = quality_plan.read_plan(tmp_path / "work" / "concat").recipes["bidirectional/transformer/1"]
    assert config["model.feed_forward"] == 4 * config["model.width"]


def test_mistakes_are_said_in_one_line(tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit):
        call(["train", "x.fasta", "--clusters", "t.tsv", "--kinds", "exact,nonsense"])
    assert "nonsense: expected some of exact,relu" in capsys.readouterr().err
    with pytest.raises(UserError, match="none.h5: no such corpus"):
        call(["concat", tmp_path / "none.h5", "--work", tmp_path])
    with pytest.raises(UserError, match=r"^Could not override 'model.layrs'.* \(options: [^{}]*model.layrs=3\)$"):
        call([*command(tmp_path / "work"), "model.layrs=3"])
    with pytest.raises(UserError, match="width 15"):
        call([*command(tmp_path / "work"), "model.width=15"])
    assert not list((tmp_path / "work").iterdir())  # no corpus is made, either
    swissprot = ["train", "--corpora", "families,swissprot", "--work", tmp_path / "none"]
    with pytest.raises(UserError, match="none.fasta: no such file"):
        call([*swissprot, tmp_path / "none.fasta", "--clusters", ALL.clusters])
    assert not (tmp_path / "none" / "corpora").exists()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"plan.json: cannot be written \((Not a directory|File exists)\)"):
        call(["train", "--corpora", "families", "--work", tmp_path / "file"])


def test_the_report_refuses_what_is_damaged_before_it_writes(work: Path, tmp_path: Path) -> None:
    results = tmp_path / "r"
    arguments = ["report", "--work", work, "--results", results, "--figure", tmp_path / "f.png"]
    folder = work / "families" / "bidirectional" / "exact" / "1"
    for name in ("results.json", "effort.json"):
        whole = (folder / name).read_text()
        (folder / name).write_text(whole[:-5])
        with pytest.raises(UserError, match=f"{name}: damaged .*; remove it, and train again"):
            call(arguments)
        (folder / name).write_text('{"test": {}}')
        with pytest.raises(UserError, match="exact/1: damaged .KeyError.*; remove it, and train again"):
            call(arguments)
        (folder / name).write_text(whole)
    metrics = folder / "metrics" / "metrics.csv"
    whole = metrics.read_text()
    metrics.write_text("none\n")
    with pytest.raises(UserError, match="exact/1: damaged .ValueError.*column step"):
        call(arguments)
    metrics.write_text(whole)
    results.mkdir()
    (tmp_path / "d.png").mkdir()
    (results / "quality_time.csv").write_text("x\n1\n")
    with pytest.raises(UserError, match="quality_time.csv: no table of"):
        call(arguments)
    (results / "quality_time.csv").unlink()
    with pytest.raises(UserError, match="cannot be written .Is a directory"):
        call([*arguments[:-1], tmp_path / "d.png"])
    assert not list(results.iterdir())
    if Path("/proc").is_dir():  # where not even root can write
        with pytest.raises(UserError, match=r"f.png: cannot be written \("):
            call([*arguments[:-1], "/proc/f.png"])
    with pytest.raises(UserError, match="not a folder of 'python -m benchmarks.switch train'"):
        switch_report.report(read_plan(work), work, tmp_path / "s.csv", tmp_path / "s.png")
    stored = json.loads((work / "plan.json").read_text())
    other = {"recipes": {"softmax_64": stored["recipes"]["families/bidirectional/exact/1"]}, "ignored": []}
    shutil.copytree(folder, work / "softmax_64")
    (work / "plan.json").write_text(json.dumps(other))
    with pytest.raises(UserError, match="its plan is of another benchmark"):
        call(arguments)
    for odd in ('{"recipes": [1], "ignored": []}', '{"recipes": {"a": 1}, "ignored": []}', "[]", "\0"):
        (work / "plan.json").write_text(odd)
        with pytest.raises(UserError, match=r"plan.json: not a plan"):
            call(arguments)
