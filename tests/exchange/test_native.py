"""Models written back as the classes of transformers' own that they were imported from."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, EsmcForMaskedLM, EsmcModel, EsmForMaskedLM, EsmModel

from protlm import checkpoint, golden
from protlm.errors import UserError
from protlm.exchange.esm import LEARNED, OFFSET
from protlm.exchange.esmc import _multiplied
from protlm.exchange.native import export_native
from protlm.exchange.pretrained import ARCHITECTURES, load_pretrained
from protlm.exchange.weight_names import moved_back
from protlm.performer import Performer, PerformerConfig
from protlm.sequence.alphabet import encode, with_ends
from protlm.training.optimizer import adamw, muon
from tests.command import assert_refused
from tests.exchange.test_esm import CONTACTS, batch, drop
from tests.exchange.test_esmc import esmc
from tests.exchange.test_pretrained import saved

SHAPES: list[tuple[str, Any, dict[str, Any]]] = [
    ("esm", EsmForMaskedLM, {}),
    ("esm", EsmForMaskedLM, {"token_dropout": False, "layer_norm_eps": 1e-12, "max_position_embeddings": 514}),
    ("esm", EsmForMaskedLM, {"position_embedding_type": "absolute", "max_position_embeddings": 62}),
    ("esm", EsmForMaskedLM, {"num_hidden_layers": 5, "hidden_size": 64, "num_attention_heads": 1}),
    ("esm", EsmModel, {"hidden_size": 8, "num_attention_heads": 4, "intermediate_size": 8}),
    ("esmc", EsmcForMaskedLM, {}),
    ("esmc", EsmcForMaskedLM, {"num_hidden_layers": 30, "vocab_size": 33}),
    ("esmc", EsmcForMaskedLM, {"num_hidden_layers": 48, "max_position_embeddings": 512}),
    ("esmc", EsmcForMaskedLM, {"attention_bias": True, "mlp_bias": True, "num_hidden_layers": 5}),
    ("esmc", EsmcModel, {"hidden_size": 64, "num_attention_heads": 1, "mlp_bias": True}),
]


def transformed(cls: Any, folder: Path) -> Any:
    """The model that transformers loads, which finds all weights and no others."""
    model, info = cls.from_pretrained(folder, output_loading_info=True)
    missing = {name for name in info["missing_keys"] if ".pooler." not in f".{name}"}
    assert not missing
    assert not info["unexpected_keys"]
    return model.eval()


def answers(model: Any) -> torch.Tensor:
    tokens, mask = batch()
    with torch.inference_mode():
        output = model(tokens, attention_mask=mask.long())
    return output.logits[mask][:, :33] if "logits" in output else output.last_hidden_state[mask]


@pytest.mark.parametrize(("family", "cls", "changes"), SHAPES)
def test_a_model_comes_back_as_it_was(family: str, cls: Any, changes: dict[str, Any], tmp_path: Path) -> None:
    theirs = (saved if family == "esm" else esmc)(cls, tmp_path / "theirs", **changes)
    ours = load_pretrained(tmp_path / "theirs").model
    export_native(ours, tmp_path / "back", family)
    again = load_pretrained(tmp_path / "back").model
    assert again.config == ours.config
    for name, weight in ours.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name
    back = transformed(cls, tmp_path / "back")
    torch.testing.assert_close(answers(back), answers(theirs), atol=2e-5, rtol=1e-5)
    for name, weight in theirs.state_dict().items():
        found = back.state_dict()[name]
        if name == LEARNED:  # no residue has the first positions
            found, weight = found[OFFSET:], weight[OFFSET:]
        if ".pooler." not in f".{name}":
            torch.testing.assert_close(found, weight[: len(found)], atol=0, rtol=2.4e-7, msg=name)  # of a divisor


def test_each_family_is_one_table_that_is_read_in_both_directions() -> None:
    """The arguments that a configuration gives are those that give it."""
    for family, table in ARCHITECTURES.items():
        own = {"positions": "rotary", "norm_eps": 1e-6, "dropout": 0.1, "head": table.head}
        sizes = {"layers": 8, "heads": 2, "width": 8, "feed_forward": 8}
        config = PerformerConfig(**{**own, **table.here, **sizes})
        entries = table.entries(config)
        assert {here: entries[there] for there, here in table.fields.items()}.items() <= config.to_dict().items()
        assert all(entries[name] == value for name, (value, _) in table.there.items())
        state = Performer(config).state_dict()
        sources = [source for name in state for source in table.names.sources(name)]
        assert len(sources) == len(set(sources)), family
        assert moved_back(table.names, Performer(config)).keys() == set(sources)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_rounded_frequencies_of_positions_come_back(dtype: str, tmp_path: Path) -> None:
    theirs = saved(EsmForMaskedLM, tmp_path / "first")
    theirs.esm.rotary_embeddings.inv_freq.copy_(theirs.esm.rotary_embeddings.inv_freq.to(getattr(torch, dtype)))
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_pretrained(tmp_path / "theirs").model
    assert ours.config.rotary_dtype == dtype
    export_native(ours, tmp_path / "back", "esm")
    back = transformed(EsmForMaskedLM, tmp_path / "back")
    found, expected = back.esm.rotary_embeddings.inv_freq, theirs.esm.rotary_embeddings.inv_freq
    torch.testing.assert_close(found, expected, atol=0, rtol=1e-7)


def test_the_contact_head_comes_back_and_none_stays_none(tmp_path: Path) -> None:
    theirs = saved(EsmForMaskedLM, tmp_path / "theirs")
    export_native(load_pretrained(tmp_path / "theirs").model, tmp_path / "back", "esm")
    back = transformed(EsmForMaskedLM, tmp_path / "back")
    for model in (theirs, back):
        model.set_attn_implementation("eager")
    tokens = torch.from_numpy(with_ends(encode("MKTAYIAKQRQISFVKSHFSRQ"))).long()[None]
    with torch.inference_mode():
        expected = theirs.predict_contacts(tokens, torch.ones_like(tokens))
        torch.testing.assert_close(back.predict_contacts(tokens, torch.ones_like(tokens)), expected)
    drop(tmp_path / "theirs", *CONTACTS)
    export_native(load_pretrained(tmp_path / "theirs").model, tmp_path / "without", "esm")
    assert not load_pretrained(tmp_path / "without").model.config.contact_head


@pytest.mark.parametrize(("family", "cls"), [("esm", EsmForMaskedLM), ("esmc", EsmcForMaskedLM)])
def test_a_model_trained_further_is_the_same_in_transformers(family: str, cls: Any, tmp_path: Path) -> None:
    (saved if family == "esm" else esmc)(cls, tmp_path / "theirs")
    ours = load_pretrained(tmp_path / "theirs").model
    for weight in ours.parameters():
        if weight.requires_grad:
            weight.data += 0.01 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    export_native(ours, tmp_path / "back", family)
    tokens, mask = batch()
    with torch.inference_mode():
        expected = ours(tokens)[mask]
    torch.testing.assert_close(answers(transformed(cls, tmp_path / "back")), expected, atol=1e-4, rtol=1e-4)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "back")
    assert tokenizer("MKT<mask>YIAKQR")["input_ids"] == [0, 20, 15, 11, 32, 19, 12, 5, 15, 16, 10, 2]


@pytest.mark.parametrize("optimizer", [adamw, muon])
def test_an_esmc_trained_in_all_weights_is_the_same_in_transformers(optimizer: Any, tmp_path: Path) -> None:
    esmc(EsmcForMaskedLM, tmp_path / "theirs")
    ours = load_pretrained(tmp_path / "theirs").model
    tokens, mask = batch()
    steps = optimizer(ours, lr=1e-2)
    for _ in range(3):
        ours.loss(ours(tokens), tokens.masked_fill(~mask, -100)).backward()
        steps.step()
    biases = [ours.blocks[1].attention.qkv.bias, ours.blocks[1].feed_forward[2].bias]
    assert all(bias.abs().min() > 0 for bias in biases)
    export_native(ours, tmp_path / "back", "esmc")
    with torch.inference_mode():
        expected = ours(tokens)[mask]
    torch.testing.assert_close(answers(transformed(EsmcForMaskedLM, tmp_path / "back")), expected, atol=1e-4, rtol=1e-4)
    again = load_pretrained(tmp_path / "back").model.state_dict()
    torch.testing.assert_close(again, dict(ours.state_dict()), atol=0, rtol=2.4e-7)  # of a divisor


def test_esmc_has_no_bias_in_its_last_norm(tmp_path: Path) -> None:
    esmc(EsmcForMaskedLM, tmp_path / "theirs")
    ours = load_pretrained(tmp_path / "theirs").model
    ours.norm.bias.data[3] = 1e-3
    with pytest.raises(UserError, match="has no bias esmc.norm.bias: here it is not 0"):
        export_native(ours, tmp_path / "back", "esmc")
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("layers", [1, 6, 30, 36, 48, 80])
def test_division_and_product_give_a_weight_back_bit_for_bit(layers: int) -> None:
    divisor = math.sqrt(layers / 36)
    divided = torch.randn(100_000, generator=torch.Generator().manual_seed(0)) / divisor
    assert torch.equal(_multiplied(divided, divisor) / divisor, divided)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"attention": "softmax"}, "attention is 'softmax', not 'exact'"),
        ({"attention": "softmax", "causal": True}, "causal is True, not False"),
        ({"positions": "both"}, "positions is 'both', not 'rotary'"),
        ({"local_heads": 1}, "local_heads is 1, not 0"),
        ({"head": "linear"}, "head is 'linear', not 'esm'"),
        ({"start_id": 5}, "start_id is 5, not 0"),
        ({"zeroed_id": 5}, "zeroed_id is 5, not 32"),
        ({"activation": "swiglu"}, "activation is 'swiglu', not 'gelu'"),
    ],
)
def test_another_architecture_is_refused_with_the_reason(changes: dict[str, Any], reason: str, tmp_path: Path) -> None:
    sizes = {"layers": 1, "heads": 2, "width": 8, "feed_forward": 8}
    esm = {**ARCHITECTURES["esm"].here, **sizes, "head": "esm", "positions": "rotary"}
    export_native(Performer(PerformerConfig(**esm)), tmp_path / "esm", "esm")
    with pytest.raises(UserError, match=f"not the architecture of ESM-2: .*{reason}"):
        export_native(Performer(PerformerConfig(**{**esm, **changes})), tmp_path / "back", "esm")
    assert [path.name for path in tmp_path.iterdir()] == ["esm"]


def test_commands(protlm: Any, model_folder: Path, tmp_path: Path) -> None:
    saved(EsmForMaskedLM, tmp_path / "theirs")
    assert protlm("import", tmp_path / "theirs", tmp_path / "ours").code == 0
    done = protlm("export", tmp_path / "back", "--model", tmp_path / "ours", "--format", "esm")
    assert (done.code, done.out) == (0, "")
    assert "EsmForMaskedLM.from_pretrained" in (tmp_path / "back" / "README.md").read_text()
    assert protlm("import", tmp_path / "back", tmp_path / "again").code == 0
    for name in (checkpoint.CONFIG, checkpoint.WEIGHTS, golden.FILE):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "ours" / name).read_bytes()
    for model in (model_folder, tmp_path / "ours"):
        refused = protlm("export", tmp_path / "out", "--model", model, "--format", "esmc")
        assert_refused(refused, "--format 'esmc': not the architecture of ESMC", "use 'hf'")
        assert not (tmp_path / "out").exists()
