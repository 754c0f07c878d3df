"""What users of transformers call on an exported model: embeddings as inputs, attention matrices, new tokens."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
    pipeline,
)

from protlm.contacts.attention_head import head_contacts
from protlm.embedding.in_memory import embed
from protlm.exchange.huggingface import export_huggingface
from protlm.interpret.attention_maps import attention_matrices
from protlm.performer import Performer, PerformerConfig
from protlm.performer.kind import AttentionSettings, Kind
from protlm.sequence.alphabet import PAD, encode
from tests.exchange.exported import KINDS, PROTEINS, SIZES, Exported, auto, build, load

CLASSIFIERS = {"proteins": AutoModelForSequenceClassification, "residues": AutoModelForTokenClassification}


def padded(exported: Exported, kind: str, side: str = "left") -> Any:
    tokenizer = load(AutoTokenizer, exported[kind])
    return tokenizer(PROTEINS, padding=True, return_tensors="pt", padding_side=side)


@pytest.mark.parametrize("kind", KINDS)
def test_attentions_are_the_matrices_of_each_protein(exported: Exported, kind: str) -> None:
    inputs = padded(exported, kind)
    with torch.inference_mode():
        output = load(auto(kind), exported[kind])(**inputs, output_attentions=True)
        assert torch.equal(output.logits, load(auto(kind), exported[kind])(**inputs).logits)
    real = inputs["attention_mask"].bool()
    for row, protein in enumerate(PROTEINS):
        if len(protein) > 28:  # attention_matrices warns of positions that the model has not learned
            continue
        expected = torch.from_numpy(attention_matrices(build(kind), protein))
        own = torch.stack([layer[row][:, real[row]][..., real[row]] for layer in output.attentions])
        torch.testing.assert_close(own, expected, atol=1e-5, rtol=1e-4)


def test_attentions_of_sequence_models_and_of_the_model_without_its_head(exported: Exported) -> None:
    inputs = padded(exported, "exact", "right")
    expected = load(auto("exact"), exported["exact"])(**inputs, output_attentions=True).attentions
    for cls in (AutoModel, *CLASSIFIERS.values()):
        model = load(cls, exported["exact"])
        assert all(map(torch.equal, model(**inputs, output_attentions=True).attentions, expected))
        assert model(**inputs).attentions is None
        with pytest.raises(ValueError, match=r"call model\.eval"):
            model.train()(**inputs, output_attentions=True)


@dataclass(frozen=True)
class Squared(Kind):
    """Attention that is not linear in its values."""

    def module(self, settings: AttentionSettings) -> nn.Module:
        return SquaredValues()


class SquaredValues(nn.Module):
    def forward(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, key_mask: torch.Tensor | None) -> torch.Tensor:
        return v.square()


def test_attention_without_a_matrix_is_refused() -> None:
    from protlm.exchange.remote_code.attention_matrices import recorded

    model = Performer(PerformerConfig(33, PAD, **SIZES, attention=Squared())).eval()
    with recorded(model, True), pytest.raises(ValueError, match="SquaredValues is not a weighted mean of the values"):
        model(torch.tensor([[0, 5, 6, 2]]))
    assert not model.blocks[0].attention.attention._forward_hooks


@pytest.mark.parametrize("kind", KINDS)
def test_embeddings_in_place_of_tokens(exported: Exported, kind: str) -> None:
    model, inputs = load(auto(kind), exported[kind]), padded(exported, kind)
    embeddings = model.get_input_embeddings()(inputs["input_ids"])
    output = model(inputs_embeds=embeddings, attention_mask=inputs["attention_mask"])
    assert torch.equal(output.logits, model(**inputs).logits)
    (gradient,) = torch.autograd.grad(output.logits.sum(), embeddings)
    assert gradient[inputs["attention_mask"].bool()].abs().sum(-1).min() > 0
    for cls in (AutoModel, AutoModelForSequenceClassification):
        other = load(cls, exported[kind])
        assert torch.equal(
            other(inputs_embeds=embeddings, attention_mask=inputs["attention_mask"])[0], other(**inputs)[0]
        )


@pytest.mark.filterwarnings("ignore:`.*gradient_checkpointing.*` is deprecated:FutureWarning")
@pytest.mark.parametrize("kind", ["relu", "adaptive", "causal exact"])
def test_gradient_checkpointing_gives_the_same_gradients(exported: Exported, kind: str) -> None:
    tokens, found = torch.randint(4, 24, (2, 20)), []
    for checkpointing in (False, True):
        model = load(auto(kind), exported[kind]).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
            assert model.is_gradient_checkpointing
        model(tokens, labels=tokens).loss.backward()
        assert model.performer.activation_checkpointing == checkpointing
        found.append([weight.grad for weight in model.parameters()])
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("kind", ["relu", "ESM's", "esmc", "causal exact"])
def test_new_tokens(exported: Exported, kind: str, tmp_path) -> None:
    """Old tokens keep their logits; new ones are saved and loaded with the model."""
    model, tokenizer = load(auto(kind), exported[kind]), load(AutoTokenizer, exported[kind])
    tokens = torch.randint(4, 24, (2, 20))
    before = model(tokens).logits.detach()
    tokenizer.add_tokens(["1", "2"])
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    after = model(tokens).logits
    assert after.shape[-1] == model.config.vocab_size == model.performer.config.vocab_size == 35
    torch.testing.assert_close(after[..., :33], before)
    model(tokenizer("MK1A2", return_tensors="pt")["input_ids"]).logits.sum().backward()
    assert model.get_input_embeddings().weight.grad[33:].abs().sum(-1).min() > 0
    model.save_pretrained(tmp_path / "saved")
    tokenizer.save_pretrained(tmp_path / "saved")
    inputs = load(AutoTokenizer, tmp_path / "saved")("MK1A2", return_tensors="pt")
    assert inputs["input_ids"].tolist()[0][-4:] == [33, 5, 34, 2]
    assert torch.equal(load(auto(kind), tmp_path / "saved")(**inputs).logits, model(**inputs).logits)


@pytest.mark.parametrize("kind", ["relu", "causal relu"])
def test_a_saved_model_keeps_its_code_and_its_classes(exported: Exported, kind: str, tmp_path) -> None:
    """As `push_to_hub`, which saves a model before it uploads the folder."""
    for cls in (auto(kind), AutoModel, *CLASSIFIERS.values()):
        model = load(cls, exported[kind])
        model.save_pretrained(tmp_path / cls.__name__)
        saved, original = (
            json.loads((folder / "config.json").read_text()) for folder in (tmp_path / cls.__name__, exported[kind])
        )
        assert saved["auto_map"] == original["auto_map"]
        assert saved["performer"] == original["performer"]
        names = {path.name for path in exported[kind].glob("*.py")}
        assert {path.name for path in (tmp_path / cls.__name__).glob("*.py")} == names
        tokens = torch.randint(4, 24, (2, 20))
        assert torch.equal(load(cls, tmp_path / cls.__name__)(tokens)[0], model(tokens)[0])
    generation = "generation_config.json"
    if kind == "causal relu":
        saved = json.loads((tmp_path / auto(kind).__name__ / generation).read_text())
        assert saved["suppress_tokens"] == json.loads((exported[kind] / generation).read_text())["suppress_tokens"]


@pytest.mark.parametrize("kind", ["softmax", "adaptive", "ESM's", "causal relu"])
def test_half_precision_is_close(exported: Exported, kind: str) -> None:
    inputs = padded(exported, kind)
    for cls in (auto(kind), *CLASSIFIERS.values()):
        model = load(cls, exported[kind])
        half = load(cls, exported[kind], dtype=torch.bfloat16)
        half.load_state_dict(model.state_dict())
        assert half.dtype == torch.bfloat16
        exact, rounded = (one(**inputs).logits.float() for one in (model, half))
        assert (rounded - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize(
    ("problem", "labels", "loss"),
    [
        (None, torch.tensor([0, 2, -100]), F.cross_entropy),
        (None, torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 1, 1]]), F.binary_cross_entropy_with_logits),
        ("multi_label_classification", torch.tensor([[1, 0, 1], [0, 0, 0], [1, 1, 1]]), None),
        (None, torch.tensor([0.3, -1, 2]), F.mse_loss),
    ],
)
def test_the_loss_follows_the_labels(exported: Exported, problem: str | None, labels: torch.Tensor, loss: Any) -> None:
    """Classes, several labels or one value per protein, as in transformers."""
    outputs = 1 if loss is F.mse_loss else 3
    model = load(CLASSIFIERS["proteins"], exported["relu"], num_labels=outputs, problem_type=problem)
    output = model(**padded(exported, "relu"), labels=labels)
    logits = output.logits[:, 0] if outputs == 1 else output.logits
    expected = (loss or F.binary_cross_entropy_with_logits)(
        logits, labels if loss is F.cross_entropy else labels.float()
    )
    torch.testing.assert_close(output.loss, expected)


def test_pipelines_answer_as_protlm(exported: Exported) -> None:
    folder, protein = exported["relu"], "MKTAYIAK"
    features = pipeline("feature-extraction", model=load(AutoModel, folder), tokenizer=load(AutoTokenizer, folder))
    (rows,) = features(protein)
    (ours,) = embed(build("relu"), [protein])
    torch.testing.assert_close(torch.tensor(rows)[1:-1], torch.as_tensor(ours), atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # from torch.compile
@pytest.mark.parametrize("kind", ["relu", "causal exact"])
def test_a_compiled_model_gives_the_same(exported: Exported, kind: str) -> None:
    inputs = padded(exported, kind)
    for cls in (auto(kind), AutoModelForTokenClassification):
        model = load(cls, exported[kind])
        compiled = torch.compile(model)
        torch.testing.assert_close(compiled(**inputs).logits, model(**inputs).logits, atol=1e-5, rtol=1e-4)


def test_contacts_are_those_of_protlm(tmp_path) -> None:
    torch.manual_seed(0)
    model = Performer(PerformerConfig(33, PAD, **{**SIZES, **KINDS["ESM's"]}, contact_head=True)).eval()
    model.contact_head.weight.normal_(std=200.0)
    model.contact_head.bias.fill_(-0.4)
    export_huggingface(model, tmp_path / "hf")
    tokenizer, proteins = load(AutoTokenizer, tmp_path / "hf"), ["MKTAYIAKQR", "GAVLI"]
    for cls in (AutoModel, auto("exact")):
        for side in ("left", "right"):
            inputs = tokenizer(proteins, padding=True, return_tensors="pt", padding_side=side)
            found = load(cls, tmp_path / "hf").predict_contacts(inputs["input_ids"], inputs["attention_mask"])
            assert found.shape == (2, 10, 10)
            for own, protein in zip(found, proteins, strict=True):
                expected = head_contacts(model, encode(protein))
                np.testing.assert_allclose(own[: len(protein), : len(protein)], expected, atol=1e-5)
                assert np.std(expected) > 0.01
            assert not found[1, 5:].any()


def test_contacts_need_a_contact_head(exported: Exported) -> None:
    with pytest.raises(ValueError, match="expected an imported model with a contact head"):
        load(AutoModel, exported["exact"]).predict_contacts(torch.tensor([[0, 5, 6, 2]]))
