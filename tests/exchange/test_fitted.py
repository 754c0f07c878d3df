"""Fitted models in transformers: the same probabilities, whatever the padding; exported models take a new head."""

import json

import numpy as np
import pandas
import pytest
import torch
from huggingface_hub import ModelCard
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from protlm.errors import UserError
from protlm.exchange.huggingface import export_huggingface
from protlm.supervised.fit_api import fit
from protlm.supervised.huggingface import export_predictor
from protlm.supervised.linear_head import answers
from protlm.supervised.predictor import Predictor
from protlm.supervised.tuning.head import TunedHead
from tests.supervised.proteins import proteins, variants

SHOWN = ["MKTAYIAKQR", "MKEEWYCK"]


def fitted(model, level: str) -> Predictor:
    sequences, labels = proteins(60)
    columns = {
        "classes": labels,
        "values": [sequence.count("K") / 7 for sequence in sequences],
        "several": [("x;y", "y", "")[number % 3] or "x" for number in range(60)],
        "residues": ["".join("+" if one in "KR" else "o" for one in sequence) for sequence in sequences],
    }
    if level == "variants":
        sequences, columns[level] = variants(60)
    table = pandas.DataFrame({"sequence": sequences, "label": columns[level], "split": ["train", "train", "test"] * 20})
    return fit(table, model=model, relatives=False, layers=(1, 2))


def tuned(predictor: Predictor) -> Predictor:
    """The predictor with a network that says something in place of the probe."""
    head = predictor.head()
    torch.manual_seed(3)
    sizes = {"features": len(head.weight), "width": 16, "last": 2, "hidden": 12}
    new = TunedHead(head.target, head.kind, head.per_residue, head.classes, head.blocks, **sizes).eval()
    for weight in new.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    new.temperature = 1.7
    return Predictor(predictor.model, [new], predictor.report, predictor.base)


@pytest.mark.parametrize("network", [False, True])
@pytest.mark.parametrize("level", ["classes", "values", "several", "residues", "variants"])
def test_transformers_predicts_the_same(level, network, tiny_model, tmp_path):
    predictor = fitted(tiny_model, level)
    predictor = tuned(predictor) if network else predictor
    export_predictor(predictor, tmp_path / "hf")
    auto = AutoModelForTokenClassification if level == "residues" else AutoModelForSequenceClassification
    model = auto.from_pretrained(tmp_path / "hf", trust_remote_code=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf", trust_remote_code=True)
    assert len(AutoModel.from_pretrained(tmp_path / "hf", trust_remote_code=True)(torch.tensor([[0, 5, 2]]))[0]) == 1
    head = predictor.head()
    shown = variants(60)[0][:2] if level == "variants" else SHOWN
    expected = [found["label"] for found in predictor.answers(shown)]
    assert model.config.id2label == dict(enumerate(head.classes or ("value",)))
    for side in ("left", "right"):
        tokenizer.padding_side = side
        batch = tokenizer(shown, return_tensors="pt", padding=True)
        with torch.no_grad():
            logits = model(**batch).logits.double().numpy()
        for row, (own, mask) in enumerate(zip(logits, batch["attention_mask"].bool().numpy(), strict=True)):
            found = own[mask][1:-1] if level == "residues" else own[None]
            np.testing.assert_allclose(
                np.squeeze(answers(head.kind, found)), np.squeeze(expected[row]), rtol=1e-4, atol=1e-5
            )


def test_an_exported_model_takes_a_new_head_and_learns(tiny_model, tmp_path):
    export_huggingface(tiny_model, tmp_path / "hf")
    assert AutoModelForMaskedLM.from_pretrained(tmp_path / "hf", trust_remote_code=True)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf", trust_remote_code=True)
    sequences, labels = proteins(16)
    batch = tokenizer(sequences, return_tensors="pt", padding=True)
    wanted = torch.tensor([("acidic", "basic").index(label) for label in labels])
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "hf", trust_remote_code=True, num_labels=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(15):
        loss = model(**batch, labels=wanted).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    residues = AutoModelForTokenClassification.from_pretrained(tmp_path / "hf", trust_remote_code=True, num_labels=4)
    unknown = torch.full_like(batch["input_ids"], -100)
    unknown[:, 3] = 1
    found = residues(**batch, labels=unknown)
    assert found.logits.shape == (*unknown.shape, 4)
    assert found.loss.item() == pytest.approx(np.log(4), abs=0.5)


def test_the_command_and_what_it_refuses(tiny_model, tmp_path, protlm):
    predictor = fitted(tiny_model, "classes")
    predictor.save(tmp_path / "fitted", copy_base=True)
    done = protlm("export", tmp_path / "hf", "--model", tmp_path / "fitted", "--format", "hf")
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["problem_type"] == "single_label_classification"
    card = ModelCard.load(tmp_path / "hf" / "README.md")
    assert "AutoModelForSequenceClassification.from_pretrained" in card.text
    assert card.data.pipeline_tag == "text-classification"
    metrics = predictor.report["targets"][0]["metrics"]
    first = next(iter(metrics.values()))
    assert {one.metric_type: one.metric_value for one in card.data.eval_results} == {
        name: estimate["value"] for name, estimate in first.items()
    }
    assert all(f"| {method} |" in card.text for method in metrics)
    refused = protlm("export", tmp_path / "no", "--model", tmp_path / "fitted")
    assert refused.code == 2
    assert "exported with --format hf only" in refused.err
    two = Predictor(tiny_model, [predictor.head(), predictor.head()], predictor.report, predictor.base)
    with pytest.raises(UserError, match="2 targets; choose one"):
        export_predictor(two, tmp_path / "other")
