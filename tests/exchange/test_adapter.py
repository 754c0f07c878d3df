"""LoRA adapters of peft, merged at import."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import EsmcConfig, EsmcForMaskedLM, EsmForMaskedLM, EsmForSequenceClassification, EsmModel

from protlm.errors import UserError
from protlm.exchange.pretrained import load_pretrained
from tests.command import assert_refused
from tests.exchange.test_esm import batch
from tests.exchange.test_esmc import esmc
from tests.exchange.test_pretrained import saved

peft = pytest.importorskip("peft", reason="peft is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # of peft, about transformers


def adapted(theirs: Any, folder: Path, **settings: Any) -> Any:
    """The model with an adapter that changes it, saved."""
    torch.manual_seed(1)
    model = peft.get_peft_model(theirs, peft.LoraConfig(**{"r": 4, "lora_alpha": 16, **settings})).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight += 0.2 * torch.randn_like(weight)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["query", "value"]},
        {"target_modules": ["query", "dense"], "use_rslora": True},
        {
            "target_modules": "all-linear",
            "rank_pattern": {"key": 2},
            "alpha_pattern": {"query": 3, "0.output.dense": 5},
        },
    ],
)
def test_a_merged_adapter_equals_that_of_peft(tmp_path: Path, settings: dict[str, Any]) -> None:
    theirs = saved(EsmForMaskedLM, tmp_path / "esm")
    tokens, mask = batch()
    with torch.no_grad():
        before = theirs(tokens, mask.long()).logits[mask]
        model = adapted(EsmForMaskedLM.from_pretrained(tmp_path / "esm"), tmp_path / "adapter", **settings)
        expected = model(input_ids=tokens, attention_mask=mask.long()).logits[mask]
        found = load_pretrained(tmp_path / "adapter").model(tokens)[mask]
    assert (expected - before).abs().max() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_adapters_of_classifiers_and_of_bare_models_fit_any_base(tmp_path: Path) -> None:
    tokens, mask = batch()
    saved(EsmForMaskedLM, tmp_path / "esm")
    for cls, task in ((EsmForSequenceClassification, "SEQ_CLS"), (EsmModel, "FEATURE_EXTRACTION")):
        theirs = cls.from_pretrained(tmp_path / "esm")
        model = adapted(theirs, tmp_path / task, target_modules=["query", "value"], task_type=task)
        imported = load_pretrained(tmp_path / task)
        assert imported.left_out == (["classifier"] if task == "SEQ_CLS" else [])
        inner = model.base_model.model
        base = inner if cls is EsmModel else inner.esm
        with torch.no_grad():
            expected = base(tokens, attention_mask=mask.long()).last_hidden_state
            torch.testing.assert_close(imported.model.hidden(tokens)[mask], expected[mask], atol=1e-4, rtol=1e-4)


def test_an_adapter_of_esmc(tmp_path: Path) -> None:
    esmc(EsmcForMaskedLM, tmp_path / "esmc")
    assert EsmcConfig.from_pretrained(tmp_path / "esmc").num_hidden_layers == 2
    theirs = EsmcForMaskedLM.from_pretrained(tmp_path / "esmc")
    model = adapted(theirs, tmp_path / "adapter", target_modules=["q_proj", "o_proj", "up_proj", "down_proj"])
    tokens, mask = batch()
    with torch.no_grad():
        expected = model(input_ids=tokens, attention_mask=mask.long()).logits[mask][:, :33]
        torch.testing.assert_close(
            load_pretrained(tmp_path / "adapter").model(tokens)[mask], expected, atol=1e-4, rtol=1e-4
        )


def test_what_cannot_be_merged_is_refused(tmp_path: Path, protlm: Any) -> None:
    saved(EsmForMaskedLM, tmp_path / "esm")
    saved(EsmForMaskedLM, tmp_path / "wider", hidden_size=48)
    adapted(EsmForMaskedLM.from_pretrained(tmp_path / "esm"), tmp_path / "adapter", target_modules=["query"])
    with pytest.raises(UserError, match="does not fit the base model"):
        load_pretrained(tmp_path / "adapter", tmp_path / "wider")
    assert_refused(
        protlm("import", tmp_path / "esm", tmp_path / "out", "--base", tmp_path / "wider"), "--base", "is no adapter"
    )
    path = tmp_path / "adapter" / "adapter_config.json"
    settings = json.loads(path.read_text())
    for name, value in (("peft_type", "IA3"), ("use_dora", True), ("fan_in_fan_out", True)):
        path.write_text(json.dumps({**settings, name: value}))
        with pytest.raises(UserError, match=f"{name} is {value!r}; only LoRA"):
            load_pretrained(tmp_path / "adapter")
    path.write_text(json.dumps({**settings, "base_model_name_or_path": "facebook/esm2_t6_8M_UR50D"}))
    assert_refused(
        protlm("import", tmp_path / "adapter", tmp_path / "out"),
        "an adapter of facebook/esm2_t6_8M_UR50D",
        "hf download facebook/esm2_t6_8M_UR50D --local-dir esm2_t6_8M_UR50D",
        "--base",
    )
    path.write_text(json.dumps(settings))
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    own = load_file(weights)
    save_file({**own, "base_model.model.esm.lora_embedding_A": torch.ones(2, 2)}, weights)
    with pytest.raises(UserError, match="only LoRA of linear layers"):
        load_pretrained(tmp_path / "adapter")
