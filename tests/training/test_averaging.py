"""Averaged weights: what is validated, saved and tested is the same model, and a resumed run ends exactly alike."""

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
