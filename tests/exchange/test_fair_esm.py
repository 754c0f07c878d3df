"""Files of fair-esm, written from a random ESM-2 of transformers; names as the package has them."""

from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from protlm.errors import UserError
from protlm.exchange.pretrained import load_pretrained
from protlm.performer import Performer
from tests.exchange.test_esm import batch, esm

LAYER = {
    "attention.LayerNorm": "self_attn_layer_norm",
    "attention.self.query": "self_attn.q_proj",
    "attention.self.key": "self_attn.k_proj",
    "attention.self.value": "self_attn.v_proj",
    "attention.output.dense": "self_attn.out_proj",
    "LayerNorm": "final_layer_norm",
    "intermediate.dense": "fc1",
    "output.dense": "fc2",
}


def write(folder: Path, name: str = "esm2_t.pt", contacts: bool = True, **settings: Any) -> Any:
    """Writes a model and its regression of contacts; returns that of transformers with the same weights."""
    theirs = esm(spread=0.2)
    given, content = theirs.state_dict(), {}
    for layer in range(2):
        for module, own in LAYER.items():
            for kind in ("weight", "bias"):
                weight = given[f"esm.encoder.layer.{layer}.{module}.{kind}"]
                content[f"encoder.sentence_encoder.layers.{layer}.{own}.{kind}"] = weight
        frequencies = 10_000.0 ** -(torch.arange(0, 8, 2) / 8)
        content[f"encoder.sentence_encoder.layers.{layer}.self_attn.rot_emb.inv_freq"] = frequencies
    embedding = given["esm.embeddings.word_embeddings.weight"]
    content["encoder.sentence_encoder.embed_tokens.weight"] = content["encoder.lm_head.weight"] = embedding
    content["encoder.lm_head.bias"] = given["lm_head.bias"]
    for kind in ("weight", "bias"):
        norm = given[f"esm.encoder.emb_layer_norm_after.{kind}"]
        content[f"encoder.sentence_encoder.emb_layer_norm_after.{kind}"] = norm
        for module in ("dense", "layer_norm"):
            content[f"encoder.lm_head.{module}.{kind}"] = given[f"lm_head.{module}.{kind}"]
    about = {"encoder_layers": 2, "encoder_attention_heads": 3, "encoder_embed_dim": 24, "token_dropout": True}
    torch.save({"cfg": {"model": Namespace(**{**about, **settings})}, "model": content}, folder / name)
    regression = {f"contact_head.regression.{k}": given[f"esm.contact_head.regression.{k}"] for k in ("weight", "bias")}
    if contacts:
        torch.save({"model": regression}, folder / name.replace(".pt", "-contact-regression.pt"))
    return theirs


def test_a_file_equals_the_model_of_transformers(tmp_path: Path, protlm: Any) -> None:
    theirs = write(tmp_path)
    ours = load_pretrained(tmp_path / "esm2_t.pt").model
    tokens, mask = batch()
    with torch.no_grad():
        expected = theirs(tokens, attention_mask=mask.long()).logits[mask]
        torch.testing.assert_close(ours(tokens)[mask], expected, atol=1e-4, rtol=1e-4)
    regression = theirs.state_dict()["esm.contact_head.regression.weight"]
    np.testing.assert_array_equal(ours.contact_head.weight, regression.reshape(2, 3))
    assert ours.config.feed_forward == 40
    assert protlm("import", tmp_path / "esm2_t.pt", tmp_path / "model").code == 0


def test_the_regression_of_contacts_is_optional(tmp_path: Path) -> None:
    write(tmp_path, contacts=False)
    assert not load_pretrained(tmp_path / "esm2_t.pt").model.config.contact_head


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"encoder_layers": 3}, "weights missing (layers.2."),
        ({"encoder_layers": 1}, "weights unexpected (layers.1."),
        ({"encoder_attention_heads": 5}, "encoder_embed_dim 24 with 5 heads"),
        ({"encoder_embed_dim": "24"}, "encoder_embed_dim is '24'"),
        ({"encoder_embed_dim": 12}, "rotary frequencies"),
    ],
)
def test_settings_that_do_not_fit_are_refused(tmp_path: Path, settings: dict[str, Any], words: str) -> None:
    write(tmp_path, **settings)
    with pytest.raises(UserError) as caught:
        load_pretrained(tmp_path / "esm2_t.pt")
    assert words in str(caught.value)
    assert str(tmp_path / "esm2_t.pt") in str(caught.value)


def test_other_and_damaged_files_are_refused(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / "esm2_t.pt"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="damaged or cut short"):
        load_pretrained(path)
    for other in ({"args": Namespace(arch="roberta_large"), "model": {}}, {"cfg": {}}, [1]):
        torch.save(other, path)
        with pytest.raises(UserError, match="expected ESM-2 of fair-esm"):
            load_pretrained(path)
    torch.save({"cfg": {"model": Performer}}, path)  # would execute code
    with pytest.raises(UserError, match="not a file of weights"):
        load_pretrained(path)
    with pytest.raises(UserError, match="no such file; to use ESM-2, import it"):
        load_pretrained(tmp_path / "esm2_t6_8M_UR50D.pt")
