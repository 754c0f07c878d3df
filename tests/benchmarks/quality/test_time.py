"""Seconds of training steps, and the comparison at equal speed."""

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hydra.utils import instantiate

from benchmarks.quality import concat, recipe
from benchmarks.quality import time as timing
from protlm.errors import UserError
from protlm.training.optimizer import adamw
from protlm.training.task import LanguageModelTask
from tests.benchmarks.quality.comparison import FEW, RELU, SMALL, call, lines, train_here


@pytest.mark.slow
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
    found = timing.read_seconds(path, 32)
    assert {key[:2] for key in found} == {("causal", "exact"), ("causal", "relu")}
    assert timing.read_seconds(tmp_path / "none.csv") == {}
    one = ["time", "--kinds", "exact", *options[2:], "--overrides", *sizes, "data.max_length=16"]
    assert call([*one, "data.token_budget=64"]) == 0
    assert {(row["kind"], row["length"]) for row in lines(path)} == {(r["kind"], r["length"]) for r in rows}
    again = timing.read_seconds(path, 32)
    assert set(again) == set(found)
    assert again[key := next(key for key in found if key[1] == "relu")] == found[key]
    threads = torch.get_num_threads()
    path.write_text(path.read_text().replace(f",{threads},", f",{threads + 1},", 1))
    capsys.readouterr()
    assert call(["time", "--kinds", "relu", *one[3:], "data.token_budget=64", "--lengths", 64]) == 0
    assert "removed 1 row with other options or threads" in capsys.readouterr().out
    assert {row["threads"] for row in lines(path)} == {str(threads)}
    assert sorted((r["kind"], r["length"]) for r in lines(path)) == [
        ("exact", "32"),
        ("relu", "16"),
        ("relu", "32"),
        ("relu", "64"),
    ]
    assert call([*one, "data.token_budget=128"]) == 0  # another recipe
    assert {row["kind"] for row in lines(path)} == {"exact"}
    assert not set(timing.read_seconds(path, 32)) & set(found)
    for odd in ("a,b\n1,2\n", "\0", path.read_text().replace("seconds", "minutes")):
        path.write_text(odd)
        with pytest.raises(UserError, match=r"t.csv: not a table of 'python -m benchmarks.quality time'; remove it"):
            call([*one, "data.token_budget=64"])


def test_times_are_matched_to_runs_by_the_options_of_a_step(trained: Path) -> None:
    """A step is timed with random weights at another length, and identified by everything else it depends on."""
    about = json.loads((trained / RELU / "run.json").read_text())["overrides"]
    kept = [option for option in about if not option.startswith(("data.corpus", "hydra.", "ckpt_path"))]
    made, longer, other = (
        timing.step_recipe(recipe.recipe_of(recipe.composed([*kept, "data.corpus=none", *more])))
        for more in ([], ["data.max_length=99", "seed=5"], ["callbacks.redraw.every_n_steps=9"])
    )
    assert timing.step_recipe(recipe.recipe_in(trained / RELU)) == made == longer != other


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
    config = recipe.composed(options)
    step = timing.training_step(config, 16)
    step.run()
    assert step.model.draw_number == 0  # draws are timed apart
    callback, task = instantiate(config.callbacks.redraw), LanguageModelTask(step.model, adamw)
    trainer: Any = SimpleNamespace(global_step=0, max_steps=20)
    callback.on_train_start(trainer, task)
    for trainer.global_step in range(20):
        callback.on_train_batch_start(trainer, task, None, 0)
    assert step.model.draw_number == draws == pytest.approx(20 * step.draws)


def test_draws_count_in_the_time_of_a_step(monkeypatch) -> None:
    monkeypatch.setattr(timing.TrainingStep, "draw", lambda self: time.sleep(0.2))
    model: Any = None
    steps = {str(draws): timing.TrainingStep(model, lambda: None, draws) for draws in (0.0, 0.5)}
    found = timing.mean_seconds(steps, 1)
    assert found["0.0"] < 0.1 <= found["0.5"]


@pytest.mark.slow
def test_blocks_compare_a_performer_with_a_transformer_of_equal_speed(
    corpus_path: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    began: list[str] = []

    def run_all(runs, comparison, jobs) -> int:
        began.extend(run.name for run in runs if not comparison.is_done(run.name))
        return train_here(runs, comparison)

    tables: list[str] = []
    monkeypatch.setattr(concat, "run_all", run_all)
    options = ["--layers", "1,2", "--widths", "16", "--heads", "2", "--repeats", 1, "--steps", 2]
    sizes = ["data.max_length=256", "data.token_budget=512", "model.heads=2", "model.layers=1", "model.width=32", *FEW]
    arguments = ["concat", corpus_path, "--work", tmp_path / "work", *options, "--csv", tmp_path / "c.csv"]
    usual = concat.mean_seconds
    monkeypatch.setattr(concat, "mean_seconds", lambda steps, repeats: dict.fromkeys(usual(steps, repeats), 1))
    for local in ((), ("--local-heads", 1)):  # the second call uses the choice of the first
        assert call([*arguments, *local, "--overrides", *sizes]) == 0
        said = capsys.readouterr().out
        assert "the Transformer has the greatest layers and width and heads of the grid" in said
        tables.append(said)
    assert began == [f"bidirectional/{kind}/1" for kind in ("performer", "transformer", "performer_local")]
    assert ["a step at L=256" in said for said in tables] == [True, False]
    rows = lines(tmp_path / "c.csv")
    assert [(row["kind"], row["split"]) for row in rows][:3:2] == [("performer", "test"), ("transformer", "test")]
    assert {row["layers"] for row in rows if row["kind"] == "transformer"} == {"2"}
    assert all(float(row["seconds_per_step"]) > 0 and row["steps"] == "2" for row in rows)
    made = {name: recipe.recipe_in(tmp_path / "work" / "concat" / name) for name in began}
    assert made[began[1]]["model.feed_forward"] == 4 * made[began[1]]["model.width"] == 64
    assert [made[name].get("model.local_heads", 0) for name in began] == [0, 0, 1]
