"""Elsewhere than on the CPU, attention decides nothing by values, for which the host would wait for the device."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from protlm.performer import bidirectional, estimator
from protlm.performer import linear_attention as linear_attention_module
from protlm.performer.linear_attention import linear_attention
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
    for module in (estimator, bidirectional, linear_attention_module):
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
