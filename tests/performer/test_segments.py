from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from protlm.performer import FavorAttention
from protlm.performer.baselines import ExactAttention, IdentityAttention
from protlm.performer.segments import Packed, accepts_packed, needs_mask, plan_of, restarted, within_segments
from protlm.performer.window import WindowAttention

LENGTHS = [[1, 2, 3, 4, 5, 8, 1, 9, 16, 17, 1, 33], [100], [50, 50], [1] * 100, [99, 1], [1, 64, 35]]
"""Of the segments of each row."""

ATTENTION: dict[str, Callable[[bool], torch.nn.Module]] = {
    "exact": ExactAttention,
    "opt": lambda causal: IdentityAttention(),
    "relu": lambda causal: FavorAttention(8, 24, kernel="relu", causal=causal),
    "softmax": lambda causal: FavorAttention(8, 24, kernel="softmax", causal=causal),
}


def numbered(rows: list[list[int]]) -> Tensor:
    """(B, L), the number of each position's segment."""
    return torch.stack([torch.repeat_interleave(torch.arange(len(row)), torch.tensor(row)) for row in rows])


def operands(rows: list[list[int]], value_width: int = 8) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (len(rows), 2, sum(rows[0]))
    return [
        torch.randn(*shape, width, generator=generator, dtype=torch.float64).requires_grad_()
        for width in (8, 8, value_width)
    ]


def apart(attention: torch.nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, rows) -> Tensor:
    """One call of the attention for each segment."""
    whole = []
    for row, lengths in enumerate(rows):
        parts, start = [], 0
        for length in lengths:
            place = (slice(row, row + 1), slice(None), slice(start, start + length))
            keys = None if mask is None else mask[row : row + 1, start : start + length]
            parts.append(attention(q[place], k[place], v[place], keys))
            start += length
        whole.append(torch.cat(parts, 2))
    return torch.cat(whole)


def key_mask(rows: list[list[int]], share: float) -> Tensor:
    """(B, L), true for about this share of the keys, and for the first of each segment."""
    segments = numbered(rows)
    chosen = torch.rand(segments.shape, generator=torch.Generator().manual_seed(1)) < share
    return chosen | (restarted(segments) == 0)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", ATTENTION)
@pytest.mark.parametrize("share", [None, 0.6])
def test_each_segment_is_attended_to_as_if_it_were_alone(name: str, causal: bool, share: float | None) -> None:
    attention = ATTENTION[name](causal).eval()
    mask = None if share is None else key_mask(LENGTHS, share)
    together, alone = operands(LENGTHS, 6), operands(LENGTHS, 6)
    got = within_segments(attention, *together, mask, numbered(LENGTHS))
    expected = apart(attention, *alone, mask, LENGTHS)
    torch.testing.assert_close(got, expected)
    upstream = torch.randn(got.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    (got * upstream).sum().backward()
    (expected * upstream).sum().backward()
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", ["exact", "relu", "softmax"])
def test_a_segment_does_not_see_another(name: str, causal: bool) -> None:
    attention = ATTENTION[name](causal).eval()
    rows = [[10, 1, 20, 9]]
    q, k, v = (x.detach() for x in operands(rows))
    before = within_segments(attention, q, k, v, None, numbered(rows))
    inside = slice(11, 31)
    for x in (q, k, v):
        x[:, :, inside] = torch.randn(1, 2, 20, 8, generator=torch.Generator().manual_seed(3))
    after = within_segments(attention, q, k, v, None, numbered(rows))
    outside = torch.ones(40, dtype=torch.bool)
    outside[inside] = False
    torch.testing.assert_close(after[:, :, outside], before[:, :, outside], atol=1e-12, rtol=0)
    assert (after[:, :, inside] - before[:, :, inside]).abs().amax(-1).min() > 1e-6


@given(st.lists(st.integers(1, 40), min_size=1, max_size=25))
def test_segments_of_any_lengths(lengths: list[int]) -> None:
    rows = [lengths, lengths[::-1]]
    attention = ExactAttention(causal=True)
    q, k, v = (x.detach() for x in operands(rows))
    got = within_segments(attention, q, k, v, None, numbered(rows))
    torch.testing.assert_close(got, apart(attention, q, k, v, None, rows))


def test_neighbouring_rows_are_separate_even_with_equal_segment_numbers() -> None:
    rows = [[7], [7], [7]]
    attention = ExactAttention()
    q, k, v = (x.detach() for x in operands(rows))
    segments = torch.zeros(3, 7, dtype=torch.long)
    torch.testing.assert_close(within_segments(attention, q, k, v, None, segments), attention(q, k, v))


@pytest.mark.parametrize("numbers", [[5, 3], [0, 1], [-1, 7], [1, 0]])
def test_only_segment_boundaries_matter_not_the_numbers(numbers: list[int]) -> None:
    rows = [[4, 3]]
    q, k, v = (x.detach() for x in operands(rows))
    segments = torch.tensor([[numbers[0]] * 4 + [numbers[1]] * 3])
    got = within_segments(ExactAttention(), q, k, v, None, segments)
    assert torch.equal(got, within_segments(ExactAttention(), q, k, v, None, numbered(rows)))
    assert restarted(segments).tolist() == [[0, 1, 2, 3, 0, 1, 2]]


@pytest.mark.parametrize("name", ATTENTION)
@pytest.mark.parametrize("causal", [False, True])
def test_a_segment_of_padding_alone_is_harmless(name: str, causal: bool) -> None:
    """As after the last, shorter block of a split."""
    attention = ATTENTION[name](causal).eval()
    rows = [[5, 7, 8]]
    mask = torch.ones(1, 20, dtype=torch.bool)
    mask[:, 12:] = False
    tensors = operands(rows)
    got = within_segments(attention, *tensors, mask, numbered(rows))
    assert got.isfinite().all()
    got[:, :, :12].sum().backward()
    shorter = [x.detach()[:, :, :12].requires_grad_() for x in tensors]
    expected = within_segments(attention, *shorter, None, numbered(rows)[:, :12])
    expected.sum().backward()
    torch.testing.assert_close(got[:, :, :12], expected)
    for x, other in zip(tensors, shorter, strict=True):
        if x.grad is not None:
            torch.testing.assert_close(x.grad[:, :, :12], other.grad)
            assert (x.grad[:, :, 12:] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_result_has_the_dtype_of_the_values(dtype: torch.dtype) -> None:
    q, k, v = (x.detach().to(dtype) for x in operands([[3, 5]]))
    assert within_segments(ExactAttention(), q, k, v, None, numbered([[3, 5]])).dtype == dtype


def test_segments_of_similar_length_share_a_call() -> None:
    """A block of many proteins takes few calls and at most twice the positions."""
    rows = [[1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 40, 41, 60, 99], [100] * 3]
    shapes = []

    def listening(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        shapes.append(q.shape)
        return v

    q, k, v = (x.detach() for x in operands(rows))
    got = within_segments(listening, q, k, v, None, numbered(rows))
    assert torch.equal(got, v)
    assert len(shapes) <= 7
    assert sum(shape[0] for shape in shapes) == 17
    assert sum(shape[0] * shape[2] for shape in shapes) < 2 * 600


@pytest.mark.parametrize("share", [None, 0.6])
def test_a_plan_of_a_batch_serves_all_its_layers(share: float | None) -> None:
    mask, tensors = None if share is None else key_mask(LENGTHS, share), operands(LENGTHS)
    plan = plan_of(numbered(LENGTHS), mask)
    for attention in (ExactAttention(), FavorAttention(8, 24).eval()):
        expected = within_segments(attention, *tensors, mask, numbered(LENGTHS))
        assert torch.equal(within_segments(attention, *tensors, mask, plan), expected)
    assert sum(len(part.target) for part in plan.parts) == len(LENGTHS) * 100
    assert all(part.mask is not None for part in plan.parts)
    without = plan_of(numbered(LENGTHS), mask, lambda mask: False)
    assert all(part.mask is None for part in without.parts)


@pytest.mark.parametrize(
    ("mask", "bidirectional", "causal"),
    [([1, 1, 1], False, False), ([1, 1, 0], True, False), ([0, 1, 1], True, True), ([1, 0, 1], True, True)],
)
def test_a_mask_is_needed_where_a_position_could_see_what_it_hides(mask, bidirectional: bool, causal: bool) -> None:
    given = torch.tensor([[1, 1, 1], mask], dtype=torch.bool)
    assert (needs_mask(given, False), needs_mask(given, True)) == (bidirectional, causal)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12))
def test_positions_restart_in_each_segment(lengths: list[int]) -> None:
    rows = [lengths, lengths[::-1]]
    expected = [[place for length in row for place in range(length)] for row in rows]
    assert restarted(numbered(rows)).tolist() == expected


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("size", [1, 5, 8, 300])
def test_window_attention_computes_packed_sequences_itself(size: int, causal: bool) -> None:
    lengths = LENGTHS[0]
    edges = torch.tensor([0, *lengths]).cumsum(0).int()
    packed, attention = Packed(edges, max(lengths)), WindowAttention(size, causal)
    assert accepts_packed(attention, *operands([lengths])[:2])
    for mask in (None, key_mask([lengths], 0.6)):
        one, other = operands([lengths], 6), operands([lengths], 6)
        got = attention(*one, mask, packed)
        expected = apart(attention, *other, mask, [lengths])
        torch.testing.assert_close(got, expected)
        got.square().sum().backward()
        expected.square().sum().backward()
        for x, y in zip(one, other, strict=True):
            torch.testing.assert_close(x.grad, y.grad)
