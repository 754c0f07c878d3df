"""What must always hold for FAVOR+, against the float64 reference."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from protlm.performer import FavorAttention, linear_attention
from protlm.performer.features import FEATURE_MAPS
from protlm.performer.projection import draw_directions
from protlm.performer.reference import exact_attention, favor_attention

KERNELS = sorted(FEATURE_MAPS)
DIRECTIONS = pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])
EVERY = pytest.mark.parametrize("kernel", KERNELS)


def inputs(
    shape: tuple[int, int, int, int], scale: float = 1.0, dtype=torch.float32, seed: int = 0
) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(3))
    return [(q * scale).to(dtype), (k * scale).to(dtype), v.to(dtype)]


def distance(x: torch.Tensor, y: torch.Tensor) -> float:
    """Relative in norm."""
    return ((x.double() - y.double()).norm() / y.double().norm()).item()


def pads(batch: int, length: int) -> torch.Tensor:
    mask = torch.ones(batch, length, dtype=torch.bool)
    mask[-1, max(1, length // 2) :] = False
    return mask


@EVERY
@DIRECTIONS
@pytest.mark.parametrize(("length", "width", "features"), [(1, 60, 100), (63, 16, 7), (257, 60, 100)])
def test_equals_the_reference_in_outputs_and_gradients(kernel, causal, length, width, features) -> None:
    tensors = [x.requires_grad_() for x in inputs((2, 3, length, width), dtype=torch.float64)]
    mask = pads(2, length)
    attention = FavorAttention(width, features, kernel, causal=causal)
    fast = attention(*tensors, key_mask=mask)
    slow = favor_attention(*tensors, attention.directions, FEATURE_MAPS[kernel], mask, causal)
    assert distance(fast, slow) < 1e-12
    upstream = torch.randn(slow.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for mine, true in zip(
        torch.autograd.grad(fast, tensors, upstream), torch.autograd.grad(slow, tensors, upstream), strict=True
    ):
        assert (mine - true).norm() <= 1e-11 * true.norm() + 1e-12


@EVERY
@DIRECTIONS
@pytest.mark.parametrize("scale", [1, 3, 10, 30])
def test_float32_is_near_the_reference_at_any_norm(kernel, causal, scale) -> None:
    q, k, v = inputs((1, 2, 300, 64), scale)
    attention = FavorAttention(64, 128, kernel, causal=causal)
    slow = favor_attention(q, k, v, attention.directions, FEATURE_MAPS[kernel], causal=causal)
    assert distance(attention(q, k, v), slow) < 1e-5


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(KERNELS),
    st.booleans(),
    st.integers(1, 140),
    st.integers(1, 20),
    st.integers(1, 40),
    st.floats(0.01, 30),
    st.integers(0, 99),
)
def test_equals_the_reference_at_any_shape_and_scale(kernel, causal, length, width, features, scale, seed) -> None:
    q, k, v = inputs((2, 2, length, width), scale, torch.float64, seed)
    attention = FavorAttention(width, features, kernel, causal=causal, seed=seed)
    mask = pads(2, length)
    slow = favor_attention(q, k, v, attention.directions, FEATURE_MAPS[kernel], mask, causal)
    assert distance(attention(q, k, v, mask), slow) < 1e-10


@EVERY
@DIRECTIONS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_nan_or_infinity_for_inputs_scaled_to_100(kernel, causal, dtype) -> None:
    tensors = [x.requires_grad_() for x in inputs((1, 2, 200, 32), 100, dtype)]
    result = FavorAttention(32, 64, kernel, causal=causal)(*tensors)
    assert result.dtype == dtype
    assert result.isfinite().all()
    result.float().sum().backward()
    assert all(x.grad.isfinite().all() for x in tensors)


@EVERY
@DIRECTIONS
def test_gradcheck(kernel, causal) -> None:
    tensors = [x.requires_grad_() for x in inputs((1, 2, 9, 4), dtype=torch.float64)]
    attention = FavorAttention(4, 6, kernel, causal=causal)
    assert torch.autograd.gradcheck(lambda q, k, v: attention(q, k, v, pads(1, 9)), tensors)


@EVERY
@DIRECTIONS
@pytest.mark.parametrize("pad", [0.0, 1e4, -50.0])
def test_padding_changes_nothing_whatever_stands_in_it(kernel, causal, pad) -> None:
    q, k, v = inputs((1, 2, 150, 16))
    attention = FavorAttention(16, 32, kernel, causal=causal)
    alone = attention(q, k, v)
    padded = [torch.cat((x, torch.full_like(x, pad)), 2) for x in (q, k, v)]
    mask = torch.arange(300)[None] < 150
    assert distance(attention(*padded, mask)[:, :, :150], alone) < 1e-5


@EVERY
def test_pads_would_show_if_they_were_only_taken_from_the_values(kernel) -> None:
    """The commonest bug in public code: v is masked, the denominator is not."""
    q, k, v = inputs((1, 2, 40, 16))
    attention = FavorAttention(16, 32, kernel)
    mask = torch.arange(40)[None] < 20
    right = attention(q, k, v, mask)
    wrong = attention(q, k, v * mask[:, None, :, None])
    assert distance(right, wrong) > 0.05


@EVERY
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float32, 1e-6), (torch.float64, 1e-13)])
@pytest.mark.parametrize("size", [1.0, 1e3])
def test_the_future_changes_nothing(kernel, dtype, rounding, size) -> None:
    """To the last bit in earlier chunks, within rounding in the chunk of the change."""
    q, k, v = inputs((1, 2, 400, 16), dtype=dtype)
    attention = FavorAttention(16, 32, kernel, causal=True)
    before = attention(q, k, v)
    t = 300  # in the third chunk of 128 positions
    k[:, :, t:] += size
    v[:, :, t:] -= size
    q[:, :, t:] *= -1
    after = attention(q, k, v)
    assert torch.equal(before[:, :, :256], after[:, :, :256])
    assert distance(after[:, :, 256:t], before[:, :, 256:t]) < rounding
    assert distance(after[:, :, t:], before[:, :, t:]) > 0.01


@EVERY
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_chunk_size_changes_nothing(kernel, scale) -> None:
    q, k, v = inputs((1, 2, 200, 16), scale)
    kernel_map = FEATURE_MAPS[kernel]
    w = draw_directions("orthogonal", 32, 16, (0,))
    queries, keys = kernel_map.queries(q / 2, w), kernel_map.keys(k / 2, w)
    whole = linear_attention.linear_attention(queries, keys, v, kernel_map.log, causal=True, chunk=200)
    for chunk in (1, 7, 64, 199):
        other = linear_attention.linear_attention(queries, keys, v, kernel_map.log, causal=True, chunk=chunk)
        assert distance(other, whole) < 1e-5


def test_rows_that_underflow_are_halved_until_they_do_not() -> None:
    """A later key of the chunk is larger by e^200 in every feature: its maximum would wipe the earlier keys out."""
    queries = torch.zeros(1, 1, 8, 4)
    keys = torch.zeros(1, 1, 8, 4)
    keys[:, :, 5:] = 200.0
    values = torch.arange(8.0)[None, None, :, None]
    result = linear_attention.linear_attention(queries, keys, values, log=True, causal=True, chunk=8)
    torch.testing.assert_close(result.flatten(), torch.tensor([0, 0.5, 1, 1.5, 2, 5, 5.5, 6]))


@DIRECTIONS
def test_a_position_that_sees_no_key_gets_zero(causal) -> None:
    q, k, v = inputs((2, 1, 6, 4))
    mask = torch.ones(2, 6, dtype=torch.bool)
    mask[0] = False
    mask[1, :3] = False
    for kernel in KERNELS:
        result = FavorAttention(4, 8, kernel, causal=causal)(q, k, v, mask)
        assert torch.equal(result[0], torch.zeros_like(result[0]))
        assert bool((result[1, :, :3] == 0).all()) == causal
        assert result[1, :, 3:].abs().min() > 0


def test_a_constant_is_kept_exactly_and_an_epsilon_would_not() -> None:
    """Weights sum to 1 at any norm: with an epsilon in the denominator they do not."""
    for scale in (1, 30):
        q, k, _ = inputs((1, 2, 100, 16), scale)
        for kernel in KERNELS:
            for causal in (False, True):
                result = FavorAttention(16, 32, kernel, causal=causal)(q, k, torch.ones_like(q))
                torch.testing.assert_close(result, torch.ones_like(result), atol=2e-6, rtol=0)


def test_estimates_of_the_softmax_kernel_are_unbiased() -> None:
    """The mean over many draws of phi(q).phi(k) is exp(q.k), within 4 standard errors, for each pair."""
    kernel = FEATURE_MAPS["softmax"]
    q, k, _ = inputs((1, 1, 5, 8), 0.3, torch.float64)
    draws, features = 3000, 16
    estimates = []
    for draw in range(draws):
        w = draw_directions("orthogonal", features, 8, (draw,)).double()
        own = q.square().sum(-1, keepdim=True) / 2  # which log_positive_query leaves out
        estimates.append(((kernel.queries(q, w) - own).exp() @ kernel.keys(k, w).exp().transpose(-2, -1)) / features)
    stacked = torch.stack(estimates)
    error = (stacked.mean(0) - (q @ k.transpose(-2, -1)).exp()) / (stacked.std(0) / math.sqrt(draws))
    assert error.abs().max() < 4


def test_more_features_come_nearer_to_exact_attention_and_orthogonal_ones_nearest() -> None:
    q, k, v = inputs((1, 4, 256, 16), 0.4)
    exact = exact_attention(q, k, v)

    def error(features: int, directions: str) -> float:
        errors = [
            distance(FavorAttention(16, features, directions=directions, seed=s)(q, k, v), exact) for s in range(15)
        ]
        return sum(errors) / len(errors)

    assert error(256, "orthogonal") < error(64, "orthogonal") < error(16, "orthogonal")
    assert error(16, "orthogonal") < 0.98 * error(16, "iid")


def test_redraw_is_seeded_and_saved() -> None:
    one, two = FavorAttention(8, 16, seed=3, layer=1), FavorAttention(8, 16, seed=3, layer=1)
    first = one.directions.clone()
    one.redraw(5)
    assert not torch.equal(one.directions, first)
    two.redraw(2)
    two.redraw(5)
    assert torch.equal(one.directions, two.directions)
    three = FavorAttention(8, 16)
    three.load_state_dict(one.state_dict())
    assert torch.equal(three.directions, one.directions)
    assert three.draw_number == 5


def test_sums_are_float32_under_autocast() -> None:
    q, k, v = inputs((1, 2, 100, 16))
    attention = FavorAttention(16, 32)
    with torch.autocast("cpu", torch.bfloat16):
        inside = attention(q, k, v)
    assert torch.equal(inside, attention(q, k, v))


def test_wrong_shapes_and_names_are_said() -> None:
    q, k, v = inputs((1, 2, 5, 8))
    with pytest.raises(ValueError, match=r"\(B, H, L, 16\).*\(1, 2, 5, 8\)"):
        FavorAttention(16)(q, k, v)
    with pytest.raises(ValueError, match="sigmoid.*relu"):
        FavorAttention(8, kernel="sigmoid")
