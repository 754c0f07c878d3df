"""Hybrid attention against its reference: exact nearby, learned features elsewhere, in one normaliser."""

import pytest
import torch
from torch import Tensor

from protlm.checkpoint import export, load
from protlm.performer import PerformerConfig
from protlm.performer.hybrid import Hybrid, HybridAttention
from protlm.performer.learned_features import LEARNED_MAPS, LearnedFeatures
from protlm.performer.reference import exact_attention, hybrid_attention

BLOCK = 4


def operands(length: int, scale: float = 1.5) -> list[Tensor]:
    generator = torch.Generator().manual_seed(length)
    return [
        (scale * torch.randn(2, 3, length, width, generator=generator, dtype=torch.float64)).requires_grad_()
        for width in (8, 8, 6)
    ]


def attention(map: str = "positive", causal: bool = False, block: int = BLOCK) -> HybridAttention:  # noqa: A002
    return HybridAttention(8, 3, 16, map, block, causal).double()


def far(own: HybridAttention, q: Tensor, k: Tensor) -> Tensor:
    return own.features.queries(q).exp() @ own.features.keys(k).exp().mT


@pytest.mark.parametrize("map", LEARNED_MAPS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [1, 8, 9, 12, 13, 27])
def test_outputs_and_gradients_are_those_of_the_reference(map: str, causal: bool, length: int) -> None:  # noqa: A002
    """With real keys missing at the ends, as by padding, and in between."""
    one, other = operands(length), operands(length)
    mask = torch.rand(2, length, generator=torch.Generator().manual_seed(0)) < 0.7
    mask[1, length // 3 :] = False
    own, twin = attention(map, causal), attention(map, causal)
    got = own(*one, mask)
    block = length if length <= 2 * BLOCK else BLOCK  # all keys of two blocks are near
    expected = hybrid_attention(*other, far(twin, *other[:2]), block, mask, causal)
    torch.testing.assert_close(got, expected)
    with torch.no_grad():  # heads are computed in parts
        torch.testing.assert_close(own(*one, mask), expected)
    upstream = torch.randn(got.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (got * upstream).sum().backward()
    (expected * upstream).sum().backward()
    pairs = [*zip(one, other, strict=True)]
    pairs += zip(own.parameters(), twin.parameters(), strict=True) if length > 3 * BLOCK else []
    for x, y in pairs:
        torch.testing.assert_close(x.grad, y.grad)


def test_a_row_that_sees_no_key_is_zero() -> None:
    q, k, v = operands(20)
    out = attention()(q, k, v, torch.zeros(2, 20, dtype=torch.bool))
    assert not out.any()
    out.sum().backward()
    assert not v.grad.any()


def test_untrained_positive_features_estimate_exact_attention() -> None:
    """Their error falls with the root of their number."""
    q, k, v = (x.detach() for x in operands(60, 0.4))
    expected = exact_attention(q, k, v)
    errors = []
    for features in (64, 4096):
        own = HybridAttention(8, 3, features, block=BLOCK).double()
        errors.append(float((own(q, k, v).detach() - expected).norm() / expected.norm()))
    assert errors[1] < errors[0] / 4
    assert errors[1] < 0.02


@pytest.mark.parametrize("causal", [False, True])
def test_large_scores_stay_finite(causal: bool) -> None:
    """Of hundreds, in float32: exp of them is infinite."""
    inputs = [x.detach().float().requires_grad_() for x in operands(40, 20)]
    own = HybridAttention(8, 3, 16, block=BLOCK, causal=causal)
    out = own(*inputs)
    out.square().sum().backward()
    gradients = [x.grad for x in (*inputs, *own.parameters())]
    assert all(x.isfinite().all() for x in (out, *gradients))
    assert bool((out.detach().abs() <= inputs[2].detach().abs().max() * 1.001).all())  # means of values


def test_causal_attention_does_not_see_later_positions() -> None:
    q, k, v = (x.detach() for x in operands(30))
    own = attention(causal=True)
    whole = own(q, k, v)
    torch.testing.assert_close(own(*(x[:, :, :17] for x in (q, k, v))), whole[:, :, :17])


@pytest.mark.parametrize("map", LEARNED_MAPS)
@pytest.mark.parametrize("first", [1, 7, 8, 9, 20])
def test_steps_equal_the_whole(map: str, first: int) -> None:  # noqa: A002
    q, k, v = (x.detach() for x in operands(30))
    own = attention(map, causal=True)
    out, state = own.step(*(x[:, :, :first] for x in (q, k, v)))
    outs = [out]
    for start in range(first, 30, 3):
        out, state = own.step(*(x[:, :, start : start + 3] for x in (q, k, v)), state)
        outs.append(out)
    torch.testing.assert_close(torch.cat(outs, 2), own(q, k, v))
    assert state.keys.shape[2] <= 2 * BLOCK
    with pytest.raises(ValueError, match="only causal"):
        attention().step(q, k, v)


def test_far_keys_can_be_left_out() -> None:
    q, k, v = operands(30)
    own = attention()
    own.near_only = True
    nothing = torch.zeros(2, 3, 30, 30, dtype=torch.float64)
    torch.testing.assert_close(own(q, k, v), hybrid_attention(q, k, v, nothing, BLOCK))


def test_chosen_heads_are_exact() -> None:
    settings = PerformerConfig(33, 1, heads=4, width=32, num_features=16).attention_settings(1)
    module = Hybrid(block=BLOCK, exact_heads=((), (3, 1))).module(settings)
    q, k, v = (x.detach().float()[:, :2].repeat(1, 2, 1, 1) for x in operands(30))
    exact, out = exact_attention(q, k, v).float(), module(q, k, v)
    same = [bool(torch.allclose(out[:, head], exact[:, head], atol=1e-5)) for head in range(4)]
    assert same == [False, True, False, True]
    all_exact = Hybrid(block=BLOCK, exact_heads=((), (0, 1, 2, 3))).module(settings)
    torch.testing.assert_close(all_exact(q, k, v), exact)
    with pytest.raises(ValueError, match="layer 1 has 4 heads, numbered from 0; got 4"):
        Hybrid(exact_heads=((), (4,))).module(settings)


def test_heads_without_features_see_near_keys_only() -> None:
    settings = PerformerConfig(33, 1, heads=4, width=32, num_features=16).attention_settings()
    module = Hybrid(block=BLOCK, exact_heads=((2,),), window_heads=((0, 3),)).module(settings)
    q, k, v = (x.detach().float()[:, :2].repeat(1, 2, 1, 1) for x in operands(30))
    near = hybrid_attention(q, k, v, q.new_zeros(2, 4, 30, 30), BLOCK)
    out = module(q, k, v)
    same = [bool(torch.allclose(out[:, head], near[:, head], atol=1e-5)) for head in range(4)]
    assert same == [True, False, False, True]
    assert {name for name, _ in module.named_children()} == {"exact", "own", "window"}
    assert {len(weight) for weight in module.parameters()} == {1}  # head 1 alone has features
    torch.testing.assert_close(module.matrix(q, k) @ v, out, atol=1e-5, rtol=1e-5)
    layer = Hybrid(block=BLOCK, window_heads=((0, 1, 2, 3),)).module(settings)
    assert not list(layer.parameters())
    torch.testing.assert_close(layer(q, k, v), near)
    with pytest.raises(ValueError, match="window_heads: layer 0 has 4 heads, numbered from 0; got 4"):
        Hybrid(window_heads=((4,),)).module(settings)


@pytest.mark.parametrize("options", [{"exact_heads": ((2,),)}, {"exact_heads": ((2,),), "window_heads": ((0, 3),)}])
def test_steps_of_several_kinds_of_heads_equal_the_whole(options: dict) -> None:
    settings = PerformerConfig(33, 1, heads=4, width=32, num_features=16, causal=True).attention_settings()
    module = Hybrid(block=BLOCK, **options).module(settings)
    q, k, v = (x.detach().float()[:, :2].repeat(1, 2, 1, 1) for x in operands(30))
    outs, state = [], None
    for start in range(0, 30, 5):
        out, state = module.step(*(x[:, :, start : start + 5] for x in (q, k, v)), state)
        outs.append(out)
    torch.testing.assert_close(torch.cat(outs, 2), module(q, k, v))


def test_its_matrix_gives_its_output() -> None:
    q, k, v = (x.detach() for x in operands(30))
    own = attention()
    torch.testing.assert_close(own.matrix(q, k) @ v, own(q, k, v))


def test_a_model_is_saved_with_its_features_and_exact_heads(tiny_model, tmp_path) -> None:
    kind = Hybrid("relu", 8, ((), (1,)), ((0,),))
    tiny_model.switch_attention(kind, 4)
    tokens = torch.randint(4, 24, (1, 60), generator=torch.Generator().manual_seed(0))
    export(tiny_model, tmp_path / "model")
    loaded = load(tmp_path / "model").eval()
    assert loaded.config.kind == kind
    torch.testing.assert_close(loaded(tokens), tiny_model(tokens), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"map": "cosine"}, "map 'cosine': expected one of positive"),
        ({"block": 0}, "block 0: expected an integer of at least 1"),
        ({"exact_heads": ((-1,),)}, "expected numbers of heads for each layer"),
        ({"window_heads": (("a",),)}, "window_heads .*: expected numbers of heads for each layer"),
        ({"exact_heads": ((), (1,)), "window_heads": ((), (0, 1))}, "of layer 1 have a head in common"),
    ],
)
def test_wrong_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Hybrid(**options)
    with pytest.raises(ValueError, match="even number"):
        LearnedFeatures("hedgehog", 1, 8, 3, (0, 0))
