"""Models exported for transformers, read back: as they were, and after training there."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from protlm.errors import UserError
from protlm.exchange.huggingface import export_huggingface
from protlm.exchange.pretrained import load_pretrained
from tests.command import assert_refused
from tests.exchange.exported import KINDS, auto, build, load
from tests.exchange.test_esm import batch


@pytest.mark.parametrize("kind", KINDS)
def test_an_exported_model_comes_back_bit_for_bit(kind: str, tmp_path: Path) -> None:
    model = build(kind)
    export_huggingface(model, tmp_path / "hf")
    back = load_pretrained(tmp_path / "hf").model
    assert back.config == model.config
    assert back.state_dict().keys() == model.state_dict().keys()
    for name, weight in model.state_dict().items():
        assert torch.equal(back.state_dict()[name], weight), name
    tokens, _ = batch()
    with torch.inference_mode():
        assert torch.equal(back(tokens), model(tokens))


@pytest.mark.parametrize("kind", ["softmax", "causal relu", "ESM's"])
def test_a_model_trained_with_transformers_comes_back(kind: str, tmp_path: Path) -> None:
    export_huggingface(build(kind), tmp_path / "hf")
    theirs = load(auto(kind), tmp_path / "hf").eval()
    with torch.no_grad():
        for weight in theirs.parameters():
            weight += 0.1 * torch.randn_like(weight)
    theirs.save_pretrained(tmp_path / "trained")
    tokens, mask = batch()
    with torch.inference_mode():
        expected = theirs(tokens, attention_mask=mask.long()).logits[mask]
        torch.testing.assert_close(load_pretrained(tmp_path / "trained").model(tokens)[mask], expected)


def test_a_classifier_comes_back_without_its_head(tmp_path: Path) -> None:
    export_huggingface(build("relu"), tmp_path / "hf")
    load(AutoModelForSequenceClassification, tmp_path / "hf", num_labels=3).save_pretrained(tmp_path / "classes")
    imported = load_pretrained(tmp_path / "classes")
    assert imported.left_out == ["classifier"]
    assert imported.model.config.head == "none"
    tokens, _ = batch()
    with torch.inference_mode():
        assert torch.equal(imported.model.hidden(tokens), build("relu").hidden(tokens))


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of peft, about transformers
def test_an_adapter_of_an_exported_model_is_merged(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    export_huggingface(build("relu"), tmp_path / "hf")
    settings = peft.LoraConfig(target_modules=["qkv", "out"], init_lora_weights=False)
    model = peft.get_peft_model(load(auto("relu"), tmp_path / "hf"), settings).eval()
    model.save_pretrained(tmp_path / "adapter")
    tokens, mask = batch()
    with torch.inference_mode():
        expected = model(input_ids=tokens, attention_mask=mask.long()).logits[mask]
        found = load_pretrained(tmp_path / "adapter", tmp_path / "hf").model(tokens)[mask]
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_the_command_and_what_it_refuses(protlm: Any, model_folder: Path, tmp_path: Path) -> None:
    assert protlm("export", tmp_path / "hf", "--model", model_folder, "--format", "hf").code == 0
    assert protlm("check", tmp_path / "hf").code == 0
    assert protlm("import", tmp_path / "hf", tmp_path / "back").code == 0
    for name in ("config.json", "model.safetensors", "golden.safetensors"):
        assert (tmp_path / "back" / name).read_bytes() == (model_folder / name).read_bytes()
    path = tmp_path / "hf" / "config.json"
    about = json.loads(path.read_text())
    path.write_text(json.dumps({**about, "performer": {**about["performer"], "vocab_size": 40}}))
    assert_refused(protlm("import", tmp_path / "hf", tmp_path / "out"), "vocab_size is 40; expected the 33 tokens")
    path.write_text(json.dumps({**about, "performer": None}))
    with pytest.raises(UserError, match="expected 'performer'"):
        load_pretrained(tmp_path / "hf")
