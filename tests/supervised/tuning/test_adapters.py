"""Adapters change a model as peft does, are taken out without a trace, and are stored in its format."""

import copy

import pytest
import torch

from protlm.supervised.tuning.adapters import PROJECTIONS, Adapters, add_adapters, taken_adapters

peft = pytest.importorskip("peft", reason="peft, which trains adapters, is not installed")


def trained(model):
    """The model with adapters that change it."""
    add_adapters(model, rank=4, alpha=8.0, dropout=0.0)
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(weight, std=0.3)
    return model


def test_they_change_nothing_at_first_and_every_projection_has_one(tiny_model):
    tokens = torch.randint(4, 24, (2, 20))
    before = tiny_model(tokens)
    add_adapters(tiny_model, rank=4, alpha=8.0, dropout=0.0)
    torch.testing.assert_close(tiny_model(tokens), before)
    own = {name.split(".lora_A")[0] for name, _ in tiny_model.named_parameters() if "lora_A" in name}
    assert len(own) == 2 * len(PROJECTIONS)
    assert not tiny_model.embedding.weight.requires_grad


def test_merged_they_do_what_peft_does_and_taken_out_the_model_is_as_before(tiny_model, tmp_path):
    tokens, base = torch.randint(4, 24, (2, 20)), copy.deepcopy(tiny_model)
    model = trained(tiny_model)
    with torch.no_grad():
        expected = model(tokens)
    assert (expected - base(tokens)).abs().max() > 0.1
    adapters = taken_adapters(model, "base")
    for (name, weight), (other, same) in zip(model.state_dict().items(), base.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(weight, same)
    (tmp_path / "a").mkdir()
    adapters.save(tmp_path / "a")
    Adapters.load(tmp_path / "a").merge_into(model)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), expected, rtol=1e-5, atol=1e-5)


def test_peft_reads_the_files(tiny_model, tmp_path):
    tokens, base = torch.randint(4, 24, (2, 20)), copy.deepcopy(tiny_model)
    model = trained(tiny_model)
    with torch.no_grad():
        expected = model(tokens)
    taken_adapters(model, None).save(tmp_path)
    own = peft.PeftModel.from_pretrained(base, str(tmp_path))
    with torch.no_grad():
        torch.testing.assert_close(own(tokens), expected)
