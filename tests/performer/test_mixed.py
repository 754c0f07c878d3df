"""Layers whose first heads see a window: against the references of both kinds, head by head, and as whole models."""

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from protlm.performer import FavorAttention, Performer, PerformerConfig
from protlm.performer.block import SelfAttention
from protlm.performer.cost import flops_per_token
from protlm.performer.lsh import Lsh
from protlm.performer.mixed import MixedAttention
from protlm.performer.reference import exact_attention, favor_attention, window_attention
from protlm.performer.window import Window

SIZES = {"layers": 2, "heads": 4, "width": 32, "feed_forward": 32, "max_length": 64, "num_features": 24}
OTHERS = ["relu", "softmax", "hyperbolic", "exact", "linformer", "reformer", "opt"]
CASES = [(name, causal) for name in OTHERS for causal in (False, True) if not (causal and name == "linformer")]


def build(attention: str | Lsh = "relu", **changes: Any) -> Performer:
    options = {**SIZES, "attention": attention, "local_heads": 1, "local_window": 6, "dropout": 0.0, **changes}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Performer(PerformerConfig(33, 1, **options)).eval().double()
        for block in model.blocks:
            assert isinstance(block.attention, SelfAttention)
            block.attention.qkv.weight.data *= 10  # attention that is not uniform
    return model


def tokens(batch: int, length: int) -> Tensor:
    return torch.randint(4, 24, (batch, length), generator=torch.Generator().manual_seed(1))


def own(model: Performer, layer: int = 0) -> Any:
    return model.blocks[layer].attention.attention


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("local", [1, 3])
@pytest.mark.parametrize("attention", ["relu", "softmax", "exact"])
def test_outputs_and_gradients_are_those_of_the_references_by_head(attention: str, local: int, causal: bool) -> None:
    mixed = own(build(attention, causal=causal, local_heads=local))
    generator = torch.Generator().manual_seed(2)
    drawn = torch.randn(3, 2, 4, 50, 8, generator=generator, dtype=torch.float64)
    one, other = ([x.clone().requires_grad_() for x in drawn] for _ in range(2))
    mask = torch.rand(2, 50, generator=generator) < 0.7
    mask[:, 0] = True
    near, far = zip(*((x[:, :local], x[:, local:]) for x in other), strict=True)
    if attention == "exact":
        rest = exact_attention(*far, mask, causal)
    else:
        assert isinstance(mixed.rest, FavorAttention)
        q, k, v = far
        k = mixed.rest.centred(q, k, mask)
        rest = favor_attention(q, k, v, mixed.rest.feature_map, mixed.rest.directions.double(), None, mask, causal)
    expected = torch.cat((window_attention(*near, 6, mask, causal), rest), 1)
    got = mixed(*one, mask)
    torch.testing.assert_close(got, expected, atol=1e-9, rtol=1e-7)
    upstream = torch.randn(got.shape, generator=generator, dtype=torch.float64)
    for out in (got, expected):
        (out * upstream).sum().backward()
    for x, y in zip(one, other, strict=True):
        torch.testing.assert_close(x.grad, y.grad, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize(("attention", "causal"), CASES)
def test_padding_and_batch_mates_change_nothing(attention: str, causal: bool) -> None:
    model, batch = build(attention, causal=causal), tokens(3, 40)
    batch[1, 17:] = 1
    batch[2, 1:] = 1
    together = model.hidden(batch)
    for row, length in enumerate((40, 17, 1)):
        torch.testing.assert_close(together[row, :length], model.hidden(batch[row : row + 1, :length])[0])


@pytest.mark.parametrize(("attention", "causal"), CASES)
def test_a_protein_of_a_block_has_the_logits_it_has_alone(attention: str, causal: bool) -> None:
    model, row, lengths = build(attention, causal=causal), tokens(1, 40), [1, 7, 20, 3, 9]
    segments = torch.repeat_interleave(torch.arange(5), torch.tensor(lengths))[None]
    alone = torch.cat([model(part)[0] for part in row.split(lengths, 1)])
    torch.testing.assert_close(model(row, segments=segments)[0], alone)


@pytest.mark.parametrize("attention", [name for name, causal in CASES if causal])
def test_a_causal_model_does_not_see_the_future(attention: str) -> None:
    model, row = build(attention, causal=True), tokens(1, 30)
    changed = row.clone()
    changed[0, 20:] = 5
    torch.testing.assert_close(model(changed)[:, :20], model(row)[:, :20])
    assert not torch.allclose(model(changed)[:, 20:], model(row)[:, 20:])


@pytest.mark.parametrize("positions", ["learned", "rotary"])
@pytest.mark.parametrize("attention", ["relu", "softmax", "exact", "opt"])
def test_steps_equal_the_parallel_forward_and_rows_of_a_state_can_be_selected(attention: str, positions: str) -> None:
    model, batch = build(attention, causal=True, positions=positions), tokens(3, 40)
    whole = model(batch).detach()
    for sizes in ([1] * 40, [7, 1, 1, 20, 11]):
        state, parts = None, []
        for part in batch.split(sizes, 1):
            logits, state = model.step(part, state)
            parts.append(logits)
        torch.testing.assert_close(torch.cat(parts, 1), whole)
    rows = torch.tensor([2, 0, 0])
    _, state = model.step(batch[:, :25])
    logits, _ = model.step(batch[rows, 25:], state.select(rows))
    torch.testing.assert_close(logits, whole[rows, 25:])


def test_a_model_with_heads_that_lack_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="step by step"):
        build("reformer", causal=True).step(tokens(1, 3))


@pytest.mark.parametrize("attention", ["softmax", "sderf", Lsh(rounds=1, bucket=4)])
def test_directions_are_redrawn_and_adapt_in_training(attention: str | Lsh) -> None:
    model, batch = build(attention), tokens(2, 20)
    before = model(batch)
    if attention == "sderf":
        model.train()(batch)
        assert own(model).rest.moment.count_nonzero() > 0
    model.eval().redraw(3)
    assert model.draw_number == 3
    assert not torch.allclose(model(batch), before)
    other = build(attention)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(batch), model(batch))


def test_every_parameter_learns() -> None:
    model = build("linformer")
    model(tokens(2, 20)).log_softmax(-1)[..., 5].sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.parameters())


def test_without_local_heads_attention_is_unchanged() -> None:
    assert isinstance(own(build(local_heads=0)), FavorAttention)
    assert isinstance(own(build()), MixedAttention)
    config = build().config
    assert PerformerConfig.from_dict(config.to_dict()) == config


def test_the_kind_of_the_other_heads_can_be_switched() -> None:
    model, batch = build("exact"), tokens(2, 20)
    window = own(model).local.size
    model.switch_attention("relu", 16)
    assert isinstance(own(model).rest, FavorAttention)
    assert own(model).local.size == window
    other = build("relu", num_features=16)
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(batch), other(batch))


def test_operations_are_those_of_each_head() -> None:
    config = build(local_heads=3).config
    none, all_local = (dataclasses.replace(config, attention=kind, local_heads=0) for kind in ("relu", Window(6)))
    mixed, one, other = (flops_per_token(c, 50) for c in (config, none, all_local))
    assert 4 * mixed == one + 3 * other


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"local_heads": 4}, "model.local_heads 4 of 4 heads.*model/attention=window"),
        ({"local_heads": -1}, "model.local_heads -1"),
        ({"local_window": 0}, "model.local_window 0: expected an integer of at least 1"),
    ],
)
def test_invalid_settings_are_refused(changes: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        build(**changes)
