"""Sliding-window attention against its reference: what each position sees, in blocks and step by step."""

import dataclasses

import pytest
import torch
from torch import Tensor

from protlm.performer import PerformerConfig
from protlm.performer.baselines import ExactAttention
from protlm.performer.cost import flops_per_token
from protlm.performer.reference import exact_attention, window_attention
from protlm.performer.segments import Packed, within_segments
from protlm.performer.window import Window, WindowAttention

SIZES = [1, 2, 7, 32, 65]


def operands(length: int, batch: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(length)
    return [
        torch.randn(batch, 3, length, width, generator=generator, dtype=torch.float64).requires_grad_()
        for width in (8, 8, 6)
    ]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [1, 63, 257])
@pytest.mark.parametrize("size", [1, 7, 32, 600])
@pytest.mark.parametrize("share", [None, 0.4])
def test_outputs_and_gradients_are_those_of_the_reference(
    size: int, length: int, causal: bool, share: float | None
) -> None:
    """Even where a position sees no key: its output is 0, without gradients."""
    one, other = operands(length), operands(length)
    mask = None if share is None else torch.rand(2, length, generator=torch.Generator().manual_seed(0)) < share
    got = WindowAttention(size, causal)(*one, mask)
    expected = window_attention(*other, size, mask, causal)
    torch.testing.assert_close(got, expected)
    upstream = torch.randn(got.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (got * upstream).sum().backward()
    (expected * upstream).sum().backward()
    for x, y in zip(one, other, strict=True):
        torch.testing.assert_close(x.grad, y.grad)


@pytest.mark.parametrize("causal", [False, True])
def test_a_window_over_all_is_exact_attention(causal: bool) -> None:
    q, k, v = (x.detach() for x in operands(40))
    torch.testing.assert_close(WindowAttention(80, causal)(q, k, v), exact_attention(q, k, v, causal=causal))


@pytest.mark.parametrize(
    ("size", "causal", "first", "last"),
    [(8, False, 46, 54), (9, False, 46, 54), (1, False, 50, 50), (8, True, 43, 50), (1, True, 50, 50)],
)
def test_each_position_sees_only_its_window(size: int, causal: bool, first: int, last: int) -> None:
    q, k, v = operands(100, 1)
    WindowAttention(size, causal)(q, k, v)[0, 0, 50].sum().backward()
    assert v.grad is not None
    assert v.grad[0, 0].abs().sum(-1).nonzero().flatten().tolist() == list(range(first, last + 1))


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_padding_and_batch_mates_change_nothing(size: int, causal: bool) -> None:
    attention = WindowAttention(size, causal)
    q, k, v = (x.detach() for x in operands(150))
    mask = torch.ones(2, 150, dtype=torch.bool)
    mask[1, 41:] = False
    for x in (q, k, v):
        x[1, :, 41:] = 1e3  # values after a protein do not count
    got = attention(q, k, v, mask)
    torch.testing.assert_close(got[0], attention(q[:1], k[:1], v[:1])[0])
    alone = [x[1:, :, :41] for x in (q, k, v)]
    torch.testing.assert_close(got[1, :, :41], attention(*alone)[0])
    assert attention(q, k, v, torch.zeros_like(mask)).count_nonzero() == 0


@pytest.mark.parametrize("causal", [False, True])
def test_each_segment_is_attended_to_as_if_it_were_alone(causal: bool) -> None:
    attention, lengths = WindowAttention(6, causal), [1, 30, 7, 62]
    q, k, v = (x.detach() for x in operands(100, 1))
    segments = torch.repeat_interleave(torch.arange(4), torch.tensor(lengths))[None]
    parts = zip(*(x.split(lengths, 2) for x in (q, k, v)), strict=True)
    expected = torch.cat([attention(*part) for part in parts], 2)
    torch.testing.assert_close(within_segments(attention, q, k, v, None, segments), expected)


@pytest.mark.parametrize("size", SIZES)
def test_steps_equal_the_parallel_forward_and_keep_one_window(size: int) -> None:
    attention = WindowAttention(size, causal=True)
    q, k, v = (x.detach() for x in operands(70))
    whole = attention(q, k, v)
    for sizes in ([1] * 70, [7, 1, 1, 20, 41], [70]):
        state, outs = None, []
        for parts in zip(*(x.split(sizes, 2) for x in (q, k, v)), strict=True):
            out, state = attention.step(*parts, state)
            outs.append(out)
            assert state.keys.shape[2] <= size - 1
        torch.testing.assert_close(torch.cat(outs, 2), whole)
    with pytest.raises(ValueError, match="only causal"):
        WindowAttention(size).step(q, k, v)


@pytest.mark.parametrize("causal", [False, True])
def test_no_positions_have_an_empty_result(causal: bool) -> None:
    """Of a sequence, of a packed batch and of a step, also after others."""
    attention, empty = WindowAttention(5, causal), [x.detach() for x in operands(0)]
    assert attention(*empty).shape == attention(*empty, torch.ones(2, 0, dtype=torch.bool)).shape == (2, 3, 0, 6)
    assert attention(*empty, None, Packed(torch.zeros(1, dtype=torch.int32), 0)).shape == (2, 3, 0, 6)
    if causal:
        out, state = attention.step(*empty)
        assert out.shape == (2, 3, 0, 6)
        some = [x.detach() for x in operands(3)]
        out, state = attention.step(*some, state)
        torch.testing.assert_close(out, attention(*some))
        assert attention.step(*empty, state)[0].shape == (2, 3, 0, 6)


@pytest.mark.parametrize("causal", [False, True])
def test_memory_and_time_are_linear_in_length(causal: bool) -> None:
    """The number of values passed to attention is the same per position at any length."""
    given = []

    def listening(q: Tensor, k: Tensor, v: Tensor, attn_mask: Tensor) -> Tensor:
        given.append(q.shape[0] * q.shape[2] * k.shape[2])
        assert attn_mask.shape == (q.shape[0], 1, q.shape[2], k.shape[2])
        return q[..., :6]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.nn.functional.scaled_dot_product_attention", listening)
        for length in (256, 2560):
            WindowAttention(32, causal)(*operands(length, 1))
    assert given[1] == 10 * given[0] < 2560 * 3 * 33


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_result_has_the_dtype_of_the_values(dtype: torch.dtype) -> None:
    q, k, v = (x.detach().to(dtype) for x in operands(100))
    got = WindowAttention(8)(q, k, v)
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), window_attention(q, k, v, 8), rtol=0, atol=3e-2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("autocast", [False, True])
def test_gradients_in_16_bits(dtype: torch.dtype, causal: bool, autocast: bool) -> None:
    """Up to the rounding of a few products."""
    narrow = [x.detach().to(dtype).requires_grad_() for x in operands(100)]
    wide = [x.detach().double().requires_grad_() for x in narrow]
    mask = torch.rand(2, 100, generator=torch.Generator().manual_seed(0)) < 0.8
    with torch.autocast("cpu", dtype, enabled=autocast):
        got = WindowAttention(8, causal)(*narrow, mask)
    expected = window_attention(*wide, 8, mask, causal)
    assert got.dtype == dtype
    upstream = torch.randn(got.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (got * upstream).sum().backward()
    (expected * upstream).sum().backward()
    for one, other in zip((got, *(x.grad for x in narrow)), (expected, *(x.grad for x in wide)), strict=True):
        assert (one.double() - other).norm() < 8 * torch.finfo(dtype).eps * other.norm()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [1, 5, 100])
@pytest.mark.parametrize("size", [1, 8, 9, 300])
def test_operations_count_the_visible_keys(size: int, length: int, causal: bool) -> None:
    place = torch.arange(length)
    distance = place[:, None] - place
    seen = (distance >= 0) & (distance < size) if causal else distance.abs() <= size // 2
    config = PerformerConfig(33, 1, 1, 2, 16, 16, attention=Window(size), causal=causal)
    without = dataclasses.replace(config, attention="opt")
    assert flops_per_token(config, length) - flops_per_token(without, length) == 2 * (4 * 8 * int(seen.sum()) // length)


def test_invalid_settings_are_refused() -> None:
    for size in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match=f"size {size}: expected an integer of at least 1"):
            Window(size)


def test_it_is_not_exact_attention() -> None:
    q, k, v = (x.detach() for x in operands(100))
    assert not torch.allclose(WindowAttention(8)(q, k, v), ExactAttention()(q, k, v), atol=1e-2)
