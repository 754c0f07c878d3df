"""ESMC of transformers with random weights, compared with the model imported from its folder."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    EsmcConfig,
    EsmcForMaskedLM,
    EsmcForSequenceClassification,
    EsmcForTokenClassification,
    EsmcModel,
)

from protlm import checkpoint, model_api
from protlm.errors import UserError
from protlm.exchange.huggingface import export_huggingface
from protlm.exchange.pretrained import load_pretrained
from protlm.performer import Performer
from protlm.training.optimizer import adamw, muon
from tests.exchange.test_esm import batch

SMALL = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}


def esmc(cls: Any, folder: Path, spread: float = 0.1, **changes: Any) -> Any:
    """A model whose weights, including norms, differ from their usual initialisation; saved."""
    torch.manual_seed(0)
    model = cls(EsmcConfig(**{**SMALL, **changes}, num_labels=3)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight += spread * torch.randn_like(weight)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_hidden_layers": 36},  # of which the divisor is 1
        {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 4, "intermediate_size": 8},
        {"num_hidden_layers": 5, "hidden_size": 64, "num_attention_heads": 1},
        {"spread": 0.3, "vocab_size": 33},
    ],
)
def test_logits_and_layers_equal_those_of_transformers(tmp_path: Path, changes: dict[str, Any]) -> None:
    theirs = esmc(EsmcForMaskedLM, tmp_path / "esmc", **changes)
    ours = load_pretrained(tmp_path / "esmc").model
    tokens, mask = batch()
    with torch.no_grad():
        expected = theirs(tokens, attention_mask=mask.long(), output_hidden_states=True)
        found = ours(tokens)
        layers = ours.representations(tokens, range(len(ours.blocks) + 1))
    assert expected.logits[mask].std() > 0.05
    assert found.shape[-1] == 33
    torch.testing.assert_close(found[mask], expected.logits[mask][:, :33], atol=1e-4, rtol=1e-4)
    for number, hidden in enumerate(expected.hidden_states):
        torch.testing.assert_close(layers[number][mask], hidden[mask], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("field", ["num_hidden_layers", "qk_norm", "activation"])
def test_the_comparison_detects_each_difference_from_esm2(tmp_path: Path, field: str) -> None:
    theirs = esmc(EsmcForMaskedLM, tmp_path / "esmc")
    ours = load_pretrained(tmp_path / "esmc").model
    if field == "num_hidden_layers":  # the divisor of the branches
        for block in ours.blocks:
            block.attention.out.weight.data *= (2 / 36) ** 0.5
    elif field == "qk_norm":
        for block in ours.blocks:
            block.attention.qk_norm = False
    else:
        for block in ours.blocks:
            block.feed_forward[0].weight.data = block.feed_forward[0].weight.data.roll(40, 0)
    tokens, mask = batch()
    with torch.no_grad():
        error = (ours(tokens) - theirs(tokens, attention_mask=mask.long()).logits[..., :33])[mask].abs().max()
    assert error > 1e-3


@pytest.mark.parametrize("cls", [EsmcModel, EsmcForSequenceClassification, EsmcForTokenClassification])
def test_models_with_another_head_embed(cls: Any, tmp_path: Path) -> None:
    theirs = esmc(cls, tmp_path / "esmc")
    imported = load_pretrained(tmp_path / "esmc")
    assert imported.model.config.head == "none"
    assert imported.left_out == ([] if cls is EsmcModel else ["classifier"])
    tokens, mask = batch()
    base = theirs if cls is EsmcModel else theirs.base_model
    with torch.no_grad():
        expected = base(tokens, attention_mask=mask.long()).last_hidden_state
        torch.testing.assert_close(imported.model.hidden(tokens)[mask], expected[mask], atol=1e-5, rtol=1e-4)


def test_an_imported_model_round_trips(tmp_path: Path) -> None:
    theirs = esmc(EsmcForMaskedLM, tmp_path / "esmc")
    checkpoint.export(load_pretrained(tmp_path / "esmc").model, tmp_path / "ours")
    ours = model_api.load(tmp_path / "ours")
    export_huggingface(ours, tmp_path / "back")
    from transformers import AutoModelForMaskedLM

    back = AutoModelForMaskedLM.from_pretrained(tmp_path / "back", trust_remote_code=True)
    tokens, mask = batch()
    with torch.no_grad():
        expected = theirs(tokens, attention_mask=mask.long()).logits[..., :33]
        torch.testing.assert_close(back(tokens).logits[mask], expected[mask], atol=1e-4, rtol=1e-4)
    assert ours.contacts("MKTAYIAK").shape == (8, 8)
    np.testing.assert_allclose(ours.probabilities("MKTAYIAK").sum(1), 1)


@pytest.mark.parametrize("optimizer", [adamw, muon])
def test_it_learns_with_another_attention(tmp_path: Path, optimizer: Any) -> None:
    esmc(EsmcForMaskedLM, tmp_path / "esmc")
    model: Performer = load_pretrained(tmp_path / "esmc").model.train()
    checkpoint.switch(model, "softmax", 16)
    tokens, _ = batch()
    steps, losses = optimizer(model, lr=1e-2), []
    for _ in range(5):
        loss = model.loss(model(tokens), tokens)
        steps.zero_grad()
        loss.backward()
        steps.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    for name, weight in model.named_parameters():
        assert (weight.grad is None) == (name == "norm.bias"), name  # which ESMC does not have
        assert weight.isfinite().all(), name


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_act", "gelu"),
        ("tie_word_embeddings", True),
        ("pad_token_id", 0),
        ("num_key_value_heads", 1),
        ("vocab_size", 20),
        ("num_attention_heads", 5),
        ("rope_parameters", {"rope_theta": 500.0, "rope_type": "default"}),
    ],
)
def test_other_configurations_are_refused(tmp_path: Path, name: str, value: Any) -> None:
    esmc(EsmcForMaskedLM, tmp_path / "esmc")
    path = tmp_path / "esmc" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    with pytest.raises(UserError) as caught:
        load_pretrained(tmp_path / "esmc")
    message = str(caught.value)
    assert "\n" not in message
    assert str(value if not isinstance(value, dict) else 500.0) in message
    assert "expected" in message or "where it is" in message


def test_biases_have_to_be_those_of_the_configuration(tmp_path: Path) -> None:
    for name, says, words in (("none", True, "weights missing"), ("some", False, "attention_bias is not true, but")):
        esmc(EsmcForMaskedLM, tmp_path / name, attention_bias=not says)
        path = tmp_path / name / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "attention_bias": says}))
        with pytest.raises(UserError, match=f"{words}.*self_attn"):
            load_pretrained(tmp_path / name)
