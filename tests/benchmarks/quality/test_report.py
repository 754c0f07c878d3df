"""The report: tables, files and figure of finished runs, and notes on the others."""

import json
import shutil
from pathlib import Path

import pytest

from benchmarks.quality import report, table
from benchmarks.quality.recipe import recipe_in
from benchmarks.switch import report as switch_report
from protlm import files
from protlm.errors import UserError
from tests.benchmarks.quality.comparison import EXACT, RELU, call, finished, lines

FILES = ("quality.csv", "quality_curves.csv")


def arguments_of(work: Path, folder: Path) -> list[object]:
    return ["report", "--work", work, "--results", folder / "r", "--figure", folder / "f.png"]


@pytest.fixture
def no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "draw", lambda runs, path: None)


def written(results: Path) -> list[bytes]:
    return [(results / name).read_bytes() for name in FILES]


def test_the_report_names_unfinished_runs_and_differences(work: Path, tmp_path: Path, capsys) -> None:
    opt = work / "families" / "bidirectional" / "opt" / "1"
    shutil.copytree(work / RELU, opt)
    (opt / "results.json").unlink()  # interrupted, or failed
    capsys.readouterr()
    assert call(arguments_of(work, tmp_path)) == 0
    out = capsys.readouterr().out
    assert "1 of 3 runs have not finished: families/bidirectional/opt/1\n" in out
    assert "Performer-ReLU" in out
    assert "differ" not in out
    assert "an estimate, since the runs themselves have shorter proteins" in out
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
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")
    recipes = {name: recipe_in(work / name) for name in (EXACT, RELU)}
    both = [report.read_run(name, recipes[name], work / name) for name in recipes]
    (*_, note) = report.notes({**recipes, RELU: {**recipes[RELU], "optimizer.lr": 7}}, both, [])
    assert note == "families/bidirectional: the runs differ in more than attention: optimizer.lr"


def test_runs_in_the_files_outlive_their_work_folder(work: Path, no_figure, tmp_path: Path, capsys) -> None:
    arguments = arguments_of(work, tmp_path)
    call(arguments)
    before = written(tmp_path / "r")
    shutil.move(work / RELU, tmp_path / "relu")
    capsys.readouterr()
    call(arguments)
    out = capsys.readouterr().out
    assert "1 run not in the work folder, kept from quality.csv\n" in out
    assert "have not finished" not in out
    assert "differ" not in out
    assert written(tmp_path / "r") == before
    call(["report", "--work", tmp_path / "none", *arguments[3:]])
    assert "2 runs not in the work folder" in capsys.readouterr().out
    assert written(tmp_path / "r") == before


def test_an_unfinished_run_with_other_options_replaces_that_in_the_files(
    work: Path, no_figure, tmp_path: Path, capsys
) -> None:
    arguments = arguments_of(work, tmp_path)
    call(arguments)
    (work / RELU / "results.json").unlink()
    call(arguments)
    assert "1 run not in the work folder" in capsys.readouterr().out  # unfinished, but with the same options
    about = json.loads((work / RELU / "run.json").read_text())
    about["config"]["trainer"]["max_steps"] = 7
    (work / RELU / "run.json").write_text(json.dumps(about))
    call(arguments)
    assert f"1 of 2 runs have not finished: {RELU}\n" in capsys.readouterr().out
    assert {row["kind"] for name in FILES for row in lines(tmp_path / "r" / name)} == {"exact"}


def test_earlier_runs_with_other_options_are_named(work: Path, no_figure, tmp_path: Path, capsys) -> None:
    results = tmp_path / "r"
    results.mkdir()
    table.write_runs([finished("relu", 7, 0.2, [0.1, 0.2])], results)
    text = [
        (results / name).read_text().replace("causal", "bidirectional")
        for name in ("quality.csv", "quality_curves.csv")
    ]
    for name, content in zip(("quality.csv", "quality_curves.csv"), text, strict=True):
        (results / name).write_text(content)
    arguments = arguments_of(work, tmp_path)
    call(arguments)
    assert "differ in more than attention: options of earlier runs, kept from quality.csv\n" in capsys.readouterr().out
    assert "7" in {row["seed"] for row in lines(results / "quality.csv")}
    (results / "quality.csv").write_text("seed,kind\n1,relu\n")
    with pytest.raises(UserError, match=r"quality.csv: not a table of 'python -m benchmarks.quality report'"):
        call(arguments)


@pytest.mark.parametrize("writes", [0, 1])
def test_a_kill_leaves_complete_tables(writes: int, tmp_path: Path, monkeypatch) -> None:
    old = [finished("exact", 1, 0.2, [0.1, 0.2])]
    table.write_runs(old, tmp_path)
    left = [None] * writes

    def publish(partial: Path, target: Path) -> None:
        left.pop()  # IndexError is the kill
        partial.rename(target)

    monkeypatch.setattr(files, "publish", publish)
    with pytest.raises(IndexError):
        table.write_runs([*old, finished("relu", 1, 0.3, [0.1, 0.3])], tmp_path)
    assert table.read_runs(tmp_path) == old


def test_the_report_needs_a_run(work: Path, tmp_path: Path) -> None:
    for name in (EXACT, RELU):
        (work / name / "results.json").unlink()
    with pytest.raises(UserError, match="none of 2 runs has finished"):
        call(arguments_of(work, tmp_path))
    with pytest.raises(UserError, match="none of 0 runs has finished; start with 'train'"):
        call(arguments_of(tmp_path / "none", tmp_path))
    assert not (tmp_path / "r").exists()


def test_the_table_compares_with_the_exact_transformer_of_the_same_seed() -> None:
    runs = [finished("exact", 1, 0.20, [0.1, 0.196, 0.2]), finished("exact", 2, 0.30, [0.1, 0.2, 0.3])]
    runs += [finished("relu", 1, 0.21, [0.194, 0.195, 0.21]), finished("window", 1, 0.1, [0.1, 0.1, 0.1])]
    runs.append(finished("softmax", 1, 0.1, [0.1, 0.1, 0.1]))
    table = report.tables(runs, {("causal", "exact", "r"): 6.0, ("causal", "relu", "r"): 3.0})
    head, _, *cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    assert head[:3] == ["attention", "seeds", "parameters"]
    assert head[-2:] == ["steps to exact's*", "minutes to it at L=1,024, estimated*"]
    assert cells[0] == ["exact Transformer", "2", "0.00 M", "25.00 ± 5.00", "", "10.00 ± 0.00", "25", "2.5"]
    assert cells[1] == ["Performer-ReLU", "1", "0.00 M", "21.00", "+1.00", "10.00", "20", "1.0"]
    assert cells[2][:3] == ["Performer-softmax (hyperbolic, 2 x 8)", "1", "0.00 M"]
    assert cells[3] == ["window", "1", "0.00 M", "10.00", "-10.00", "10.00", "-", "-"]
    assert cells[4][:4] == ["unigram", "", "", "9.00 ± 0.00"]


def test_the_report_refuses_damaged_files_before_it_writes(work: Path, tmp_path: Path) -> None:
    results = tmp_path / "r"
    arguments = arguments_of(work, tmp_path)
    folder = work / EXACT
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
    with pytest.raises(UserError, match="quality_time.csv: not a table of"):
        call(arguments)
    (results / "quality_time.csv").unlink()
    with pytest.raises(UserError, match="cannot be written .Is a directory"):
        call([*arguments[:-1], tmp_path / "d.png"])
    assert not list(results.iterdir())
    if Path("/proc").is_dir():  # where not even root can write
        with pytest.raises(UserError, match=r"/proc: cannot be written \("):
            call([*arguments[:-1], "/proc/f.png"])
    with pytest.raises(UserError, match="not a folder of 'python -m benchmarks.switch train'"):
        switch_report.report(work, tmp_path / "s.csv", tmp_path / "s.png")
    shutil.copytree(work / RELU, work / "concat" / "bidirectional" / "performer" / "1")  # of another benchmark
    (work / RELU / "run.json").write_text("[]")
    call(arguments)
    assert {row["kind"] for row in lines(results / "quality.csv")} == {"exact"}
