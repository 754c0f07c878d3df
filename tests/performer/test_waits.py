"""Elsewhere than on the CPU, attention decides nothing by values, for which the host would wait for the device."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from protlm.performer import Performer, PerformerConfig, baselines, bidirectional, estimator, lsh
from protlm.performer import linear_attention as linear_attention_module
from protlm.performer import model as model_module
from protlm.performer.hybrid import Hybrid
from protlm.performer.kind import Kind
from protlm.performer.linear_attention import linear_attention
from protlm.performer.lsh import Lsh, LshAttention
from protlm.performer.segments import Packed
from tests.performer.test_attention import (
    BOTH,
    EACH_TRAIT,
    RAMPS,
    SHIFTED,
    build,
    conditioning,
    distance,
    gradients,
    inputs,
    true,
)

ASKING = ("__bool__", "__int__", "__float__", "__index__", "item", "tolist", "numpy", "cpu", "nonzero", "unique")


class Waits:
    """Counts the calls for which the host would wait for a device."""

    count = 0


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Waits:
    counted = Waits()

    def counting(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            counted.count += 1
            return real(*arguments, **options)

        return call

    for name in ASKING:
        monkeypatch.setattr(torch.Tensor, name, counting(getattr(torch.Tensor, name)))
    chosen = torch.Tensor.__getitem__

    def getitem(x: Tensor, index: Any) -> Tensor:
        indices = index if isinstance(index, tuple) else (index,)
        counted.count += any(isinstance(i, Tensor) and i.dtype == torch.bool for i in indices)
        return chosen(x, index)

    monkeypatch.setattr(torch.Tensor, "__getitem__", getitem)
    return counted


def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on tensors count as those of a GPU."""
    for module in (estimator, bidirectional, linear_attention_module, lsh, model_module):
        monkeypatch.setattr(module, "waits", lambda x: True)


@BOTH
@pytest.mark.parametrize("scale", [1.0, 6.0])
@EACH_TRAIT
def test_elsewhere_than_on_the_cpu_nothing_is_decided_by_values(kernel, scale, causal, waits, monkeypatch) -> None:
    q, k, v = (x.requires_grad_() for x in inputs((2, 2, 100, 8), scale))
    mask = torch.ones(2, 100, dtype=torch.bool)
    mask[1, 60:] = False
    attention = build(kernel, 8, 16, causal=causal)
    waits.count = 0
    expected = attention(q, k, v, mask)
    of_expected = torch.autograd.grad(expected.square().sum(), (q, k, v))
    decided, waits.count = waits.count, 0
    assert (decided > 0) == (attention.feature_map.log or attention.feature_map.quadratic != 0)
    elsewhere(monkeypatch)
    out = attention(q, k, v, mask)
    gradients = torch.autograd.grad(out.square().sum(), (q, k, v))
    assert waits.count == 0
    assert torch.allclose(out, expected, rtol=1e-3, atol=1e-4)
    for found, gradient in zip(gradients, of_expected, strict=True):
        assert (found - gradient).norm() < 1e-3 * gradient.norm()


@pytest.mark.parametrize("kernel", SHIFTED)
@pytest.mark.parametrize("length", [1, 63, 257])
def test_causal_attention_elsewhere_equals_the_reference(kernel: str, length: int, monkeypatch) -> None:
    """In one and in several blocks; its state continues step by step."""
    elsewhere(monkeypatch)
    tensors = [x.requires_grad_() for x in inputs((2, 2, length, 8), dtype=torch.float64)]
    attention = build(kernel, 8, 32, causal=True)
    slow = true(attention, *tensors)
    expected, bound = gradients(slow, tensors), conditioning(attention, *tensors[:2])
    given, options = attention._operands(*tensors, None)
    for block in (0, 64):
        fast = linear_attention(given, options._replace(block=block))[0]
        assert distance(fast, slow) < 1e-12 * bound
        for mine, theirs in zip(gradients(fast, tensors), expected, strict=True):
            assert (mine - theirs).norm() < 1e-12 * bound * (1 + theirs.norm())
    q, k, v = (x.detach() for x in tensors)
    first, state = attention.step(q[:, :, :-1], k[:, :, :-1], v[:, :, :-1]) if length > 1 else (q[:, :, :0], None)
    last, _ = attention.step(q[:, :, -1:], k[:, :, -1:], v[:, :, -1:], state)
    assert distance(torch.cat((first, last), 2), slow.detach()) < 1e-12 * bound


@pytest.mark.parametrize("kernel", SHIFTED)
def test_causal_attention_elsewhere_does_not_depend_on_the_future(kernel: str, monkeypatch) -> None:
    elsewhere(monkeypatch)
    q, k, v = inputs((1, 2, 400, 16))
    attention = build(kernel, 16, 32, causal=True)
    before = attention(q, k, v)
    k[:, :, 300:] *= 1e3
    assert torch.equal(before[:, :, :256], attention(q, k, v)[:, :, :256])


@RAMPS
def test_keys_that_grow_elsewhere_lose_no_precision_up_to_the_limit(kernel: str, rising: bool, monkeypatch) -> None:
    """By up to 2^180 within a chunk; positions that a later key of the chunk exceeds by more get 0, not NaN."""
    elsewhere(monkeypatch)
    q, k, v = inputs((1, 2, 200, 8), dtype=torch.float64)
    ramp = torch.linspace(0, 30, 200).double()[:, None]
    k = k / k.norm(dim=-1, keepdim=True) * (ramp if rising else ramp.flip(0))
    tensors = [x.float().requires_grad_() for x in (q, k, v)]
    attention = build(kernel, 8, 32, causal=True)
    fast, slow = attention(*tensors), true(attention, *tensors)
    assert distance(fast, slow) < 1e-3 * conditioning(attention, *tensors[:2])
    assert all(x.isfinite().all() for x in gradients(fast, tensors))
    steep = k.float()
    steep[:, :, 100:] *= 1e3 if rising else 1e-3
    assert attention(q.float(), steep * 10, v.float()).isfinite().all()


@BOTH
def test_lsh_attention_elsewhere_decides_nothing_by_values(causal: bool, waits, monkeypatch) -> None:
    """Of proteins with several numbers of buckets, one of them without any."""
    q, k, v = (x.requires_grad_() for x in inputs((3, 2, 150, 8)))
    mask = torch.arange(150) < torch.tensor([[150], [90], [20]])
    attention = LshAttention(8, 3, 16, causal)
    waits.count = 0
    expected = attention(q, k, v, mask)
    assert (waits.count > 0) == (not causal)
    of_expected = torch.autograd.grad(expected.square().sum(), (q, v))
    elsewhere(monkeypatch)
    waits.count = 0
    found = attention(q, k, v, mask)
    gradients = torch.autograd.grad(found.square().sum(), (q, v))
    assert waits.count == 0
    torch.testing.assert_close((found, *gradients), (expected, *of_expected))


def network(attention: str | Kind, layers: int, causal: bool = False) -> Performer:
    torch.manual_seed(0)
    options: dict[str, Any] = {"attention": attention, "causal": causal, "dropout": 0.0, "num_features": 8}
    return Performer(PerformerConfig(33, 1, layers, 2, 16, 16, max_length=64, **options))


@pytest.mark.parametrize("attention", ["exact", "linformer", "softmax", Lsh(2, 8), Hybrid(block=8)], ids=str)
@pytest.mark.parametrize("batch", ["padded", "packed", "segments"])
def test_a_model_elsewhere_asks_once_for_all_layers(attention, batch: str, waits, monkeypatch) -> None:
    """Whether there is padding, and where the sequences of a packed batch are."""
    elsewhere(monkeypatch)
    tokens = torch.randint(4, 24, (1, 60), generator=torch.Generator().manual_seed(0))
    tokens[0, 50:] = 1
    packed = Packed(torch.tensor([0, 7, 20, 21, 60], dtype=torch.int32), 39)
    segments = {"padded": None, "packed": packed, "segments": packed.numbers(60)}[batch]
    counts = []
    for layers in (1, 3):
        model = network(attention, layers)
        waits.count = 0
        hidden = model.hidden(tokens, segments=segments)
        torch.autograd.grad(hidden.square().sum(), model.embedding.weight)
        counts.append(waits.count)
    assert counts[0] == counts[1]
    if segments is None:
        assert counts[0] == int(model.config.kind.prefers_no_mask)


@pytest.mark.parametrize("segments", [False, True])
@pytest.mark.parametrize("padding", ["right", "left"])
def test_causal_exact_attention_elsewhere_has_no_mask_for_padding_at_the_end(
    segments: bool, padding: str, monkeypatch
) -> None:
    """So that PyTorch's flash kernels can compute it."""
    tokens = torch.randint(4, 24, (2, 30), generator=torch.Generator().manual_seed(0))
    tokens[1, 20:] = 1
    tokens = tokens if padding == "right" else tokens.flip(1)
    number = torch.arange(30).expand(2, 30) // 12 if segments else None
    model, real = network("exact", 2, causal=True), tokens != 1
    with torch.no_grad():
        expected = model.hidden(tokens, segments=number)[real]
    calls, attention = [], baselines.F.scaled_dot_product_attention

    def spied(*tensors: Tensor, **options: Any) -> Tensor:
        calls.append(options)
        return attention(*tensors, **options)

    monkeypatch.setattr(baselines.F, "scaled_dot_product_attention", spied)
    elsewhere(monkeypatch)
    with torch.no_grad():
        found = model.hidden(tokens, segments=number)[real]
    torch.testing.assert_close(found, expected)
    assert any("attn_mask" in options for options in calls) == (padding == "left")
    assert all(options.get("is_causal", False) != ("attn_mask" in options) for options in calls)
