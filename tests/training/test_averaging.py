"""Averaged weights: what is validated, saved and tested is the same model, and a resumed run ends exactly alike."""

import csv
import json
from pathlib import Path

import pytest
import torch

from protlm.checkpoint import load
from protlm.corpus.reader import Corpus
from protlm.inference.evaluate import evaluate
from tests.tiny import TINY, run_training

RUN = [*TINY, "callbacks=ema", "callbacks.curve=null", "callbacks.ema.decay=0.9", "optimizer.lr=5e-2"]
RUN += ["data.token_budget=4000", "schedule=constant", "callbacks.redraw.every_n_steps=3", "hydra.run.dir=run"]


def differing(one: dict, other: dict) -> list[str]:
    return [name for name, weight in one.items() if not torch.equal(weight, other[name])]


@pytest.mark.parametrize("interval", [5, 100])
def test_results_are_of_the_saved_weights(interval: int, monkeypatch, tmp_path, corpus_path) -> None:
    """With best.ckpt, and with last.ckpt only."""
    monkeypatch.chdir(tmp_path)
    run_training(*RUN, f"data.corpus={corpus_path}", "trainer.max_steps=10", f"trainer.val_check_interval={interval}")
    saved = Path("run/checkpoints") / ("best.ckpt" if interval == 5 else "last.ckpt")
    assert differing(*(torch.load(saved, weights_only=True)[key] for key in ("state_dict", "current_model_state")))
    results = json.loads(Path("run/results.json").read_text())["test"]
    again = evaluate(load(saved), Corpus(corpus_path), ("test",), max_length=64, token_budget=4000, seed=1)["test"]
    assert results["perplexity"] == pytest.approx(again["perplexity"], rel=1e-4)


@pytest.mark.parametrize("start", [7, 100])
def test_before_the_first_update_the_average_is_the_current_model(start, monkeypatch, tmp_path, corpus_path) -> None:
    """With a checkpoint of Lightning's within the step, too."""
    monkeypatch.chdir(tmp_path)
    own = "+callbacks.each={_target_: pytorch_lightning.callbacks.ModelCheckpoint, every_n_train_steps: 4, dirpath: .}"
    options = [f"data.corpus={corpus_path}", f"+callbacks.ema.update_starting_at_step={start}", own]
    run_training(*RUN, *options, "trainer.max_steps=10", "trainer.val_check_interval=5")
    (within,) = Path().glob("*step=8*.ckpt")
    saved = [torch.load(x, weights_only=True) for x in ("run/checkpoints/last.ckpt", within)]
    same = [differing(one["state_dict"], one["current_model_state"]) == [] for one in saved]
    assert same == [start == 100, True]
    best = load("run/checkpoints/best.ckpt")
    results = json.loads(Path("run/results.json").read_text())["test"]
    again = evaluate(best, Corpus(corpus_path), ("test",), max_length=64, token_budget=4000, seed=1)["test"]
    assert results["perplexity"] == pytest.approx(again["perplexity"], rel=1e-4)
    with open("run/metrics/metrics.csv") as file:
        rows = [float(row["valid/perplexity"]) for row in csv.DictReader(file) if row["valid/perplexity"]]
    assert len(set(rows)) == 2  # not twice that of the initial weights


@pytest.mark.slow
def test_a_resumed_run_ends_bit_for_bit_alike(monkeypatch, tmp_path, corpus_path) -> None:
    monkeypatch.chdir(tmp_path)
    options = [*RUN, f"data.corpus={corpus_path}", "trainer.limit_test_batches=1"]
    run_training(*options, "trainer.max_steps=8", "hydra.run.dir=whole")
    run_training(*options, "trainer.max_steps=5")
    run_training(*options, "trainer.max_steps=8", "ckpt_path=auto")
    one, other = (torch.load(f"{x}/checkpoints/last.ckpt", weights_only=True) for x in ("whole", "run"))
    for key in ("state_dict", "current_model_state", "averaging_state"):
        assert differing(one[key], other[key]) == []
