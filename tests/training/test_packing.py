"""A run on packed batches says once that its attention takes the sequences apart, in the words of the commands."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from protlm.errors import ProtlmWarning, UserError
from protlm.inference.packing import packs
from protlm.performer import Performer
from protlm.training.packing import warn_if_taken_apart
from tests.tiny import FAST, run_training

SAID = (
    "warning: packed batches: {} attention on cpu takes the sequences apart and pads them; only the other layers save "
    "the padding"
)


@pytest.mark.parametrize(
    ("options", "label"),
    [
        (["data.packed=true"], "relu"),
        (["data.packed=true", "data=trembl_concat", "data.separate=true", "model/attention=exact"], "exact"),
        (["data.packed=true", "model/attention=window"], None),
        (["data.packed=auto"], None),
    ],
)
def test_training_warns(options: list[str], label: str | None, capsys, monkeypatch, tmp_path, corpus_path) -> None:
    monkeypatch.chdir(tmp_path)
    run_training(*FAST, f"data.corpus={corpus_path}", "trainer.max_steps=1", *options)
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "packed" in line or "warning" in line] == ([SAID.format(label)] if label else [])


def trainer(first: bool = True) -> Any:
    return SimpleNamespace(
        strategy=SimpleNamespace(root_device=torch.device("cpu")), precision="32-true", is_global_zero=first
    )


def test_only_the_first_rank_warns_and_in_the_words_of_the_commands(tiny_model: Performer, capsys) -> None:
    warn_if_taken_apart(tiny_model, trainer(first=False))
    assert not capsys.readouterr().err
    warn_if_taken_apart(tiny_model, trainer())
    tiny_model.packed_batches = True
    with pytest.warns(ProtlmWarning) as warned:
        assert packs(tiny_model)
    assert capsys.readouterr().err == f"warning: {warned[0].message}\n"


def test_a_backend_that_cannot_compute_the_attention_is_an_error_of_the_option(tiny_model: Performer) -> None:
    tiny_model.use_backend("flex")
    with pytest.raises(UserError, match=r"^task\.attention_backend 'flex': "):
        warn_if_taken_apart(tiny_model, trainer())
