"""The LightningModule: losses of a batch, options that change the computation but not its result, old checkpoints."""

import copy
import dataclasses
import functools
from collections import Counter
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from protlm.batching.batches import Batch
from protlm.checkpoint import KEY
from protlm.errors import UserError
from protlm.performer import Performer
from protlm.performer.config import ADDED
from protlm.residue_metrics import ResidueMetrics
from protlm.training.task import LanguageModelTask
from tests.tiny import FAST, run_training


def test_a_misspelled_optimizer_option_is_reported_before_training(tiny_model: Performer) -> None:
    with pytest.raises(UserError, match="lrr"):
        LanguageModelTask(tiny_model, functools.partial(torch.optim.AdamW, lrr=1))


def test_training_and_evaluation_respect_the_segments_of_a_block(tiny_model: Performer) -> None:
    """Other proteins in a block affect a protein's loss only without segments."""
    task = LanguageModelTask(tiny_model, torch.optim.SGD)
    task.log = lambda *_, **__: None
    task.tests = torch.nn.ModuleList([ResidueMetrics()])
    tiny_model.head.weight.data *= 20
    for block in tiny_model.blocks:  # make attention matter
        block.attention.qkv.weight.data *= 20
        block.attention.out.weight.data *= 20

    def results(other: int, segments: torch.Tensor | None) -> list[float]:
        inputs = torch.tensor([[5, 6, 7, 2, other, 9, other, 2]])
        scored = torch.arange(8)[None] < 3
        batch = Batch(inputs, torch.where(scored, inputs, -100), scored, scored | True, segments)
        task.valid.reset()
        task.tests[0].reset()
        loss = task.training_step(batch, 0)
        task.validation_step(batch, 0)
        task.test_step(batch, 0)
        perplexities = [metrics.compute()["perplexity"] for metrics in (task.valid, task.tests[0])]
        return [loss.item(), *map(float, perplexities)]

    apart = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1]])
    assert results(10, apart) == pytest.approx(results(20, apart), rel=1e-6)
    for one, other in zip(results(10, None), results(20, None), strict=True):
        assert abs(one - other) > 1e-4 * one


def tokens(seed: int, rows: int = 3, length: int = 20) -> torch.Tensor:
    """Random tokens, with padding in the first row."""
    made = torch.randint(4, 24, (rows, length), generator=torch.Generator().manual_seed(seed))
    made[0, length // 2 :] = 1
    return made


def gradients(model: Performer, inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    """The gradients and the loss, with dropout of a fixed seed."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model.zero_grad()
        loss = model.loss(model(inputs), torch.where(inputs > 1, inputs, -100))
        loss.backward()
    return {"loss": loss.detach(), **{name: weight.grad for name, weight in model.named_parameters()}}


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("attention", ["relu", "softmax", "exact", "optimal"])
def test_activation_checkpointing_changes_neither_loss_nor_gradients(
    attention: str, causal: bool, tiny_model: Performer
) -> None:
    config = dataclasses.replace(tiny_model.config, attention=attention, causal=causal, dropout=0.3)
    plain = Performer(config).train()
    again = copy.deepcopy(plain)
    LanguageModelTask(again, torch.optim.SGD, activation_checkpointing=True)
    calls = []
    again.blocks[0].attention_norm.register_forward_hook(lambda *_: calls.append(1))
    expected, found = gradients(plain, tokens(1)), gradients(again, tokens(1))
    assert len(calls) == 2  # once more in the backward pass
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-8, msg=name)
    for name, value in plain.named_buffers():
        if not name.endswith("observed"):  # each batch counts twice in the mean, all alike
            torch.testing.assert_close(again.get_buffer(name), value, rtol=1e-5, atol=1e-7, msg=name)


class Calls(TorchDispatchMode):
    """Counts the operators of attention."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        name = operation.name()
        if "scaled_dot_product" in name or name.startswith("protlm::"):
            self.counts["backward" if "backward" in name else "forward"] += 1
        return operation(*arguments, **(options or {}))


@pytest.mark.parametrize(("checkpointing", "forward"), [(False, 1), ("selective", 1), (True, 2)])
@pytest.mark.parametrize("attention", ["relu", "softmax", "exact"])
def test_selective_checkpointing_computes_attention_once(
    attention: str, checkpointing: bool | str, forward: int, tiny_model: Performer
) -> None:
    """And changes no gradient."""
    config = dataclasses.replace(tiny_model.config, attention=attention, layers=1, dropout=0.3)
    plain = Performer(config).train()
    again = copy.deepcopy(plain)
    LanguageModelTask(again, torch.optim.SGD, activation_checkpointing=checkpointing)
    norms = []
    again.blocks[0].attention_norm.register_forward_hook(lambda *_: norms.append(1))
    expected = gradients(plain, tokens(1))
    with Calls() as calls:
        found = gradients(again, tokens(1))
    assert calls.counts == {"forward": forward, "backward": 1}
    assert len(norms) == (2 if checkpointing else 1)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-8, msg=name)


def test_selective_checkpointing_is_refused_with_compiled_blocks(tiny_model: Performer) -> None:
    options: dict[str, Any] = {"activation_checkpointing": "selective", "compile": True}
    with pytest.raises(UserError, match="selective with task.compile=true: choose one of them"):
        LanguageModelTask(tiny_model, torch.optim.SGD, **options)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # from torch.compile
def test_compiled_blocks_train_like_others(tiny_model: Performer) -> None:
    """At two lengths."""
    plain = Performer(dataclasses.replace(tiny_model.config, layers=1)).train()
    compiled = copy.deepcopy(plain)
    task: Any = LanguageModelTask(compiled, torch.optim.SGD, compile=True)
    for length in (20, 33):
        expected, found = gradients(plain, tokens(1, length=length)), gradients(task.model, tokens(1, length=length))
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6, msg=name)
    assert compiled.state_dict().keys() == plain.state_dict().keys()  # their checkpoints are interchangeable


def test_a_checkpoint_without_newer_fields_of_the_model_is_resumed(tiny_model: Performer) -> None:
    task = LanguageModelTask(tiny_model, torch.optim.SGD)
    task._data = lambda: Batch  # any object whose class has a name
    old: dict[str, Any] = {}
    task.on_save_checkpoint(old)
    for name in ADDED:
        del old[KEY]["model"][name]
    tiny_model.config = dataclasses.replace(tiny_model.config, start_id=2)  # not stored by older versions
    task.on_load_checkpoint({**old, "type": None})
    tiny_model.config = dataclasses.replace(tiny_model.config, norm_eps=1e-3)
    with pytest.raises(UserError, match="norm_eps 1e-05 is now 0.001"):
        task.on_load_checkpoint({**old, "type": None})


def test_sequences_longer_than_the_learned_positions_are_announced(monkeypatch, capsys, tmp_path, corpus_path) -> None:
    monkeypatch.chdir(tmp_path)
    common = [*FAST, f"data.corpus={corpus_path}", "trainer.max_steps=1", "model.max_length=30"]
    for positions, times in (("learned", 1), ("rotary", 0)):
        run_training(*common, f"model.positions={positions}", "hydra.run.dir=run")
        assert capsys.readouterr().err.count("than the 30 positions that the model learns (model.max_length)") == times
