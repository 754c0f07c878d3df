"""The contact head of ESM-2, imported, against `predict_contacts` of transformers."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from protlm import checkpoint, model_api
from protlm.contacts.contact_map import chosen_method
from protlm.errors import UserError
from protlm.performer import Performer
from protlm.sequence.alphabet import encode, with_ends
from protlm.training.warm_start import load_initial_weights
from tests.exchange.test_esm import esm, load_esm

PROTEIN = "MKTAYIXAKQRQISFVKSHFSRQLEERLGLIEVQ"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("head") / "model"
    esm(spread=0.3).save_pretrained(path.with_name("esm"))
    checkpoint.export(load_esm(path.with_name("esm")), path)
    return path


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 4},
        {"num_hidden_layers": 5, "hidden_size": 40, "num_attention_heads": 1},
        {"hidden_size": 40, "num_attention_heads": 20, "token_dropout": False},
    ],
)
@pytest.mark.parametrize("sequence", ["MK", PROTEIN, PROTEIN * 4])
def test_contacts_equal_those_of_transformers(tmp_path: Path, changes: dict[str, Any], sequence: str) -> None:
    theirs = esm(spread=0.3, attn_implementation="eager", **changes)
    theirs.save_pretrained(tmp_path / "esm")
    checkpoint.export(load_esm(tmp_path / "esm"), tmp_path / "model")
    model = model_api.load(tmp_path / "model")
    found = model.contacts(sequence)
    tokens = torch.from_numpy(with_ends(encode(sequence))).long()[None]
    with torch.no_grad():
        expected = theirs.predict_contacts(tokens, torch.ones_like(tokens))[0].numpy()
    assert len(sequence) < 10 or np.ptp(expected) > 0.005
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_array_equal(found, model.contacts(sequence, "head"))


def test_the_head_is_used_with_exact_attention_only(folder: Path) -> None:
    model = model_api.load(folder)
    exact = model.contacts(PROTEIN)
    checkpoint.switch(model, "softmax", 16)
    assert chosen_method("auto", model, homologs=False) == "jacobian"
    with pytest.raises(UserError, match="method head: fitted to exact attention, but the model has softmax attention"):
        model.contacts(PROTEIN, "head")
    checkpoint.switch(model, "exact")
    np.testing.assert_array_equal(model.contacts(PROTEIN), exact)


def test_a_model_without_the_head_uses_the_jacobian(tiny_model: Performer, folder: Path) -> None:
    tiny_model.switch_attention("exact")
    assert chosen_method("auto", tiny_model, homologs=False) == "jacobian"
    with pytest.raises(UserError, match="no contact head; use jacobian"):
        chosen_method("head", tiny_model, homologs=False)
    model = model_api.load(folder)
    assert not np.array_equal(model.contacts(PROTEIN, "jacobian"), model.contacts(PROTEIN))


def test_the_head_does_not_learn_and_is_left_behind_by_training(folder: Path) -> None:
    model = checkpoint.load(folder)
    assert not [name for name, _ in model.named_parameters() if "contact" in name]
    config = model.config
    object.__setattr__(config, "contact_head", False)
    fresh = Performer(config)
    load_initial_weights(fresh, folder)
    for name, weight in fresh.state_dict().items():
        assert torch.equal(weight, model.state_dict()[name])


def test_containers_and_unknown_methods(folder: Path) -> None:
    model = model_api.load(folder)
    maps = model.contacts({"a": PROTEIN, "b": "MKT"})
    assert {name: found.shape for name, found in maps.items()} == {"a": (34, 34), "b": (3, 3)}
    with pytest.raises(UserError, match="method 'x': expected auto, head"):
        model.contacts(PROTEIN, "x")
    with pytest.raises(UserError, match="method couplings: requires homologs"):
        model.contacts(PROTEIN, "couplings")
