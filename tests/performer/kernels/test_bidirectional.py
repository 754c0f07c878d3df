"""Kernels of bidirectional attention in Triton's interpreter, against the explicit matrix in float64."""

from itertools import pairwise

import pytest
import torch

pytest.importorskip("triton", reason="Triton is the optional extra gpu")

from protlm.performer.attention import FavorAttention
from protlm.performer.kernels import bidirectional, bidirectional_parts, bidirectional_tiles
from protlm.performer.reference import favor_attention

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 5e-3}
PROTEINS = [0, 63, 1, 70, 0, 2]
"""Lengths of a packed batch."""


def relative(actual, expected, least=1e-12):
    return float((actual.double() - expected).norm() / expected.norm().clamp(min=least))


def tensors(batch, heads, length, width, values, dtype, seed=0):
    """q, k, v and the gradient of the output; positions before heads in memory, as models have them."""
    generator = torch.Generator().manual_seed(seed)
    shapes = (width, width, values, values)
    q, k, v, grad = (torch.randn(batch, length, heads, w, generator=generator).transpose(1, 2) for w in shapes)
    return [x.to(dtype) for x in (q + 0.4, k - 0.3, v, grad)]


def expected(attention, q, k, v, grad, key_mask=None):
    """The output and the gradients of q, k and v, in float64."""
    q, k, v = (x.double().requires_grad_() for x in (q, k, v))
    bias = attention.bias if attention.feature_map.adaptive else None
    centred = attention.centred(q, k, key_mask)
    directions = attention.directions.double()
    out = favor_attention(q, centred, v, attention.feature_map, directions, bias, key_mask)
    out = torch.where(out.isnan(), 0.0, out)  # no key
    return out.detach(), *torch.autograd.grad(out, (q, k, v), grad.double())


def computed(attention, q, k, v, grad, key_mask=None, cu_seqlens=None, max_length=0):
    inputs, options = attention._operands(q, k, v, key_mask)
    assert bidirectional.unsupported(inputs, options) is None
    call = attention.feature_map.redrawn, cu_seqlens, max_length
    results = bidirectional.forward(inputs, options, *call)
    return results.out, *bidirectional.backward(grad, inputs, options, results, *call)


@pytest.fixture(autouse=True)
def poisoned(monkeypatch):
    """Memory of new tensors is NaN, and the device small, so that few programs run."""

    def poison(x):
        return x.fill_(float("nan")) if x.is_floating_point() else x

    empty, like = torch.Tensor.new_empty, torch.empty_like
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *a, **k: poison(empty(*a, **k)))
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: poison(like(*a, **k)))
    monkeypatch.setattr(bidirectional_parts, "PROCESSORS", 1)


def compare(attention, operands, key_mask=None):
    actual = computed(attention, *operands, key_mask)
    least = float(operands[3].norm()) if operands[0].shape[2] == 1 else 1e-12  # one residue has no gradient but dv
    for name, a, e in zip(("out", "dq", "dk", "dv"), actual, expected(attention, *operands, key_mask), strict=True):
        assert relative(a, e, least) < TOLERANCE[operands[0].dtype], name
        assert a.dtype == operands[0].dtype


def adapted(attention):
    """With the parameters that an adaptive kernel chooses after it has seen data."""
    if attention.feature_map.adaptive:
        attention.observe(*tensors(2, 2, 40, attention.head_dim, 8, torch.float32)[:2])
        attention.redraw(1)
    return attention


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kernel", ["softmax", "relu"])
@pytest.mark.parametrize(
    ("length", "width", "values", "features"), [(1, 16, 16, 32), (63, 20, 16, 100), (257, 64, 64, 32)]
)
def test_results_and_gradients(kernel, dtype, length, width, values, features):
    compare(FavorAttention(width, features, kernel), tensors(2, 1, length, width, values, dtype))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kernel", ["softmax", "relu"])
@pytest.mark.parametrize(("length", "width", "values", "features"), [(257, 60, 128, 256), (513, 128, 64, 100)])
def test_results_and_gradients_of_larger_heads(kernel, dtype, length, width, values, features):
    if dtype == torch.float32:
        length = length // 4 + 1  # tiles are a quarter as long
    compare(FavorAttention(width, features, kernel), tensors(1, 1, length, width, values, dtype))


@pytest.mark.parametrize(
    "kernel",
    [
        "hyperbolic",
        "regularised",
        "optimal",
        "sderf",
        "exp",
        "gelu",
        "sigmoid",
        "tanh",
        "abs",
        "elu+1",
        "relu_unprojected",
    ],
)
def test_every_map(kernel):
    compare(adapted(FavorAttention(20, 32, kernel)), tensors(1, 2, 33, 20, 16, torch.float32))


@pytest.mark.parametrize("kernel", ["cos", "identity"])
def test_maps_whose_denominators_come_near_0(kernel):
    q, k, v, grad = tensors(1, 2, 33, 20, 16, torch.float32)
    compare(FavorAttention(20, 32, kernel), [0.1 * q + 1, 0.1 * k + 1, v, grad])


@pytest.mark.parametrize("kernel", ["softmax", "relu", "exp"])
def test_masked_keys_and_values_may_hold_any_number(kernel):
    q, k, v, grad = tensors(3, 2, 70, 20, 16, torch.float32)
    key_mask = torch.rand(3, 70, generator=torch.Generator().manual_seed(1)) > 0.3
    key_mask[0], key_mask[2] = True, False  # the last has no key at all
    for x in (k, v):
        x.transpose(1, 2)[~key_mask] = 1e30
    attention = FavorAttention(20, 32, kernel)
    actual = computed(attention, q, k, v, grad, key_mask)
    for x in (k, v):
        x.transpose(1, 2)[~key_mask] = 0.0
    for a, e in zip(actual, expected(attention, q[:2], k[:2], v[:2], grad[:2], key_mask[:2]), strict=True):
        assert relative(a[:2], e) < 1e-5
        assert (a[2] == 0).all()


def alone(attention, operands, cu_seqlens, key_mask=None):
    """What is expected of a packed batch: each protein by itself, 0 where it has no key."""
    parts = []
    for start, stop in pairwise(cu_seqlens.tolist()):
        here = [x[:, :, start:stop] for x in operands]
        mask = None if key_mask is None else key_mask[:, start:stop]
        if start < stop:
            real = mask is None or mask.any()
            parts.append(
                expected(attention, *here, mask) if real else [torch.zeros_like(here[i]) for i in (3, 0, 1, 2)]
            )
    return [torch.cat(x, 2) for x in zip(*parts, strict=True)]


@pytest.mark.parametrize(
    ("kernel", "dtype", "masked"),
    [
        ("softmax", torch.float32, True),
        ("softmax", torch.bfloat16, False),
        ("relu", torch.float32, False),
        ("relu", torch.bfloat16, True),
        ("exp", torch.float16, True),
        ("sderf", torch.float32, False),
    ],
)
def test_packed_proteins_equal_each_alone(kernel, dtype, masked):
    """Also with masked keys among those of a protein, and with a protein that has no other."""
    attention = adapted(FavorAttention(16, 32, kernel))
    packed = tensors(1, 2, sum(PROTEINS), 16, 16, dtype)
    cu_seqlens = torch.tensor([0, *PROTEINS]).cumsum(0).int()
    key_mask = torch.rand(1, sum(PROTEINS), generator=torch.Generator().manual_seed(1)) > 0.3 if masked else None
    if masked:
        key_mask[:, -2:] = False
    actual = computed(attention, *packed, key_mask, cu_seqlens, max(PROTEINS))
    for a, e in zip(actual, alone(attention, packed, cu_seqlens, key_mask), strict=True):
        assert relative(a, e) < TOLERANCE[dtype]
        assert not masked or (a[:, :, -2:] == 0).all()


@pytest.mark.parametrize("kernel", ["softmax", "relu"])
def test_division_of_packed_sequences(kernel, monkeypatch):
    """One long protein among short and empty ones, some of whose parts are empty."""
    for name in ("sum_keys", "sum_queries", "differentiate_keys"):
        monkeypatch.setitem(bidirectional_tiles.TILES, (name, 16, 4), {"BLOCK_N": 16})
    monkeypatch.setattr(bidirectional_parts, "PROCESSORS", 20)
    joins = []
    join = bidirectional._join
    monkeypatch.setattr(bidirectional, "_join", lambda *a, **k: (joins.append(a[2]), join(*a, **k)))
    attention, lengths = FavorAttention(16, 16, kernel), [0, 140, 1, 0, 20]
    operands = tensors(1, 1, sum(lengths), 16, 16, torch.float32)
    cu_seqlens = torch.tensor([0, *lengths]).cumsum(0).int()
    actual = computed(attention, *operands, None, cu_seqlens, max(lengths))
    assert joins == [2, 2]
    for a, e in zip(actual, alone(attention, operands, cu_seqlens), strict=True):
        assert relative(a, e) < TOLERANCE[torch.float32]


@pytest.mark.parametrize("kernel", ["softmax", "relu"])
def test_division_of_long_sequences(kernel, monkeypatch):
    """Parts change rounding only, and the number of launches: at most 3 forward and 5 backward without them."""
    monkeypatch.setattr(bidirectional_parts, "PROCESSORS", 4)
    launches = []
    launch = bidirectional._Launcher.__call__
    spy = lambda self, kernel, *a, **k: (launches.append(kernel.fn.__name__), launch(self, kernel, *a, **k))  # noqa: E731
    monkeypatch.setattr(bidirectional._Launcher, "__call__", spy)
    operands, attention = tensors(1, 1, 600, 16, 16, torch.bfloat16), FavorAttention(16, 32, kernel)
    compare(attention, operands)
    assert launches.count("join") == 2
    monkeypatch.setattr(bidirectional_parts, "PROCESSORS", 1)
    launches.clear()
    compare(attention, operands)
    assert launches[:3] == ["sum_rows", "sum_keys", "attend"] if kernel == "softmax" else ["sum_keys", "attend"]
    assert launches[-3:] == ["sum_queries", "differentiate_keys", "differentiate_queries"]
    assert len(launches) == (6 if kernel == "softmax" else 5)


def test_large_norms_do_not_overflow():
    attention = FavorAttention(16, 32)
    operands = [30 * x for x in tensors(1, 1, 63, 16, 16, torch.float32)]
    actual = computed(attention, *operands)
    assert all(x.isfinite().all() for x in actual)
    assert relative(actual[0], expected(attention, *operands)[0]) < 1e-3


def test_memory_order_and_rows_that_are_not_contiguous():
    attention = FavorAttention(16, 32)
    q, k, v, grad = tensors(2, 2, 33, 16, 16, torch.float32)
    plain = computed(attention, q, k, v, grad)
    qkv = torch.stack((q, k, v), 2)  # (B, H, 3, L, d): rows of three tensors in one
    odd = computed(attention, *qkv.unbind(2), grad.transpose(2, 3).contiguous().transpose(2, 3))
    assert all((a == b).all() for a, b in zip(plain, odd, strict=True))
    assert plain[0].stride() == v.stride()


def test_an_empty_batch():
    attention = FavorAttention(16, 32)
    for shape in ((0, 2, 5, 16), (2, 2, 0, 16)):
        x = torch.ones(shape)
        assert [r.shape for r in computed(attention, x, x, x, x)] == [x.shape] * 4
