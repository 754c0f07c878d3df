"""ESM-2 of transformers with random weights, compared with the model imported from its folder."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import EsmConfig, EsmForMaskedLM

from protlm.checkpoint import export, load, switch
from protlm.errors import UserError
from protlm.exchange.pretrained import load_pretrained
from protlm.performer import Performer
from protlm.sequence.alphabet import MASK, PAD, TOKENS
from protlm.training.optimizer import adamw, muon

SMALL = {
    "vocab_size": 33,
    "pad_token_id": PAD,
    "mask_token_id": MASK,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "layer_norm_eps": 1e-5,
    "position_embedding_type": "rotary",
    "token_dropout": True,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "max_position_embeddings": 1026,
}


FREQUENCIES = "esm.encoder.layer.*.attention.self.rotary_embeddings.inv_freq"
"""As transformers 5.23 names them in a file."""


CONTACTS = ("esm.contact_head.regression.weight", "esm.contact_head.regression.bias")


def load_esm(folder: Path) -> Performer:
    return load_pretrained(folder).model


def esm(spread: float = 0.05, **changes: Any) -> EsmForMaskedLM:
    """ESM-2 whose weights, including norms and biases, differ from their usual initialisation by `spread`."""
    torch.manual_seed(0)
    model = EsmForMaskedLM(EsmConfig(**{**SMALL, **changes})).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight += spread * torch.randn_like(weight)
    return model


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and attention mask (B, L): proteins of several lengths, with and without masks."""
    tokens = torch.randint(4, 24, (4, 60), generator=torch.Generator().manual_seed(1))
    tokens[:, 0] = 0
    for row, length in enumerate((60, 41, 23, 3)):
        tokens[row, length - 1] = 2
        tokens[row, length:] = PAD
    tokens[0, 5:40:3] = MASK
    tokens[1, 7] = MASK
    tokens[3, 1] = MASK
    return tokens, tokens != PAD


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as transformers writes it."""
    folder = tmp_path_factory.mktemp("esm") / "saved"
    esm().save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(saved, tmp_path / "esm"))


@pytest.fixture
def imported(saved: Path) -> Performer:
    return load_esm(saved)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"token_dropout": False},
        {"position_embedding_type": "absolute", "max_position_embeddings": 70},
        {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 4, "intermediate_size": 8},
        {"num_hidden_layers": 5, "hidden_size": 64, "num_attention_heads": 1, "layer_norm_eps": 1e-12},
        {"hidden_size": 40, "num_attention_heads": 20, "intermediate_size": 160, "layer_norm_eps": 0.1},
        {"spread": 0.3},
        {"initializer_range": 0.3, "token_dropout": False},
    ],
)
def test_logits_and_layers_equal_those_of_transformers(tmp_path: Path, changes: dict[str, Any]) -> None:
    theirs = esm(**changes)
    theirs.save_pretrained(tmp_path / "esm")
    ours = load_esm(tmp_path / "esm")
    tokens, mask = batch()
    with torch.inference_mode():
        expected = theirs(tokens, attention_mask=mask.long(), output_hidden_states=True)
        torch.testing.assert_close(ours(tokens)[mask], expected.logits[mask], atol=1e-4, rtol=0)
        layers = ours.representations(tokens, range(len(ours.blocks) + 1))
    assert expected.logits[mask].std() > 0.05
    assert len(expected.hidden_states) == len(layers)
    for number, hidden in enumerate(expected.hidden_states):
        torch.testing.assert_close(layers[number][mask], hidden[mask], atol=1e-4, rtol=1e-4)


def test_the_comparison_detects_a_wrong_mask_scale_and_wrong_frequencies(tmp_path: Path) -> None:
    theirs = esm()
    theirs.save_pretrained(tmp_path / "esm")
    tokens, mask = batch()
    for name, value in (("token_dropout", False), ("layer_norm_eps", 0.1), ("num_attention_heads", 6)):
        about = json.loads((tmp_path / "esm" / "config.json").read_text())
        shutil.copytree(tmp_path / "esm", tmp_path / name)
        (tmp_path / name / "config.json").write_text(json.dumps({**about, name: value}))
        if name == "num_attention_heads":  # other shapes
            drop(tmp_path / name, FREQUENCIES, *CONTACTS)
        with torch.inference_mode():
            assert (load_esm(tmp_path / name)(tokens) - theirs(tokens, mask.long()).logits)[mask].abs().max() > 1e-3


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_frequencies_rounded_in_training_stay_rounded(tmp_path: Path, dtype: str) -> None:
    """Meta's checkpoints were trained in float16, and have frequencies of that precision."""
    theirs = esm(spread=0.3)
    theirs.esm.rotary_embeddings.inv_freq.copy_(theirs.esm.rotary_embeddings.inv_freq.to(getattr(torch, dtype)))
    theirs.save_pretrained(tmp_path / "esm")
    ours = load_esm(tmp_path / "esm")
    assert ours.config.rotary_dtype == dtype
    tokens = torch.randint(4, 24, (1, 500), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = EsmForMaskedLM.from_pretrained(tmp_path / "esm")(tokens).logits
        torch.testing.assert_close(ours(tokens), expected, atol=1e-4, rtol=1e-4)
        exact = load_esm(tmp_path / "esm")
        object.__setattr__(exact.config, "rotary_dtype", "float32")
        assert (exact(tokens) - expected).abs().max() > 1e-3


def test_an_imported_model_round_trips_through_its_folder(imported: Performer, tmp_path: Path) -> None:
    export(imported, tmp_path / "ours")
    tokens, _ = batch()
    with torch.inference_mode():
        assert torch.equal(load(tmp_path / "ours")(tokens), imported(tokens))
    assert imported.config.max_length == 1024
    assert not imported.training


@pytest.mark.parametrize("optimizer", [adamw, muon])
def test_every_parameter_of_an_imported_model_learns(imported: Performer, optimizer: Any) -> None:
    tokens, _ = batch()
    steps = optimizer(imported.train(), lr=1e-2)
    before = {name: weight.detach().clone() for name, weight in imported.named_parameters()}
    imported.loss(imported(tokens), tokens).backward()
    steps.step()
    for name, weight in imported.named_parameters():
        assert weight.isfinite().all(), name
        assert not torch.equal(weight, before[name]), name


def test_favor_approximates_exact_attention_better_with_more_features_and_reverts(
    imported: Performer, tmp_path: Path
) -> None:
    export(imported, tmp_path / "ours")
    tokens, mask = batch()
    weights = dict(imported.named_parameters())
    with torch.inference_mode():
        exact, errors = imported(tokens), []
        for features in (16, 256, 4096):
            switched = load(tmp_path / "ours", attention="softmax", num_features=features)
            assert (switched.config.attention, switched.config.num_features) == ("softmax", features)
            for name, weight in switched.named_parameters():
                assert torch.equal(weight, weights[name])
            errors.append(float((switched(tokens) - exact)[mask].square().mean().sqrt()))
        assert errors[0] > 2 * errors[1] > 4 * errors[2]
        assert errors[2] < 0.01 * exact[mask].std()
        switch(switched, "exact")
        assert torch.equal(switched(tokens), exact)


def drop(folder: Path, *names: str, **more: torch.Tensor) -> None:
    weights = load_file(folder / "model.safetensors")
    for name in names:
        del weights[name]
    save_file({**weights, **more}, folder / "model.safetensors")


def in_parts(folder: Path, names: tuple[str, str], write: Any) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    halves = [dict(list(weights.items())[i::2]) for i in (0, 1)]
    for name, half in zip(names, halves, strict=True):
        write(half, folder / name)
    index = "model.safetensors.index.json" if names[0].endswith("safetensors") else "pytorch_model.bin.index.json"
    table = {key: name for name, half in zip(names, halves, strict=True) for key in half}
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": table}))


def as_pytorch(folder: Path) -> None:
    """Like Meta's folders: older names, a duplicate embedding, frequencies for each layer, fewer fields."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    frequencies = weights.pop(FREQUENCIES)
    for norm in [name for name in weights if name.endswith(("gamma", "beta"))]:
        weights[norm.replace("gamma", "weight").replace("beta", "bias")] = weights.pop(norm)
    for layer in range(2):
        weights[f"esm.encoder.layer.{layer}.attention.self.rotary_embeddings.inv_freq"] = frequencies
    weights["lm_head.decoder.weight"] = weights["esm.embeddings.word_embeddings.weight"]
    weights["esm.embeddings.position_ids"] = torch.arange(1026)[None]
    weights["esm.embeddings.position_embeddings.weight"] = torch.zeros(1026, 24)
    torch.save(weights, folder / "pytorch_model.bin")
    about = json.loads((folder / "config.json").read_text())
    for name in ("add_cross_attention", "is_decoder", "rope_theta", "tie_word_embeddings"):
        del about[name]
    about |= {"classifier_dropout": None, "emb_layer_norm_before": False, "hidden_act": "gelu", "vocab_list": None}
    (folder / "config.json").write_text(json.dumps(about))
    (folder / "vocab.txt").write_text("\n".join(TOKENS))


@pytest.mark.parametrize(
    "change",
    [
        lambda folder: in_parts(folder, ("a.safetensors", "b.safetensors"), save_file),
        lambda folder: in_parts(folder, ("a.bin", "b.bin"), torch.save),
        as_pytorch,
    ],
    ids=["parts", "PyTorch's parts", "PyTorch"],
)
def test_every_way_to_save_the_weights_gives_the_same_model(imported: Performer, folder: Path, change: Any) -> None:
    change(folder)
    other = load_esm(folder).state_dict()
    for name, weight in imported.state_dict().items():
        assert torch.equal(other[name], weight)


def test_a_model_without_contact_head_is_the_same_otherwise(imported: Performer, folder: Path) -> None:
    drop(folder, *CONTACTS)
    other = load_esm(folder)
    assert imported.config.contact_head
    assert not other.config.contact_head
    assert set(imported.state_dict()) - set(other.state_dict()) == {"contact_head.weight", "contact_head.bias"}
    for name, weight in other.state_dict().items():
        assert torch.equal(imported.state_dict()[name], weight)


def test_weights_of_16_bits_become_float32(folder: Path, imported: Performer) -> None:
    halves = {name: weight.to(torch.bfloat16) for name, weight in load_file(folder / "model.safetensors").items()}
    save_file(halves, folder / "model.safetensors")
    for name, weight in load_esm(folder).state_dict().items():
        assert weight.dtype == torch.float32
        assert torch.equal(weight, imported.state_dict()[name].to(torch.bfloat16).float())


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_esm(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model_type", "bert"),
        ("position_embedding_type", "relative_key"),
        ("is_folding_model", True),
        ("vocab_size", 34),
        ("emb_layer_norm_before", True),
        ("hidden_act", "relu"),
        ("tie_word_embeddings", False),
        ("is_decoder", True),
        ("rope_theta", 500.0),
        ("mask_token_id", None),
        ("pad_token_id", 0),
        ("num_hidden_layers", "two"),
        ("num_hidden_layers", None),
        ("num_hidden_layers", 0),
        ("num_attention_heads", 5),
        ("layer_norm_eps", None),
        ("layer_norm_eps", "1e-5"),
        ("hidden_dropout_prob", 2.0),
    ],
)
def test_other_models_are_refused_with_the_differing_field(folder: Path, name: str, value: Any) -> None:
    about = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**about, name: value}))
    message = refusal(folder)
    assert (str(value) if name == "num_attention_heads" else f"{name} is {value!r}") in message
    assert "expected" in message or "where it is" in message


def test_a_different_vocabulary_is_refused(folder: Path) -> None:
    (folder / "vocab.txt").write_text("\n".join(sorted(TOKENS)))
    assert "vocab.txt: vocabulary differs" in refusal(folder)
    about = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**about, "vocab_list": ["A"]}))
    assert "config.json: vocabulary differs" in refusal(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: drop(f, "lm_head.bias"), ("1 weights missing", "lm_head.bias")),
        (lambda f: drop(f, **{"esm.other.weight": torch.ones(2)}), ("unexpected", "esm.other.weight")),
        (lambda f: drop(f, **{"lm_head.decoder.weight": torch.ones(33, 24)}), ("not the embedding",)),
        (lambda f: drop(f, **{"lm_head.bias": torch.ones(32)}), ("lm_head.bias is float32 [32]", "[33]")),
        (lambda f: drop(f, **{"lm_head.bias": torch.full((33,), torch.nan)}), ("lm_head.bias", "finite")),
        (lambda f: drop(f, **{"lm_head.bias": torch.ones(33, dtype=torch.long)}), ("int64", "floats")),
        (lambda f: drop(f, **{FREQUENCIES: torch.ones(4)}), ("inv_freq",)),
        (lambda f: (f / "model.safetensors").unlink(), ("no weights", "pytorch_model.bin")),
        (lambda f: (f / "config.json").unlink(), ("config.json is missing",)),
        (lambda f: (f / "config.json").write_text("{"), ("not JSON",)),
        (lambda f: (f / "config.json").write_text("[]"), ("list",)),
    ],
)
def test_weights_other_than_those_of_esm_are_refused_by_name(folder: Path, change: Any, words: Any) -> None:
    change(folder)
    message = refusal(folder)
    for word in words:
        assert word in message


@pytest.mark.parametrize("kept", [0, 7, 0.5, 0.999])
@pytest.mark.parametrize("change", [lambda folder: None, as_pytorch], ids=["safetensors", "PyTorch"])
def test_a_truncated_file_is_refused(folder: Path, change: Any, kept: float) -> None:
    change(folder)
    (path,) = (path for path in folder.iterdir() if path.suffix in (".safetensors", ".bin"))
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if kept < 1 else int(kept)])
    assert "damaged or cut short" in refusal(folder)


def test_an_index_names_files_of_its_folder_only(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    (folder / "model.safetensors").rename(folder.parent / "elsewhere.safetensors")
    for table in ({"lm_head.bias": "../elsewhere.safetensors"}, {"lm_head.bias": "absent.safetensors"}):
        index.write_text(json.dumps({"weight_map": table}))
        assert "not in the folder" in refusal(folder)
    for table in ({}, {"weight_map": 3}, {"weight_map": {"a": 3}}):
        index.write_text(json.dumps(table))
        assert "weight_map" in refusal(folder)


def test_a_pickle_with_code_is_not_executed(folder: Path) -> None:
    target = folder / "hacked"

    class Attack:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.mkdir, (target,)

    (folder / "model.safetensors").unlink()
    torch.save({"weights": Attack()}, folder / "pytorch_model.bin")
    refusal(folder)
    assert not target.exists()


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    assert "no such folder" in refusal(tmp_path / "absent")
