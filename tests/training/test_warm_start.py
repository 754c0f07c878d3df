"""Initial weights from a trained model with the same or another kind of attention."""

import dataclasses
from pathlib import Path

import pytest
import torch

from protlm.checkpoint import export
from protlm.errors import UserError
from protlm.performer import Performer, PerformerConfig
from protlm.training.warm_start import checked_init, load_initial_weights
from tests.tiny import FAST, run_training


def model_of(base: PerformerConfig, **changes: object) -> Performer:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return Performer(dataclasses.replace(base, **changes)).eval()


def logits(model: Performer) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(4, 24)[None])


def test_the_same_kind_starts_as_the_trained_model_with_any_seed(tiny_model: Performer, model_folder: Path) -> None:
    model = model_of(tiny_model.config, feature_seed=9, dropout=0.5)
    assert not torch.equal(logits(model), logits(tiny_model))
    load_initial_weights(model, model_folder)
    assert torch.equal(logits(model), logits(tiny_model))


@pytest.mark.parametrize("changes", [{"attention": "exact"}, {"attention": "softmax"}, {"num_features": 24}])
def test_another_kind_starts_as_the_switched_model(changes: dict, tiny_model: Performer, model_folder) -> None:
    model = model_of(tiny_model.config, **changes)
    load_initial_weights(model, model_folder)
    tiny_model.switch_attention(changes.get("attention", "relu"), changes.get("num_features"))
    assert torch.equal(logits(model), logits(tiny_model))
    assert model.blocks[0].attention.qkv.weight.requires_grad


def test_a_softmax_performer_with_many_features_starts_as_the_transformer(tiny_model: Performer, tmp_path) -> None:
    exact = model_of(tiny_model.config, attention="exact")
    export(exact, tmp_path / "exact")
    load_initial_weights(few := model_of(tiny_model.config, attention="softmax", num_features=4), tmp_path / "exact")
    load_initial_weights(
        many := model_of(tiny_model.config, attention="softmax", num_features=4096), tmp_path / "exact"
    )
    errors = [float((logits(model) - logits(exact)).abs().max()) for model in (few, many)]
    assert errors[1] < errors[0]
    assert errors[1] < 1e-3


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"layers": 1}, "model.layers 2 is now 1"),
        ({"width": 32, "heads": 4}, "model.heads 2 is now 4, model.width 16 is now 32"),
        ({"positions": "rotary"}, "model.positions learned is now rotary"),
        ({"max_length": 99}, "model.max_length 256 is now 99"),
    ],
)
def test_other_sizes_are_refused(changes: dict, expected: str, tiny_model: Performer, model_folder: Path) -> None:
    with pytest.raises(UserError, match=f"init .*model: {expected}; only attention"):
        load_initial_weights(model_of(tiny_model.config, **changes), model_folder)


def test_a_missing_model_is_refused(tiny_model: Performer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such model"):
        load_initial_weights(tiny_model, tmp_path / "none")


def test_a_resumed_run_accepts_and_records_only_the_init_it_started_with(
    monkeypatch, tmp_path, capsys, corpus_path
) -> None:
    monkeypatch.chdir(tmp_path)
    run = [*FAST, f"data.corpus={corpus_path}", "trainer.limit_test_batches=0"]
    run_training(*run, "trainer.max_steps=1", "hydra.run.dir=first")
    first, resumed = "first/checkpoints/last.ckpt", [*run, "hydra.run.dir=run", "ckpt_path=auto"]
    run_training(*resumed, "trainer.max_steps=1", f"init={first}")
    capsys.readouterr()
    for init in ([f"init={tmp_path}/{first}"], []):
        run_training(*resumed, "trainer.max_steps=2", *init)
        assert f"init: {first}\n" in Path("run/config.yaml").read_text()
    assert "resuming from run/checkpoints/last.ckpt (step 2)" in capsys.readouterr().out.replace(f"{tmp_path}/", "")
    for init, started in (("run/checkpoints/last.ckpt", first), ("x", first)):
        with pytest.raises(SystemExit):
            run_training(*resumed, "trainer.max_steps=3", f"init={init}")
        expected = f"error: init {init}: the run to resume (ckpt_path) started from {started}; leave out init, or "
        assert capsys.readouterr().err.startswith(expected)


def test_what_a_run_started_from_is_compared_by_path() -> None:
    assert checked_init({}, "a") == "a"  # older checkpoints do not tell
    assert checked_init({"init": None}, None) is None
    assert checked_init({"init": "a"}, "./a") == "a"
    with pytest.raises(UserError, match="started from random weights; leave out init"):
        checked_init({"init": None}, "a")
