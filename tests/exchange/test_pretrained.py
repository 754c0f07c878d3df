"""Models of transformers with other heads than that of a language model, and without any."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModel,
    EsmConfig,
    EsmForMaskedLM,
    EsmForSequenceClassification,
    EsmForTokenClassification,
    EsmModel,
)

from protlm import checkpoint, model_api
from protlm.errors import UserError
from protlm.exchange.huggingface import export_huggingface
from protlm.exchange.pretrained import load_pretrained
from protlm.sequence.alphabet import encode, with_ends
from tests.command import assert_refused
from tests.exchange.test_esm import SMALL, batch

CLASSES: dict[type, tuple[str, list[str]]] = {
    EsmModel: ("none", ["pooler"]),
    EsmForMaskedLM: ("esm", []),
    EsmForSequenceClassification: ("none", ["classifier"]),
    EsmForTokenClassification: ("none", ["classifier"]),
}


def saved(cls: Any, folder: Path, **changes: Any) -> Any:
    """A model with random weights, saved."""
    torch.manual_seed(0)
    model = cls(EsmConfig(**{**SMALL, **changes}, num_labels=3)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.1 * torch.randn_like(weight)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("cls", CLASSES)
def test_representations_equal_those_of_transformers_whatever_the_head(cls: Any, tmp_path: Path) -> None:
    theirs = saved(cls, tmp_path / "esm")
    imported = load_pretrained(tmp_path / "esm")
    assert (imported.model.config.head, imported.left_out) == CLASSES[cls]
    tokens, mask = batch()
    base = theirs if cls is EsmModel else theirs.esm
    with torch.no_grad():
        expected = base(tokens, attention_mask=mask.long()).last_hidden_state
        assert expected[mask].std() > 0.1
        torch.testing.assert_close(imported.model.hidden(tokens)[mask], expected[mask], atol=1e-5, rtol=1e-4)


def test_a_model_without_language_head_embeds_and_says_that_it_does_not_predict(tmp_path: Path, protlm: Any) -> None:
    saved(EsmForSequenceClassification, tmp_path / "esm")
    done = protlm("import", tmp_path / "esm", tmp_path / "model")
    assert done.code == 0
    assert "no language-model head" in done.err
    assert "left out: classifier" in done.err
    model = model_api.load(tmp_path / "model")
    assert model.embed("MKTAYIAK").shape == (24,)
    assert model.contacts("MKTAYIAK").shape == (8, 8)  # by its contact head
    calls = (
        lambda: model.predict_masked("MK<mask>T"),
        lambda: model.probabilities("MKT"),
        lambda: model.pseudo_perplexity("MKT"),
        lambda: model.score("MKT"),
        lambda: model.contacts("MKTAYIAK", "jacobian"),
    )
    for call in calls:
        with pytest.raises(UserError, match="the model has no language-model head"):
            call()
    assert_refused(protlm("fill", "MK<mask>T", "--model", tmp_path / "model"), "no language-model head")


def test_a_model_without_language_head_round_trips(tmp_path: Path) -> None:
    theirs = saved(EsmModel, tmp_path / "esm")
    ours = load_pretrained(tmp_path / "esm").model
    checkpoint.export(ours, tmp_path / "ours")
    export_huggingface(checkpoint.load(tmp_path / "ours"), tmp_path / "back")
    back = AutoModel.from_pretrained(tmp_path / "back", trust_remote_code=True)
    tokens = torch.from_numpy(with_ends(encode("MKTAYIAKQRQISFVKSHFSRQ"))).long()[None]
    with torch.no_grad():
        expected = theirs(tokens).last_hidden_state.numpy()
        np.testing.assert_allclose(back(tokens).last_hidden_state.numpy(), expected, atol=1e-5)
    assert "AutoModel.from_pretrained" in (tmp_path / "back" / "README.md").read_text()


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    saved(EsmModel, tmp_path / "esm")
    config = (tmp_path / "esm" / "config.json").read_text()
    (tmp_path / "esm" / "config.json").write_text(config.replace('"model_type": "esm"', '"model_type": "bert"'))
    with pytest.raises(UserError, match="model_type is 'bert'; expected one of 'esm'"):
        load_pretrained(tmp_path / "esm")
