"""The table of results of a multirun."""

import csv
import json
from pathlib import Path
from statistics import mean

import pytest
import yaml

from protlm.training.multirun import read_jobs
from tests.tiny import FAST, run_training

OPTIONS = [
    *FAST,
    "logger=[]",
    "data.token_budget=900",
    "trainer.max_steps=2",
    "hydra.sweep.dir=sweep",
]


@pytest.fixture
def multirun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, corpus_path: Path):
    monkeypatch.chdir(tmp_path)

    def multirun(*options: str) -> None:
        run_training("-m", *OPTIONS, f"data.corpus={corpus_path}", *options)

    return multirun


def rows() -> list[dict[str, str]]:
    with open("sweep/results.csv") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_multirun_ends_with_a_table_of_all_runs_and_means_over_seeds(multirun, capsys) -> None:
    multirun("model.attention=relu,softmax", "seed=1,2")
    printed = capsys.readouterr().out
    found = rows()
    combinations = [(kind, seed) for kind in ("relu", "softmax") for seed in ("1", "2")]
    assert [(row["model.attention"], row["seed"]) for row in found if row["split"] == "test"] == combinations
    for row in found:
        results = json.loads(Path("sweep", row["job"], "results.json").read_text())[row["split"]]
        assert {name: float(row[name]) for name in results} == results
        assert json.loads(Path("sweep", row["job"], "run.json").read_text())["seed"] == int(row["seed"])
    table = [line.split() for line in printed[printed.rindex("job  ") :].splitlines()]
    assert len([line for line in table if line[0].isdigit()]) == len(found) == 8
    for line in [line for line in table if line[0] == "mean"]:
        kind, split = line[1], line[4]
        perplexities = [
            float(row["perplexity"]) for row in found if (row["model.attention"], row["split"]) == (kind, split)
        ]
        assert len(perplexities) == 2
        assert float(line[7].partition("±")[0]) == pytest.approx(mean(perplexities), abs=6e-4)
    assert len([line for line in table if line[0] == "mean"]) == 4
    assert "sweep/results.csv" in printed


@pytest.mark.parametrize("heads", [pytest.param("3,4", marks=pytest.mark.slow), "4,3"])
def test_a_failed_run_stops_no_other_and_is_reported_in_one_line(heads: str, multirun, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        multirun(f"model.heads={heads}")
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err
    (line,) = [line for line in printed.err.splitlines() if not line.startswith("Error executing job with overrides: ")]
    assert line.startswith("error: ")
    assert "model.width 16 with 3 heads" in line
    assert "no results" in printed.out
    found = rows()
    assert {row["model.heads"]: bool(row["perplexity"]) for row in found} == {"3": False, "4": True}
    assert [row["job"] for row in found] == sorted(row["job"] for row in found)


def test_a_multirun_that_stops_before_its_first_run_prints_no_table(multirun, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        multirun("model.layrs=1,2")
    assert stopped.value.code == 2
    printed = capsys.readouterr()
    assert "layrs" in printed.err
    assert "job  " not in printed.out


def test_jobs_are_in_order_with_the_options_in_which_they_differ(tmp_path: Path) -> None:
    for number in (0, 2, 10):
        folder = tmp_path / str(number) / ".hydra"
        folder.mkdir(parents=True)
        overrides = ["trainer.max_steps=2", f"seed={number}", "~callbacks.curve", "+model.x='a=b'"]
        (folder / "overrides.yaml").write_text(yaml.safe_dump(overrides))
        (folder.parent / "run.json").write_text(json.dumps({"overrides": overrides}))
    jobs = read_jobs(tmp_path)
    assert [job["job"] for job in jobs] == ["0", "2", "10"]
    assert [job["options"] for job in jobs] == [{"seed": str(number)} for number in (0, 2, 10)]
