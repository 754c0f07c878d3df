"""Properties of FAVOR+, and its equality with the float64 reference."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from protlm.performer import FavorAttention
from protlm.performer.causal import KeyBlock
from protlm.performer.estimator import Estimator
from protlm.performer.features import FEATURE_MAPS, FUNCTIONS, Exponential, Generalised, encode_map
from protlm.performer.linear_attention import Inputs, Options, _products_of, linear_attention
from protlm.performer.recurrent import RecurrentState
from protlm.performer.reference import attention_matrix, exact_attention, favor_attention, phi

KERNELS = list(FEATURE_MAPS)
SIGNED = ["trig", "gelu", "tanh", "cos", "identity"]
POSITIVE = [kernel for kernel in KERNELS if kernel not in SIGNED]
ADAPTIVE = [kernel for kernel in KERNELS if FEATURE_MAPS[kernel].adaptive]
BOTH = pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])
TRAITS = ["softmax", "sderf", "exp", "trig", "relu", "relu_unprojected", "cos"]
"""One map of each trait: log and linear; with a bias; log and not linear; quadratic; plain; not projected; signed."""
EACH_TRAIT = pytest.mark.parametrize("kernel", TRAITS)
EVERY = pytest.mark.parametrize("kernel", KERNELS)
EACH_ADAPTIVE = pytest.mark.parametrize("kernel", ADAPTIVE)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inputs(shape: tuple[int, ...], scale: float = 1.0, dtype=torch.float32, seed: int = 0) -> list[Tensor]:
    q, k, v = normal(3, *shape, seed=seed)
    return [(q * scale).to(dtype), (k * scale).to(dtype), v.to(dtype)]


def build(kernel: str, width: int, features: int, **options) -> FavorAttention:
    """In evaluation mode; adaptive kernels have adapted to these inputs."""
    attention = FavorAttention(width, features, kernel, **options)
    if kernel in ADAPTIVE:
        attention.observe(*inputs((3, 2, 20, width), 0.7, seed=9)[:2])
        attention.redraw(1)
    return attention.eval()


def true(attention: FavorAttention, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    bias = attention.bias if attention.feature_map.adaptive else None
    k = attention.centred(q, k, mask)
    return favor_attention(q, k, v, attention.feature_map, attention.directions, bias, mask, attention.causal)


def distance(x: Tensor, y: Tensor) -> float:
    """Relative in norm."""
    return ((x.double() - y.double()).norm() / y.double().norm()).item()


def conditioning(attention: FavorAttention, q: Tensor, k: Tensor, mask: Tensor | None = None) -> float:
    """Condition number: over all rows, the largest sum of absolute terms over the absolute sum; 1 if positive.

    Features that may be negative have denominators near 0. A relative error of the terms is multiplied by this number
    in any arithmetic, so no implementation can do better.
    """
    chosen = attention.feature_map
    if chosen.log:
        return 1.0
    scale = q.shape[-1] ** -0.25
    (x, _), (y, factor) = (phi(z.detach().double() * scale, chosen, attention.directions) for z in (q, k))
    factor = factor.transpose(-2, -1).expand(*q.shape[:3], -1)
    if mask is not None:
        factor = factor.masked_fill(~mask[:, None, None], -torch.inf)
    if attention.causal:
        factor = factor.masked_fill(torch.ones(factor.shape[-2:], dtype=torch.bool).triu(1), -torch.inf)
    factor = (factor - factor.amax(-1, keepdim=True)).exp()
    total = (x @ y.transpose(-2, -1) * factor).sum(-1).abs()
    return ((x.abs() @ y.abs().transpose(-2, -1) * factor).sum(-1) / total).max().item()


def pads(batch: int, length: int) -> Tensor:
    mask = torch.ones(batch, length, dtype=torch.bool)
    mask[-1, max(1, length // 2) :] = False
    return mask


def gradients(result: Tensor, tensors: list[Tensor]) -> tuple[Tensor, ...]:
    return torch.autograd.grad(result, tensors, normal(*result.shape, seed=1).to(result.dtype))


# 1: equal to the reference


@EVERY
@BOTH
@pytest.mark.parametrize("length", [1, 63, 257])
def test_equals_the_reference_in_outputs_and_gradients(kernel: str, causal: bool, length: int) -> None:
    batch = 2 if length < 100 else 1  # the reference takes L x L x M
    tensors = [x.requires_grad_() for x in inputs((batch, 2, length, 60), dtype=torch.float64)]
    mask = pads(batch, length)
    attention = build(kernel, 60, 100, causal=causal)
    fast, slow = attention(*tensors, mask), true(attention, *tensors, mask)
    tolerance = 1e-13 * conditioning(attention, *tensors[:2], mask)
    assert distance(fast, slow) < tolerance
    for mine, theirs in zip(gradients(fast, tensors), gradients(slow, tensors), strict=True):
        assert (mine - theirs).norm() < tolerance * (theirs.norm() + slow.numel() ** 0.5)  # theirs may be 0


@settings(max_examples=60)
@given(
    st.sampled_from(KERNELS),
    st.booleans(),
    st.integers(1, 140),
    st.integers(1, 20),
    st.integers(1, 20),
    st.integers(1, 40),
    st.floats(0.01, 30),
    st.integers(0, 99),
)
def test_equals_the_reference_at_any_shape_and_scale(
    kernel: str, causal: bool, length: int, width: int, value_width: int, features: int, scale: float, seed: int
) -> None:
    q, k, _ = inputs((2, 2, length, width), scale, torch.float64, seed)
    v = normal(2, 2, length, value_width, seed=seed + 1)
    attention, mask = build(kernel, width, features, causal=causal, seed=seed), pads(2, length)
    fast, slow = attention(q, k, v, mask), true(attention, q, k, v, mask)
    assert distance(fast, slow) < 1e-11 * conditioning(attention, q, k, mask)  # logarithms reach 10^4


@EACH_TRAIT
@BOTH
@pytest.mark.parametrize("scale", [3, 30])
def test_float32_is_close_to_the_reference_at_any_norm(kernel: str, causal: bool, scale: float) -> None:
    q, k, v = inputs((1, 2, 150, 64), scale)
    attention = build(kernel, 64, 48, causal=causal)
    limit = 1e-5
    if kernel in SIGNED:  # cosines lose as many digits as their arguments have before the point
        limit = max(limit, 1e-6 * scale * conditioning(attention, q, k))
    assert distance(attention(q, k, v), true(attention, q, k, v)) < limit


@EVERY
@BOTH
def test_gradcheck(kernel: str, causal: bool) -> None:
    tensors = [x.requires_grad_() for x in inputs((1, 1, 5, 2), dtype=torch.float64)]
    attention, mask = build(kernel, 2, 3, causal=causal), pads(1, 5)
    assert torch.autograd.gradcheck(lambda q, k, v: attention(q, k, v, mask), tensors)


@BOTH
@pytest.mark.parametrize("function", ["relu", "tanh", "identity"])
def test_a_callable_equals_the_kernel_of_that_name(function: str, causal: bool) -> None:
    tensors = [x.requires_grad_() for x in inputs((2, 2, 70, 8), dtype=torch.float64)]
    named = build(function, 8, 12, causal=causal)
    called = FavorAttention(8, 12, FUNCTIONS[function][0], causal=causal).eval()
    tolerance = 1e-13 * conditioning(named, *tensors[:2])
    one, two = named(*tensors, pads(2, 70)), called(*tensors, pads(2, 70))
    assert distance(one, two) < tolerance
    for mine, theirs in zip(gradients(one, tensors), gradients(two, tensors), strict=True):
        assert distance(mine, theirs) < 10 * tolerance


def test_a_map_equals_the_kernel_of_that_name_and_epsilon_counts() -> None:
    tensors = inputs((1, 2, 30, 8))
    for kernel in KERNELS:
        result = FavorAttention(8, 12, FEATURE_MAPS[kernel]).eval()(*tensors)
        assert torch.equal(result, FavorAttention(8, 12, kernel).eval()(*tensors))
    for other in (Generalised(epsilon=0.5), Exponential(0.5)):
        attention = FavorAttention(8, 12, other)
        assert distance(attention(*tensors), true(attention, *tensors)) < 1e-6


@pytest.mark.parametrize("kernel", [kernel for kernel in KERNELS if FEATURE_MAPS[kernel].redrawn])
def test_keys_are_centred_where_softmax_is_estimated(kernel: str) -> None:
    """Exact attention is the same, the estimate much better; one vector added to all keys changes nothing."""
    mask = pads(2, 40)
    q, k, v = (x.double() for x in inputs((2, 3, 40, 16)))
    q, k = q + 2 * normal(1, 3, 1, 16, seed=1), k + 2 * normal(1, 3, 1, 16, seed=2)
    attention = build(kernel, 16, 64)
    keys = attention.centred(q, k, mask)
    means = ((q + keys) * mask[:, None, :, None]).sum(2)
    assert means.abs().max() < 1e-12
    exact = exact_attention(q, k, v, mask)
    torch.testing.assert_close(exact_attention(q, keys, v, mask), exact)
    torch.testing.assert_close(attention(q, k + 3 * normal(1, 3, 1, 16, seed=3), v, mask), attention(q, k, v, mask))
    assert torch.equal(build(kernel, 16, 64, causal=True).centred(q, k, mask), k)
    assert torch.equal(build("relu", 16, 64).centred(q, k, mask), k)
    if kernel != "trig":  # whose weights may be negative
        bias = attention.bias if attention.feature_map.adaptive else None
        plain = favor_attention(q, k, v, attention.feature_map, attention.directions, bias, mask)
        real = mask[:, None, :, None]
        assert distance(attention(q, k, v, mask) * real, exact * real) < 0.8 * distance(plain * real, exact * real)


@pytest.mark.parametrize(("features", "order"), [(16, 4), (48, 4), (24, 2)])
def test_whole_bases_and_their_negatives_are_exact_to_third_order(features: int, order: int) -> None:
    """What is left of exp(x.y) falls with the fourth power of |x + y|; with half a basis it is the second."""
    attention = FavorAttention(16, features, "hyperbolic", norms="constant")
    weight, bias = attention.feature_map.affine(attention.directions, torch.zeros(16, 16))
    x, y = normal(2, 50, 16) / 10

    def error(size: float) -> float:
        of_x, of_y = (phi(z * size, attention.feature_map, weight, bias) for z in (x, y))
        logarithms = of_x[0] + of_y[0] + of_x[1] + of_y[1] - (x * y).sum(1, keepdim=True) * size**2
        return float((logarithms.exp().mean(1) - 1).abs().mean())

    assert error(1) / error(0.5) == pytest.approx(2**order, rel=0.1)


def test_unprojected_features_are_as_many_as_dimensions() -> None:
    q, k, v = inputs((1, 2, 30, 8))
    attention = FavorAttention(8, 100, "relu_unprojected", causal=True)
    _, state = attention.step(q, k, v)
    assert state.sums.shape == (1, 2, 9, 8)
    other = FavorAttention(8, 5, "relu_unprojected", causal=True, seed=7)
    assert torch.equal(attention(q, k, v), other(q, k, v))


def test_more_features_approximate_exact_attention_better_and_orthogonal_ones_best() -> None:
    q, k, v = inputs((1, 4, 256, 16), 0.4)
    exact = exact_attention(q, k, v)

    def error(features: int, directions: str) -> float:
        errors = [
            distance(FavorAttention(16, features, directions=directions, seed=s)(q, k, v), exact) for s in range(15)
        ]
        return sum(errors) / len(errors)

    assert error(256, "orthogonal") < error(64, "orthogonal") < error(16, "orthogonal")
    assert error(16, "orthogonal") < 0.98 * error(16, "iid")


# 3: causal


@EACH_TRAIT
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 1e-6), (torch.float64, 1e-13)])
@pytest.mark.parametrize("size", [1.0, 1e3])
def test_the_future_changes_nothing(kernel: str, dtype: torch.dtype, rounding: float, size: float) -> None:
    q, k, v = inputs((1, 2, 400, 16), dtype=dtype)
    attention = build(kernel, 16, 32, causal=True)
    before = attention(q, k, v)
    t = 300  # in the fifth chunk of 64 positions
    limit = rounding * conditioning(attention, q[:, :, :t], k[:, :, :t])
    k[:, :, t:] += size
    v[:, :, t:] -= size
    q[:, :, t:] *= -1
    after = attention(q, k, v)
    if size == 1:
        assert torch.equal(before[:, :, :256], after[:, :, :256])
    assert distance(after[:, :, :256], before[:, :, :256]) < limit
    assert distance(after[:, :, 256:t], before[:, :, 256:t]) < limit
    assert distance(after[:, :, t:], before[:, :, t:]) > 0.01


SHIFTED = ["softmax", "sderf", "exp", "trig"]


@EACH_TRAIT
def test_later_positions_of_any_size_change_no_bit_of_earlier_chunks(kernel: str) -> None:
    q, k, v = inputs((1, 2, 400, 16))
    attention = build(kernel, 16, 32, causal=True)
    before = attention(q, k, v)
    k[:, :, 300:] *= 1e3
    assert torch.equal(before[:, :, :256], attention(q, k, v)[:, :, :256])


@EACH_TRAIT
def test_outputs_have_no_gradient_to_later_positions(kernel: str) -> None:
    """Outputs up to t give no gradient, not even rounding, to keys and values after t."""
    tensors = [x.requires_grad_() for x in inputs((1, 2, 150, 16))]
    result = build(kernel, 16, 32, causal=True)(*tensors)
    for gradient in torch.autograd.grad(result[:, :, :100].sum(), tensors):
        assert torch.equal(gradient[:, :, 100:], torch.zeros_like(gradient[:, :, 100:]))


def test_no_causal_leak_through_the_maximum_of_the_keys() -> None:
    """The usual recipe takes one maximum over all keys and adds an epsilon: a large later key affects earlier ones."""
    q, k, v = inputs((1, 1, 60, 16))
    attention = build("softmax", 16, 32, causal=True)

    def usual() -> Tensor:
        x, _ = phi(q / 2, attention.feature_map, attention.directions)
        y, factor = phi(k / 2, attention.feature_map, attention.directions)
        queries = (x - x.amax(-1, keepdim=True)).exp() + 1e-4
        keys = (y + factor - (y + factor).amax()).exp() + 1e-4
        weights = (queries @ keys.transpose(-2, -1)).tril()
        return weights / weights.sum(-1, keepdim=True) @ v.double()

    ours, theirs = attention(q, k, v), usual()
    k[:, :, 50:] = 2 * attention.directions[attention.directions.norm(dim=1).argmax()]
    assert distance(usual()[:, :, :50], theirs[:, :, :50]) > 0.01
    assert distance(attention(q, k, v)[:, :, :50], ours[:, :, :50]) < 1e-6


RAMPS = pytest.mark.parametrize(
    ("kernel", "rising"),
    [*((kernel, False) for kernel in SHIFTED if kernel not in ("exp", "trig")), ("exp", True), ("trig", True)],
)


@RAMPS
@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_keys_that_grow_by_hundreds_of_powers_of_two(
    kernel: str, rising: bool, causal: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Positive softmax features grow as norms fall, the others as norms rise; causal blocks have to be halved."""
    q, k, v = inputs((1, 2, 200, 8), dtype=torch.float64)
    ramp = torch.linspace(0, 30, 200).double()[:, None]
    k = k / k.norm(dim=-1, keepdim=True) * (ramp if rising else ramp.flip(0))
    tensors = [x.to(dtype).requires_grad_() for x in (q, k, v)]
    halved, outgrown = [], KeyBlock.outgrown
    monkeypatch.setattr(KeyBlock, "outgrown", lambda block: halved.append(outgrown(block)) or halved[-1])
    attention = build(kernel, 8, 32, causal=causal)
    fast, slow = attention(*tensors), true(attention, *tensors)
    bound = conditioning(attention, *tensors[:2])
    assert distance(fast, slow) < (1e-5 if dtype == torch.float32 else 1e-12) * bound
    assert any(chunk is not None for chunk in halved) == causal
    if dtype == torch.float64:
        for mine, theirs in zip(gradients(fast, tensors), gradients(slow, tensors), strict=True):
            assert distance(mine, theirs) < 1e-12 * bound


@BOTH
@pytest.mark.parametrize("kernel", ["softmax", "regularised"])
def test_a_first_key_of_large_norm_costs_no_precision(kernel: str, causal: bool) -> None:
    """As the first tokens of a sequence often have."""
    q, k, v = inputs((1, 2, 150, 16))
    k[:, :, 0] *= 40
    attention = build(kernel, 16, 64, causal=causal)
    assert distance(attention(q, k, v), true(attention, q, k, v)) < 1e-5


# 4: padding, batch-mates, strides


@EACH_TRAIT
@BOTH
@pytest.mark.parametrize(("pad", "side"), [(1e10, "left"), (-50.0, "right")])
def test_padding_changes_nothing_whatever_its_content(kernel: str, causal: bool, pad: float, side: str) -> None:
    tensors = [x.requires_grad_() for x in inputs((1, 2, 100, 16))]
    attention = build(kernel, 16, 32, causal=causal)
    alone = attention(*tensors)
    mask = torch.arange(170)[None] < 100
    parts = [(x, torch.full((1, 2, 70, 16), pad)) for x in tensors]
    if side == "left":
        mask = mask.flip(1)
        parts = [part[::-1] for part in parts]
    together = attention(*(torch.cat(part, 2) for part in parts), mask)[:, :, mask[0]]
    limit = 1e-6 * conditioning(attention, *tensors[:2])
    assert distance(together, alone) < limit
    for mine, theirs in zip(gradients(together, tensors), gradients(alone, tensors), strict=True):
        assert distance(mine, theirs) < 10 * limit


@EACH_TRAIT
@BOTH
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_batch_mates_change_nothing(kernel: str, causal: bool, scale: float) -> None:
    q, k, v = inputs((3, 2, 90, 16))
    attention, mask = build(kernel, 16, 32, causal=causal), pads(3, 90)
    q[1], k[1] = q[1] * scale, k[1] * scale
    together = attention(q, k, v, mask)
    for row in (0, 2):
        one = slice(row, row + 1)
        alone = attention(q[one], k[one], v[one], mask[one])
        assert distance(together[one], alone) < 1e-6 * conditioning(attention, q[one], k[one], mask[one])


@EACH_TRAIT
def test_padding_in_the_denominator_would_be_detected(kernel: str) -> None:
    """The most common bug in public code: v is masked, the denominator is not."""
    q, k, v = inputs((1, 2, 40, 16))
    attention = build(kernel, 16, 32)
    mask = torch.arange(40)[None] < 20
    right = attention(q, k, v, mask)
    wrong = attention(q, k, v * mask[:, None, :, None])
    assert distance(wrong, right) > 0.05


@EACH_TRAIT
@BOTH
def test_strides_change_nothing(kernel: str, causal: bool) -> None:
    """Views of one (B, L, 3, H, d) tensor, as the model makes them."""
    joint = normal(2, 70, 3, 2, 16).float().requires_grad_()
    views = list(joint.permute(2, 0, 3, 1, 4))
    whole = [x.detach().contiguous().requires_grad_() for x in views]
    attention = build(kernel, 16, 32, causal=causal)
    limit = 1e-6 * conditioning(attention, *whole[:2])
    one, two = attention(*views, pads(2, 70)), attention(*whole, pads(2, 70))
    assert distance(one, two) < limit
    upstream = normal(*one.shape).float()
    (mine,) = torch.autograd.grad(one, joint, upstream)
    theirs = torch.autograd.grad(two, whole, upstream.contiguous())
    for i in range(3):
        assert distance(mine.permute(2, 0, 3, 1, 4)[i], theirs[i]) < 10 * limit


@BOTH
def test_a_position_that_sees_no_key_gets_zero(causal: bool) -> None:
    tensors = [x.requires_grad_() for x in inputs((2, 1, 6, 4))]
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[0] = False
    mask[1, :3] = False
    for kernel in KERNELS:
        result = build(kernel, 4, 8, causal=causal)(*tensors, mask)
        assert torch.equal(result[0], torch.zeros_like(result[0]))
        assert bool((result[1, :, :3] == 0).all()) == causal
        assert result[1, :, 3:].abs().min() > 0
        for gradient in torch.autograd.grad(result.sum(), tensors):
            assert gradient.isfinite().all()
            assert torch.equal(gradient[0], torch.zeros_like(gradient[0]))


# 5: chunks, blocks, recurrence


@EACH_TRAIT
@BOTH
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_sizes_of_chunks_and_blocks_change_nothing(kernel: str, causal: bool, scale: float) -> None:
    tensors = [x.requires_grad_() for x in inputs((2, 2, 130, 16), scale, torch.float64)]
    attention = build(kernel, 16, 32, causal=causal)
    weight = attention.directions.double() if attention.feature_map.projected else None
    bias = attention.bias.double() if kernel in ADAPTIVE else None
    limit = 1e-12 * scale * conditioning(attention, *tensors[:2], pads(2, 130))
    whole: list[Tensor] = []
    for chunk, block in ((130, 0), (1, 130), (7, 50), (64, 3)):
        options = Options(encode_map(attention.feature_map), 0.5, causal, chunk, block)
        result, _, _ = linear_attention(Inputs(*tensors, pads(2, 130), weight, bias), options)
        results = [result, *gradients(result, tensors)]
        whole = whole or results
        for mine, theirs in zip(results, whole, strict=True):
            assert (mine - theirs).norm() < limit * (theirs.norm() + result.numel() ** 0.5)  # gradients may be 0


@BOTH
@pytest.mark.parametrize("kernel", ["softmax", "trig", "relu"])
def test_a_batch_processed_in_parts_equals_its_proteins_alone(kernel: str, causal: bool) -> None:
    """Large enough for several parts of the batch and several blocks of positions."""
    tensors = [x.requires_grad_() for x in inputs((3, 4, 600, 8), 0.5, torch.float64)]
    attention, mask = build(kernel, 8, 256, causal=causal), pads(3, 600)
    together = attention(*tensors, mask)
    parts = [attention(*(x[i : i + 1] for x in tensors), mask[i : i + 1]) for i in range(3)]
    limit = 1e-13 * conditioning(attention, *tensors[:2], mask)
    alone = torch.cat(parts)
    assert distance(together, alone) < limit
    for mine, theirs in zip(gradients(together, tensors), gradients(alone, tensors), strict=True):
        assert distance(mine, theirs) < 10 * limit


@EACH_TRAIT
@pytest.mark.parametrize("prefill", [0, 20])
def test_recurrence_equals_the_parallel_forward(kernel: str, prefill: int) -> None:
    q, k, v = inputs((2, 3, 40, 16), 2.0)
    attention = build(kernel, 16, 32, causal=True)
    parallel = attention(q, k, v)
    parts, state = [], None
    for start, stop in [*([(0, prefill)] if prefill else []), *((t, t + 1) for t in range(prefill, 40))]:
        part, state = attention.step(*(x[:, :, start:stop] for x in (q, k, v)), state)
        parts.append(part)
    limit = 1e-5 if kernel in POSITIVE else 1e-6 * conditioning(attention, q, k)
    assert distance(torch.cat(parts, 2), parallel) < limit
    assert state is not None
    assert isinstance(state, RecurrentState)
    assert state.sums.shape[:3] == (2, 3, 17)  # whatever their number


def test_without_epsilon_steps_also_give_zero_where_no_feature_is_active() -> None:
    q, k, v = inputs((1, 2, 20, 8))
    attention = FavorAttention(8, 3, Generalised(epsilon=0.0), causal=True)
    _, state = attention.step(*(x[:, :, :1] for x in (q, k, v)))
    rest, _ = attention.step(*(x[:, :, 1:] for x in (q, k, v)), state)
    torch.testing.assert_close(rest, attention(q, k, v)[:, :, 1:], rtol=1e-4, atol=1e-4)


def test_several_steps_at_once_and_callables_continue_from_a_state() -> None:
    q, k, v = inputs((1, 2, 30, 8))
    for kernel in ("softmax", torch.relu):
        attention = FavorAttention(8, 12, kernel, causal=True).eval()
        _, state = attention.step(*(x[:, :, :10] for x in (q, k, v)))
        rest, _ = attention.step(*(x[:, :, 10:] for x in (q, k, v)), state)
        assert distance(rest, attention(q, k, v)[:, :, 10:]) < 1e-5
    with pytest.raises(ValueError, match="causal"):
        FavorAttention(8).step(q, k, v)


# 7: extreme inputs and precision


@EACH_TRAIT
@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_nan_or_infinity_for_inputs_scaled_to_100(kernel: str, causal: bool, dtype: torch.dtype) -> None:
    tensors = [x.requires_grad_() for x in inputs((1, 2, 200, 32), 100, dtype)]
    result = build(kernel, 32, 64, causal=causal)(*tensors)
    assert result.dtype == dtype
    assert result.isfinite().all()
    for gradient, tensor in zip(torch.autograd.grad(result.float().sum(), tensors), tensors, strict=True):
        assert gradient.dtype == dtype
        assert gradient.shape == tensor.shape
        assert gradient.isfinite().all()


@BOTH
@pytest.mark.parametrize("kernel", [kernel for kernel in SHIFTED if kernel != "trig"])
def test_logarithms_too_large_for_float32_are_computed_in_float64(
    kernel: str, causal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    widened, wide = [], Estimator.wide
    monkeypatch.setattr(Estimator, "wide", lambda estimator: widened.append(1) or wide(estimator))
    tensors = [x.requires_grad_() for x in inputs((1, 2, 100, 16), 100)]
    attention = build(kernel, 16, 32, causal=causal)
    attention(*inputs((1, 2, 100, 16)))
    assert not widened
    fast, slow = attention(*tensors), true(attention, *tensors)
    assert widened
    assert fast.dtype == torch.float32
    assert distance(fast, slow) < 1e-6
    for mine, theirs in zip(gradients(fast, tensors), gradients(slow, tensors), strict=True):
        assert mine.dtype == torch.float32
        assert (mine - theirs).norm() < 1e-5 * (theirs.norm() + 1)


@EACH_TRAIT
@BOTH
def test_constants_are_kept(kernel: str, causal: bool) -> None:
    """Weights sum to 1 at any norm: with an epsilon in the denominator they do not."""
    for scale in (1, 30):
        q, k, _ = inputs((1, 2, 100, 16), scale)
        attention = build(kernel, 16, 32, causal=causal)
        result = attention(q, k, torch.ones_like(q))
        limit = 2e-6 * (1 if kernel in POSITIVE else conditioning(attention, q, k))
        assert (result - 1).abs().max() < limit


@EACH_TRAIT
@BOTH
def test_sums_are_float32_under_autocast(kernel: str, causal: bool) -> None:
    tensors = [x.requires_grad_() for x in inputs((1, 2, 100, 16))]
    attention = build(kernel, 16, 32, causal=causal)
    outside = attention(*tensors)
    with torch.autocast("cpu", torch.bfloat16):
        inside = attention(*tensors)
        assert torch.equal(inside, outside)
        mine = gradients(inside, tensors)
    for one, other in zip(mine, gradients(outside, tensors), strict=True):
        assert torch.equal(one, other)


class ReluAsRounded(torch.autograd.Function):
    """ReLU of p, with the derivative where `positive` is true."""

    @staticmethod
    def forward(context, p: Tensor, positive: Tensor) -> Tensor:
        context.save_for_backward(positive)
        return p.relu()

    @staticmethod
    def backward(context, grad: Tensor) -> tuple[Tensor, None]:
        (positive,) = context.saved_tensors
        return grad * positive, None


def relu_as_rounded(attention: FavorAttention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """ReLU attention in float64, whose derivative jumps where projections of 16-bit inputs change their sign."""
    scale, chosen, features = attention.head_dim**-0.25, attention.feature_map, []
    for x in (q, k):
        with torch.no_grad(), _products_of(torch.bfloat16):
            positive = x.float() @ (attention.directions * scale).T > 0
        features.append(ReluAsRounded.apply(x * scale @ attention.directions.double().T, positive) + chosen.epsilon)
    weights = features[0] @ features[1].mT
    weights = weights.tril() if attention.causal else weights
    return weights / weights.sum(-1, keepdim=True) @ v


@pytest.mark.parametrize("kernel", [kernel for kernel in TRAITS if kernel in POSITIVE])
@BOTH
def test_16_bit_results_are_close_to_float64(kernel: str, causal: bool) -> None:
    """Within 1 %, gradients 2 %: bfloat16 has 8 bits, so rounding of the result alone is 0.2 %; sums are float32.

    Where the processor multiplies in 16 bits, directions are rounded, too, and of a thousand projections some change
    their sign. There the derivative of ReLU jumps, so its gradients are compared with those of the same signs.
    """
    tensors = [x.requires_grad_() for x in inputs((1, 2, 200, 32), dtype=torch.bfloat16)]
    attention = build(kernel, 32, 64, causal=causal)
    wide = [x.detach().double().requires_grad_() for x in tensors]
    found, expected = attention(*tensors), attention(*wide)
    assert distance(found, expected) < 0.01
    if kernel == "relu":
        signs = relu_as_rounded(attention, *wide)
        torch.testing.assert_close(signs, expected)
        expected = signs
    for mine, theirs in zip(gradients(found, tensors), gradients(expected, wide), strict=True):
        assert distance(mine, theirs) < 0.02


# what PyTorch does with it


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # by torch.compile itself
@pytest.mark.parametrize("kernel", ["sderf", "trig", "relu_unprojected"])
def test_compiles_into_one_graph(kernel: str) -> None:
    torch.compiler.reset()
    for causal in (False, True):
        attention = build(kernel, 8, 12, causal=causal)
        tensors = [x.requires_grad_() for x in inputs((2, 2, 30, 8))]
        compiled = torch.compile(attention, fullgraph=True, backend="aot_eager")
        one, two = compiled(*tensors, pads(2, 30)), attention(*tensors, pads(2, 30))
        assert torch.equal(one, two)
        for mine, theirs in zip(gradients(one, tensors), gradients(two, tensors), strict=True):
            assert torch.equal(mine, theirs)


@pytest.mark.parametrize("kernel", ["sderf", "trig", "relu_unprojected"])
@BOTH
def test_function_transforms_equal_loops(kernel: str, causal: bool) -> None:
    attention, mask = build(kernel, 8, 12, causal=causal), pads(2, 20)
    q, k, v = inputs((3, 2, 2, 20, 8), dtype=torch.float64)

    def loss(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return attention(q, k, v, mask).square().sum()

    mapped = torch.func.vmap(lambda q, k, v: attention(q, k, v, mask))(q, k, v)
    derived = torch.func.vmap(torch.func.grad(loss, argnums=(0, 1, 2)), in_dims=(0, 0, None))(q, k, v[0])
    for i in range(3):
        torch.testing.assert_close(mapped[i], attention(q[i], k[i], v[i], mask))
        tensors = [x.clone().requires_grad_() for x in (q[i], k[i], v[0])]
        plain = torch.autograd.grad(loss(*tensors), tensors)
        for mine, transformed, theirs in zip(
            torch.func.grad(loss, argnums=(0, 1, 2))(q[i], k[i], v[0]), (x[i] for x in derived), plain, strict=True
        ):
            torch.testing.assert_close(mine, theirs)
            torch.testing.assert_close(transformed, theirs)


@BOTH
def test_second_derivatives_fail_loudly(causal: bool) -> None:
    tensors = [x.requires_grad_() for x in inputs((1, 1, 5, 4))]
    result = FavorAttention(4, 8, causal=causal)(*tensors)
    (first,) = torch.autograd.grad(result.square().sum(), tensors[:1], create_graph=True)
    with pytest.raises(NotImplementedError, match="second derivatives"):
        first.sum().backward()


# directions, and what adaptive kernels observe


@EACH_TRAIT
def test_redraw_is_seeded_and_saved(kernel: str) -> None:
    one, two = (FavorAttention(8, 16, kernel, seed=3, layer=1) for _ in range(2))
    first = one.directions.clone()
    one.redraw(5)
    assert not torch.equal(one.directions, first)
    two.redraw(2)
    two.redraw(5)
    assert torch.equal(one.directions, two.directions)
    three = FavorAttention(8, 16, kernel)
    three.load_state_dict(one.state_dict())
    assert torch.equal(three.directions, one.directions)
    assert three.draw_number == 5


@EACH_ADAPTIVE
@BOTH
def test_only_training_observes_and_only_redraw_adopts(kernel: str, causal: bool) -> None:
    q, k, v = inputs((2, 2, 30, 8))
    attention, plain = FavorAttention(8, 16, kernel, causal=causal), FavorAttention(8, 16, causal=causal)
    fresh = copy.deepcopy(attention.state_dict())
    attention.eval()(q, k, v)
    assert all(torch.equal(value, fresh[name]) for name, value in attention.state_dict().items())
    result = attention.train()(q, k, v)
    assert attention.observed == 2  # sequences
    assert torch.equal(attention.directions, fresh["directions"])
    assert distance(result, plain(q, k, v)) < 1e-6  # softmax until the first redraw
    attention.redraw(0)
    assert attention.observed == 0
    assert not torch.equal(attention.directions, fresh["directions"])
    assert attention.bias.abs().min() > 0
    assert distance(attention(q, k, v), true(attention, q, k, v)) < 1e-6


@EACH_ADAPTIVE
def test_the_moment_is_the_mean_over_all_pairs_of_real_positions(kernel: str) -> None:
    attention, mask = FavorAttention(4, 8, kernel), pads(2, 9)
    batches = [inputs((2, 3, 9, 4), scale, seed=seed) for seed, scale in enumerate((1.0, 3.0))]
    expected = torch.zeros(4, 4, dtype=torch.float64)
    for q, k, v in batches:
        attention(q, k, v, mask)
        for protein in range(2):
            for head in range(3):
                x, y = (z[protein, head, mask[protein]].double() * 4**-0.25 for z in (q, k))
                y = y - (x + y).mean(0)
                sums = (x[:, None] + y).flatten(0, 1)
                expected += sums.T @ sums / len(sums) / 12
    torch.testing.assert_close(attention.moment.double(), expected, rtol=1e-5, atol=1e-6)
    assert attention.observed == 4


@EACH_ADAPTIVE
def test_observations_are_saved_exactly(kernel: str) -> None:
    tensors = inputs((2, 2, 30, 8))
    one = FavorAttention(8, 16, kernel)
    one(*tensors)
    one.redraw(1)
    one(*(2 * x for x in tensors))
    two = FavorAttention(8, 16, kernel, seed=0)
    two.load_state_dict(copy.deepcopy(one.state_dict()))
    for _ in range(2):
        for name, value in one.state_dict().items():
            assert torch.equal(two.state_dict()[name], value), name
        assert torch.equal(one.eval()(*tensors), two.eval()(*tensors))
        one.redraw(2)
        two.redraw(2)


@EACH_ADAPTIVE
def test_training_does_not_depend_on_batch_mates_before_a_redraw(kernel: str) -> None:
    q, k, v = inputs((2, 2, 30, 8))
    attention = build(kernel, 8, 16).train()
    q[1] *= 5
    assert distance(attention(q, k, v)[:1], attention(q[:1], k[:1], v[:1])) < 1e-6


@EACH_ADAPTIVE
def test_adaptive_kernels_estimate_better_than_softmax_after_adapting(kernel: str) -> None:
    q, k, v = inputs((2, 4, 100, 16), 0.7)
    exact, errors = exact_attention(q, k, v), []
    for name in (kernel, "softmax"):
        total = 0.0
        for seed in range(10):
            attention = FavorAttention(16, 32, name, seed=seed)
            attention(q, k, v)
            attention.redraw(1)
            total += distance(attention(q, k, v), exact)
        errors.append(total)
    assert errors[0] < errors[1]


RANK = """
import os
import sys
import torch
import torch.distributed as dist
from protlm.performer import FavorAttention

rank, folder = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
attentions = {kernel: FavorAttention(8, 16, kernel) for kernel in ("optimal", "sderf")}
for attention in attentions.values():
    attention(*torch.load(f"{folder}/{rank}.pt"))
    attention.redraw(1)
torch.save({kernel: attention.state_dict() for kernel, attention in attentions.items()}, f"{folder}/state{rank}.pt")
dist.barrier()
sys.stdout.flush()
os._exit(0)  # gloo's threads sometimes abort a process that exits normally
"""


@pytest.mark.slow
def test_two_processes_adopt_the_observations_of_both(tmp_path: Path) -> None:
    batches = [inputs((2, 2, 30, 8), scale, seed=rank) for rank, scale in enumerate((1.0, 3.0))]
    for rank, batch in enumerate(batches):
        torch.save(batch, tmp_path / f"{rank}.pt")
    ranks = [subprocess.Popen([sys.executable, "-c", RANK, str(rank), str(tmp_path)]) for rank in range(2)]
    assert [rank.wait(timeout=60) for rank in ranks] == [0, 0]
    one, two = (torch.load(tmp_path / f"state{rank}.pt") for rank in range(2))
    for kernel in ADAPTIVE:
        alone = FavorAttention(8, 16, kernel)
        for batch in batches:
            alone(*batch)
        alone.redraw(1)
        for name, value in alone.state_dict().items():
            assert torch.equal(one[kernel][name], two[kernel][name])
            torch.testing.assert_close(one[kernel][name], value, rtol=1e-5, atol=1e-5)


# refusals


def test_invalid_shapes_and_names_are_reported() -> None:
    q, k, v = inputs((1, 2, 5, 8))
    with pytest.raises(ValueError, match=r"\(B, H, L, 16\).*\(1, 2, 5, 8\)"):
        FavorAttention(16)(q, k, v)
    with pytest.raises(ValueError, match="expected q and k"):
        FavorAttention(8)(q, k[:, :, :4], v)
    with pytest.raises(ValueError, match=r"bool key_mask of shape \(1, 5\)"):
        FavorAttention(8)(q, k, v, torch.ones(1, 5))
    with pytest.raises(ValueError, match="swish.*relu"):
        FavorAttention(8, kernel="swish")
    with pytest.raises(ValueError, match="sobol.*simplex"):
        FavorAttention(8, directions="sobol")
    with pytest.raises(ValueError, match="gamma.*chi"):
        FavorAttention(8, norms="gamma")


def test_the_reference_has_normalised_rows_and_respects_masks() -> None:
    q, k, _ = inputs((1, 2, 12, 8))
    mask = torch.arange(12)[None] < 9
    for kernel in KERNELS:
        attention = build(kernel, 8, 12)
        bias = attention.bias if kernel in ADAPTIVE else None
        matrix = attention_matrix(q, k, attention.feature_map, attention.directions, bias, mask, causal=True)
        torch.testing.assert_close(matrix.sum(-1), torch.ones_like(matrix.sum(-1)))
        assert torch.equal(matrix, matrix.tril() * mask[:, None, None])


def test_a_mismatched_state_is_refused() -> None:
    q, k, v = inputs((1, 2, 4, 8))
    attention = FavorAttention(8, 12, causal=True)
    _, state = attention.step(q, k, v)
    for other, tensors in (
        (FavorAttention(8, 12, "relu", causal=True), (q, k, v)),
        (attention, tuple(x.expand(3, -1, -1, -1) for x in (q, k, v))),
        (attention, (q, k, v[..., :3])),
    ):
        with pytest.raises(ValueError, match="state"):
            other.step(*tensors, state)
    with pytest.raises(ValueError, match="state"):
        attention.step(q, k, v, tuple(state))
    out, same = attention.step(*(x[:, :, :0] for x in (q, k, v)), state)
    assert out.shape == (1, 2, 0, 8)
    assert same is state


@pytest.mark.parametrize(
    "wrong",
    [
        {"head_dim": 0},
        {"num_features": 0},
        {"seed": -1},
        {"layer": -1},
        {"head_dim": 8.0},
        {"kernel": None},
        {"kernel": "swish"},
        {"directions": "haar"},
        {"norms": "one"},
    ],
)
def test_invalid_arguments_are_named(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        FavorAttention(**{"head_dim": 8, **wrong})


def test_invalid_calls_are_named() -> None:
    q, k, v = inputs((1, 2, 4, 8))
    attention = FavorAttention(8, 12)
    with pytest.raises(ValueError, match="draw_number"):
        attention.redraw(-1)
    with pytest.raises(ValueError, match="floating"):
        attention(q, k, v.long())
    with pytest.raises(ValueError, match="key_mask"):
        attention(q, k, v, [True] * 4)
    with pytest.raises(ValueError, match="kernel"):
        FavorAttention(8, 12, lambda p: p.sum())(q, k, v)
