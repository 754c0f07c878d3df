"""The check of the other tests' memory accesses: it sees a wrong access, and none where there is none."""

import pytest
import torch

triton = pytest.importorskip("triton", reason="triton is the optional extra `gpu`")
import triton.language as tl  # noqa: E402

from tests.performer.kernels.bounds import OutOfBoundsError  # noqa: E402


@triton.jit
def copy(x, y, count, first, MASKED: tl.constexpr):  # noqa: N803
    at = first + tl.arange(0, 16)
    value = tl.load(x + at, mask=(at >= 0) & (at < count), other=0.0) if MASKED else tl.load(x + at)
    tl.store(y + tl.arange(0, 16), value)


@pytest.mark.parametrize(("count", "first", "masked"), [(16, 0, True), (16, 4, True), (16, -4, True), (16, 0, False)])
def test_masked_lanes_do_not_count(count: int, first: int, masked: bool) -> None:
    x, y = torch.randn(16), torch.empty(16)
    copy[(1,)](x, y, count, first, masked)
    assert torch.equal(y[: 16 - max(first, 0)][max(-first, 0) :], x[max(first, 0) : 16 + min(first, 0)])


@pytest.mark.parametrize(("count", "first", "masked"), [(17, 1, True), (16, 1, False), (16, -1, False)])
def test_what_is_beyond_a_tensor_is_found(count: int, first: int, masked: bool) -> None:
    with pytest.raises(Exception, match=r"copy, .*test_bounds.py:\d+: 1 of 16 lanes") as caught:
        copy[(1,)](torch.randn(16), torch.empty(16), count, first, masked)
    assert isinstance(caught.value.__cause__, OutOfBoundsError)


def test_stores_are_checked() -> None:
    with pytest.raises(Exception, match="8 of 16 lanes"):
        copy[(1,)](torch.randn(16), torch.empty(8), 16, 0, True)
