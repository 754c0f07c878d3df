"""Properties of LSH attention, and its equality with loops over positions in float64."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from protlm.performer.lsh import MAX_DIRECTIONS, Lsh, LshAttention
from protlm.performer.segments import within_segments

BOTH = pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def inputs(shape: tuple[int, ...], scale: float = 1.0, dtype=torch.float64, seed: int = 0) -> list[Tensor]:
    q, k, v = normal(3, *shape, seed=seed)
    return [(q * scale).to(dtype), (k * scale).to(dtype), v.to(dtype)]


def some(batch: int, length: int, share: float, seed: int = 1) -> Tensor:
    """A mask with about this share of keys; the last of several rows has none."""
    mask = torch.rand(batch, length, generator=torch.Generator().manual_seed(seed)) < share
    mask[0, length // 2] = True
    if batch > 2:
        mask[-1] = False
    return mask


def distance(x: Tensor, y: Tensor) -> float:
    """Relative in norm."""
    return ((x.double() - y.double()).norm() / y.double().norm()).item()


def gradients(result: Tensor, q: Tensor, v: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(result, (q, v), normal(*result.shape, seed=1).to(result))


# the reference


def buckets(x: Tensor, directions: Tensor, count: int) -> list[int]:
    """Buckets of positions (n, d) with this many directions: w_1, -w_1, w_2, -w_2, ..."""
    if count == 0:
        return [0] * len(x)
    p = x.double() @ directions[:count].double().T
    return torch.stack((p, -p), 2).flatten(1).argmax(1).tolist()


def seen_in_round(x: Tensor, directions: Tensor, chunk: int, causal: bool) -> list[set[int]]:
    """For each of n positions, the positions that it sees."""
    n = len(x)
    if not causal:
        h = buckets(x, directions, 0 if n <= chunk else min(-(-n // chunk), MAX_DIRECTIONS))
        place = {j: at for at, j in enumerate(sorted(range(n), key=lambda j: (h[j], j)))}
        return [
            {j for j in range(n) if j != i and h[i] == h[j] and place[i] // chunk - place[j] // chunk in (0, 1)}
            for i in range(n)
        ]
    seen, level, h = [], chunk, buckets(x, directions, 0)
    for i in range(n):
        if i + 1 > level:
            level *= 2
            h = buckets(x, directions, min(level // chunk, MAX_DIRECTIONS))
        seen.append(set([j for j in range(i) if h[j] == h[i]][-chunk:]))
    return seen


def slow(attention: LshAttention, q: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax over all positions seen in any round."""
    rows = []
    chunk, causal = attention.lsh.bucket, attention.causal
    for b in range(q.shape[0]):
        keys = torch.arange(q.shape[2]) if mask is None else mask[b].nonzero().flatten()
        for head in range(q.shape[1]):
            x, values = q[b, head, keys].double(), v[b, head, keys].double()
            rounds = [seen_in_round(x.detach(), w, chunk, causal) for w in attention.directions]
            matrix = torch.zeros(len(keys), len(keys), dtype=torch.bool)
            for i in range(len(keys)):
                for j in set().union(*(seen[i] for seen in rounds)) or {i}:
                    matrix[i, j] = True
            logits = x @ (x / x.norm(dim=-1, keepdim=True)).T
            weights = logits.masked_fill(~matrix, -torch.inf).softmax(-1)
            rows.append(torch.zeros_like(v[b, head]).double().index_add(0, keys, weights @ values))
    return torch.stack(rows).view(v.shape)


def shared(q: Tensor, v: Tensor, causal: bool) -> Tensor:
    """Exact attention with queries as keys."""
    hidden = torch.eye(q.shape[2], dtype=torch.bool)
    if causal:
        hidden = hidden | torch.ones_like(hidden).triu(1)
        hidden[0, 0] = False
    logits = q.double() @ (q.double() / q.double().norm(dim=-1, keepdim=True)).transpose(-2, -1)
    return logits.masked_fill(hidden, -torch.inf).softmax(-1) @ v.double()


# equal to the reference


@BOTH
@pytest.mark.parametrize("length", [1, 63, 257])
@pytest.mark.parametrize("share", [None, 0.7])
def test_equals_the_reference_in_outputs_and_gradients(causal: bool, length: int, share: float | None) -> None:
    q, k, v = (x.requires_grad_() for x in inputs((3 if share else 1, 2, length, 12)))
    mask = None if share is None else some(3, length, share)
    attention = LshAttention(12, 3, 16, causal, seed=5)
    fast, true = attention(q, k, v, mask), slow(attention, q, v, mask)
    assert distance(fast, true) < 1e-13
    for mine, theirs in zip(gradients(fast, q, v), gradients(true, q, v), strict=True):
        assert (mine - theirs).norm() <= 1e-13 * theirs.norm()


@settings(max_examples=40, deadline=None)
@given(
    st.booleans(),
    st.integers(1, 70),
    st.integers(1, 10),
    st.integers(1, 4),
    st.integers(1, 20),
    st.floats(0.01, 100),
    st.integers(0, 99),
)
def test_equals_the_reference_at_any_shape_and_scale(
    causal: bool, length: int, width: int, rounds: int, chunk: int, scale: float, seed: int
) -> None:
    q, k, _ = inputs((2, 2, length, width), scale, seed=seed)
    v = normal(2, 2, length, 5, seed=seed + 1)
    attention, mask = LshAttention(width, rounds, chunk, causal, seed), some(2, length, 0.8, seed)
    assert distance(attention(q, k, v, mask), slow(attention, q, v, mask)) < 1e-11


@BOTH
@pytest.mark.parametrize("chunk", [1, 130])
def test_equals_the_reference_at_the_maximum_of_buckets_and_for_long_chunks(causal: bool, chunk: int) -> None:
    q, k, v = inputs((1, 1, 2 * MAX_DIRECTIONS + 33, 4))
    attention = LshAttention(4, 2, chunk, causal)
    assert distance(attention(q, k, v), slow(attention, q, v)) < 1e-13


@BOTH
def test_gradcheck(causal: bool) -> None:
    q, k, v = (x.requires_grad_() for x in inputs((1, 1, 9, 3)))
    attention = LshAttention(3, 2, 3, causal)
    mask = torch.tensor([[True] * 4 + [False] + [True] * 4])
    assert torch.autograd.gradcheck(lambda q, v: attention(q, k, v, mask), (q, v))


@BOTH
def test_float32_is_close_to_float64(causal: bool) -> None:
    for scale in (1.0, 30.0):
        tensors = [x.requires_grad_() for x in inputs((1, 2, 300, 16), scale, torch.float32)]
        attention = LshAttention(16, 4, 16, causal)
        result, true = attention(*tensors), attention(*(x.double() for x in tensors))
        assert result.dtype == torch.float32
        assert distance(result, true) < 1e-6 * scale
        for gradient in gradients(result, tensors[0], tensors[2]):
            assert gradient.isfinite().all()


# the limit of many rounds


@BOTH
@pytest.mark.parametrize("rounds", [1, 4])
def test_one_bucket_is_exact_attention_with_shared_queries_and_keys(causal: bool, rounds: int) -> None:
    q, k, v = inputs((2, 2, 50, 16))
    assert distance(LshAttention(16, rounds, 50, causal)(q, k, v), shared(q, v, causal)) < 1e-13


@BOTH
def test_more_rounds_approximate_exact_attention_better(causal: bool) -> None:
    """Each position has four near neighbours, which get most of its weight."""
    centres = normal(1, 2, 64, 16, seed=3)
    q = 4 * (centres.repeat(1, 1, 4, 1) + 0.3 * normal(1, 2, 256, 16, seed=4))
    v = normal(1, 2, 256, 16, seed=5)
    exact = shared(q, v, causal)

    def error(rounds: int) -> float:
        errors = [distance(LshAttention(16, rounds, 32, causal, seed)(q, q, v), exact) for seed in range(5)]
        return sum(errors) / len(errors)

    errors = [error(rounds) for rounds in (1, 2, 4, 8, 16)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.2 * errors[0]


def test_a_key_seen_in_several_rounds_counts_once() -> None:
    q = 3 * normal(1, 1, 200, 8).sort(2).values  # neighbours are alike, so rounds agree
    v = (torch.arange(200.0) % 2)[None, None, :, None].double()
    attention = LshAttention(8, 8, 16)
    rounds = [LshAttention(8, 1, 16) for _ in range(8)]
    for one, directions in zip(rounds, attention.directions, strict=True):
        one.directions.copy_(directions[None])
    twice = torch.stack([one(q, q, v) for one in rounds]).mean(0)
    true = slow(attention, q, v)
    assert distance(attention(q, q, v), true) < 1e-13
    assert distance(twice, true) > 0.01


# what a position sees


@BOTH
def test_a_position_sees_itself_only_if_it_sees_no_other(causal: bool) -> None:
    q, k, v = inputs((1, 1, 40, 4))
    alone = LshAttention(4, 4, 16, causal)(q[:, :, :1], k[:, :, :1], v[:, :, :1])
    assert torch.equal(alone, v[:, :, :1])
    first = LshAttention(4, 4, 16, causal)(q, k, v)[:, :, 0]
    assert torch.equal(first, v[:, :, 0]) == causal
    values = torch.zeros_like(v)
    values[:, :, 20] = 1.0
    result = LshAttention(4, 4, 40, causal)(q, k, values)
    assert result[0, 0, 20, 0] == 0
    assert result[0, 0, 21, 0] > 0


@pytest.mark.parametrize("t", [1, 15, 16, 100])
@pytest.mark.parametrize("size", [1.0, 1e3])
def test_the_future_changes_nothing(t: int, size: float) -> None:
    q, k, v = inputs((1, 2, 200, 16), dtype=torch.float32)
    attention = LshAttention(16, 4, 16, causal=True)
    before = attention(q, k, v)
    shorter = attention(q[:, :, :t], k[:, :, :t], v[:, :, :t])
    later = inputs((1, 2, 200, 16), size, torch.float32, seed=7)
    q, v = (torch.cat((x[:, :, :t], y[:, :, t:]), 2) for x, y in ((q, later[0]), (v, later[2])))
    after = attention(q, k, v)
    torch.testing.assert_close(after[:, :, :t], before[:, :, :t], atol=1e-6, rtol=0)
    torch.testing.assert_close(shorter, before[:, :, :t], atol=1e-6, rtol=0)
    assert distance(after[:, :, t:], before[:, :, t:]) > 0.01


def test_chunks_of_all_positions_would_leak() -> None:
    """The same test fails for the paper's bidirectional scheme with later keys masked."""
    q = normal(1, 1, 200, 16) + 1  # so that some buckets are longer than a chunk
    attention = LshAttention(16, 1, 16)

    def usual() -> list[set[int]]:
        seen = seen_in_round(q[0, 0], attention.directions[0], 16, causal=False)
        return [{j for j in others if j < i} for i, others in enumerate(seen)][:150]

    before = usual()
    q[:, :, 150:] = normal(1, 1, 50, 16, seed=7)
    assert usual() != before


def test_outputs_have_no_gradient_to_later_positions() -> None:
    q, k, v = (x.requires_grad_() for x in inputs((1, 2, 150, 16)))
    result = LshAttention(16, 3, 16, causal=True)(q, k, v)
    for gradient in torch.autograd.grad(result[:, :, :100].sum(), (q, v)):
        assert torch.equal(gradient[:, :, 100:], torch.zeros_like(gradient[:, :, 100:]))


@BOTH
def test_distant_similar_positions_are_seen(causal: bool) -> None:
    q, _, v = inputs((1, 1, 500, 16))
    q[:, :, 480] = q[:, :, 20] * 2
    q[:, :, [20, 480]] *= 10
    attention = LshAttention(16, 4, 16, causal)
    assert distance(attention(q, q, v)[:, :, 480], v[:, :, 20]) < 0.01


# padding, batch-mates, segments


@BOTH
@pytest.mark.parametrize("pad", [1e10])
@pytest.mark.parametrize("where", ["left", "right", "between"])
@pytest.mark.parametrize("length", [20, 100])
def test_padding_changes_nothing_whatever_its_content(causal: bool, pad: float, where: str, length: int) -> None:
    q, k, v = (x.requires_grad_() for x in inputs((1, 2, length, 16), dtype=torch.float32))
    attention = LshAttention(16, 4, 16, causal)
    alone = attention(q, k, v)
    mask = torch.zeros(1, 170, dtype=torch.bool)
    start = {"left": 170 - length, "right": 0}.get(where)
    keys = torch.arange(start, start + length) if start is not None else torch.randperm(170)[:length].sort().values
    mask[:, keys] = True
    padded = [torch.full((1, 2, 170, 16), pad).index_copy(2, keys, x) for x in (q, k, v)]
    whole = attention(*padded, mask)
    assert (whole[:, :, ~mask[0]] == 0).all()
    together = whole[:, :, keys]
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)
    for mine, theirs in zip(gradients(together, q, v), gradients(alone, q, v), strict=True):
        assert distance(mine, theirs) < 1e-5


@BOTH
def test_batch_mates_change_nothing(causal: bool) -> None:
    q, k, v = inputs((4, 2, 150, 16), dtype=torch.float32)
    mask = torch.arange(150) < torch.tensor([[150], [90], [10], [0]])
    attention = LshAttention(16, 4, 16, causal)
    together = attention(q, k, v, mask)
    for row, length in enumerate((150, 90, 10)):
        alone = attention(*(x[row : row + 1, :, :length] for x in (q, k, v)))
        torch.testing.assert_close(together[row : row + 1, :, :length], alone, atol=1e-5, rtol=1e-5)
    assert torch.equal(together[3], torch.zeros_like(together[3]))


@BOTH
def test_a_full_mask_equals_no_mask(causal: bool) -> None:
    q, k, v = inputs((2, 2, 70, 16))
    attention = LshAttention(16, 4, 16, causal)
    assert torch.equal(attention(q, k, v), attention(q, k, v, torch.ones(2, 70, dtype=torch.bool)))


@BOTH
def test_segments_are_independent(causal: bool) -> None:
    lengths = [70, 1, 40, 17, 2]
    q, k, v = inputs((1, 2, 130, 8))
    attention = LshAttention(8, 3, 8, causal)
    segments = torch.repeat_interleave(torch.arange(5), torch.tensor(lengths))[None]
    got = within_segments(attention, q, k, v, None, segments)
    parts = zip(*(x.split(lengths, 2) for x in (q, k, v)), strict=True)
    torch.testing.assert_close(got, torch.cat([attention(*part) for part in parts], 2))


@BOTH
@pytest.mark.parametrize("change", ["strides", "zero queries", "equal queries"])
def test_odd_inputs(causal: bool, change: str) -> None:
    attention = LshAttention(8, 3, 8, causal)
    q, k, v = inputs((2, 2, 50, 8))
    if change == "strides":
        twisted = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
        assert torch.equal(attention(*twisted), attention(q, k, v))
        return
    q = (q * 0 if change == "zero queries" else q[:, :, :1].expand_as(q)).contiguous().requires_grad_()
    v.requires_grad_()
    result = attention(q, k, v)
    for tensor in (result, *gradients(result, q, v)):
        assert tensor.isfinite().all()
    v_of_each = v.detach().abs().amax()
    assert result.abs().amax() <= v_of_each


def test_empty_inputs() -> None:
    for shape in ((2, 2, 0, 8), (0, 2, 5, 8)):
        q, k, v = torch.ones(3, *shape)
        assert LshAttention(8)(q, k, v).shape == shape


# dtypes


@BOTH
def test_under_autocast_sums_are_float32(causal: bool) -> None:
    q, k, v = inputs((1, 2, 200, 16), dtype=torch.bfloat16)
    attention = LshAttention(16, 4, 16, causal)
    with torch.autocast("cpu", torch.bfloat16):
        result = attention(q, k, v)
    assert result.dtype == torch.bfloat16
    true = attention(q.float(), k.float(), v.float())
    assert torch.equal(result, true.bfloat16())


# directions


def test_directions_depend_on_seed_layer_and_draw_only() -> None:
    tensors = inputs((1, 2, 200, 8))
    one, two = LshAttention(8, 4, 16), LshAttention(8, 4, 16)
    torch.rand(5)
    assert torch.equal(one.directions, two.directions)
    others = [LshAttention(8, 4, 16, seed=1), LshAttention(8, 4, 16, layer=1), two]
    two.redraw(3)
    for other in others:
        assert (one.directions - other.directions).abs().amin((1, 2)).numel() == 4
        assert not torch.isclose(one.directions, other.directions).all(2).any()
        assert distance(other(*tensors), one(*tensors)) > 0.01
    one.redraw(3)
    assert int(one.draw_number) == 3
    assert torch.equal(one(*tensors), two(*tensors))
    one.redraw(0)
    assert torch.equal(one.directions, LshAttention(8, 4, 16).directions)


def test_rounds_differ_and_directions_are_orthonormal_up_to_one_factor() -> None:
    directions = LshAttention(8, 4).directions.double()
    assert directions.shape == (4, MAX_DIRECTIONS, 8)
    blocks = directions.unflatten(1, (-1, 8))
    products = blocks @ blocks.transpose(-2, -1)
    torch.testing.assert_close(products, 8 * torch.eye(8).double().expand_as(products), atol=1e-5, rtol=0)
    for i in range(4):
        for j in range(i):
            assert distance(directions[i], directions[j]) > 0.5


def test_directions_are_saved() -> None:
    one, two = LshAttention(8, 2, 16), LshAttention(8, 2, 16, seed=4)
    one.redraw(5)
    two.load_state_dict(one.state_dict())
    assert torch.equal(one.directions, two.directions)
    assert int(two.draw_number) == 5


# memory


def test_nothing_of_length_squared_is_kept_for_the_backward() -> None:
    def kept(length: int) -> int:
        sizes: dict[int, int] = {}

        def pack(x: Tensor) -> Tensor:
            sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        q, k, v = (x.requires_grad_() for x in inputs((1, 1, length, 8), dtype=torch.float32))
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            result = LshAttention(8, 2, 16)(q, k, v)
        assert result.requires_grad
        return sum(sizes.values())

    assert kept(4096) < 1.1 * 4 * kept(1024)


# refusals


WRONG: list[tuple[Callable[[], object], str]] = [
    (lambda: Lsh(rounds=0), "lsh rounds 0: expected an integer of at least 1"),
    (lambda: Lsh(bucket=2.5), "lsh bucket 2.5"),  # pyright: ignore[reportArgumentType]
    (lambda: LshAttention(0), "head_dim 0"),
    (lambda: LshAttention(8, rounds=0), "rounds 0"),
    (lambda: LshAttention(8, bucket=0), "bucket 0"),
    (lambda: LshAttention(8, seed=-1), "seed -1"),
    (lambda: LshAttention(8, layer=-1), "layer -1"),
    (lambda: LshAttention(8).redraw(-1), "draw_number -1"),
    (lambda: LshAttention(16)(*inputs((1, 2, 5, 8))), r"\(B, H, L, 16\).*\(1, 2, 5, 8\)"),
    (lambda: LshAttention(8)(*torch.ones(3, 1, 2, 5, 8).long()), "floating-point"),
    (lambda: LshAttention(8)(*inputs((1, 2, 5, 8)), torch.ones(1, 5)), r"bool key_mask of shape \(1, 5\)"),
    (lambda: LshAttention(8, causal=True).step(*inputs((1, 2, 5, 8))), "generation with LSH attention"),
]


@pytest.mark.parametrize(("call", "message"), WRONG)
def test_invalid_arguments_are_named(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
