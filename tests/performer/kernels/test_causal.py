"""Causal GPU kernels in Triton's interpreter, against the reference in float64: outputs, gradients and state.

Legend: B batch, H heads, L length, d head width, e value width, M features.
"""

import os
from dataclasses import dataclass
from itertools import pairwise

os.environ["TRITON_INTERPRET"] = "1"

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="triton is the optional extra `gpu`")

from protlm.performer.features import Trigonometric, named
from protlm.performer.kernels.causal_launch import causal, causal_backward
from protlm.performer.kernels.causal_step import causal_step
from protlm.performer.kernels.causal_tiling import Launch, Tiling
from protlm.performer.linear_attention import Inputs, Options, linear_attention
from protlm.performer.reference import favor_attention
from protlm.performer.segments import Packed

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

SMALL = Tiling(group=32, **dict.fromkeys(("states", "outputs", "queries", "keys"), Launch(chunk=16, features=16)))
"""Several groups, chunks and tiles of features for short sequences."""
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-2}


@dataclass
class Case:
    """One call; `lengths` are those of packed sequences, `growth` the factor by which keys grow with position.

    `offset` is added to queries and keys, so that maps with features of either sign have no denominator near 0.
    """

    kernel: str
    length: int = 50
    d: int = 16
    e: int = 16
    features: int = 32
    dtype: torch.dtype = torch.float32
    batch: int = 1
    heads: int = 1
    masked: bool = False
    lengths: tuple[int, ...] = ()
    size: float = 1.0
    growth: float = 1.0
    offset: float = 0.0
    sizes: Tiling | None = SMALL


@pytest.fixture(autouse=True)
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fills every new tensor with NaN, so that what a kernel does not write is seen."""
    empty, like = Tensor.new_empty, torch.empty_like

    def filled(x: Tensor) -> Tensor:
        return x.fill_(torch.nan) if x.is_floating_point() else x

    monkeypatch.setattr(Tensor, "new_empty", lambda *a, **k: filled(empty(*a, **k)))
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: filled(like(*a, **k)))


def reference(case: Case, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, directions: Tensor, bias) -> Tensor:
    """(B, H, L, e) float64: each sequence by itself, from its first real key on, 0 before it."""
    out = torch.zeros(*q.shape[:3], v.shape[-1], dtype=torch.float64)
    ends = np.cumsum((0, *case.lengths)).tolist() if case.lengths else [0, q.shape[2]]
    for i in range(len(q)):
        for start, stop in pairwise(ends):
            real = torch.arange(start, stop) if mask is None else start + mask[i, start:stop].nonzero()[:, 0]
            if len(real):
                here = slice(i, i + 1), slice(None), slice(int(real[0]), stop)
                own = None if mask is None else mask[i : i + 1, here[2]]
                arguments = (named(case.kernel), directions, bias, own, True)
                out[here] = favor_attention(q[here], k[here], v[here], *arguments)
    return out


def drawn(case: Case) -> tuple[list[Tensor], tuple]:
    """The gradient of the outputs and q, k and v; and the other arguments of a call."""
    torch.manual_seed(0)
    feature_map, scale = named(case.kernel), case.d**-0.25
    length = sum(case.lengths) or case.length
    widths = case.e, case.d, case.d, case.e
    grad, q, k, v = (torch.randn(case.batch, length, case.heads, width).transpose(1, 2) for width in widths)
    k = k * torch.linspace(1, case.growth, length)[:, None]
    q, k = (x * case.size + case.offset for x in (q, k))
    tensors = [x.to(case.dtype) for x in (grad, q, k, v)]
    moment = torch.eye(case.d, dtype=torch.float64)
    weight, bias = feature_map.affine(torch.randn(case.features, case.d, dtype=torch.float64), moment)
    mask = None
    if case.masked:
        mask = torch.rand(case.batch, length) < 0.7
        mask[0, :35] = False
        mask[1:2] = False
    # at 16 bits the slope of ReLU depends on the rounding of directions
    weight = ((weight * scale).to(torch.float32 if case.dtype == torch.float32 else torch.float16) / scale).float()
    bias = bias.float() if feature_map.adaptive else None
    return tensors, (mask, weight if feature_map.projected else None, bias, feature_map, scale)


def relative(x: Tensor, y: Tensor) -> float:
    return float((x.double() - y).norm() / y.norm().clamp(min=0.1))


def check(case: Case, tolerance: float = 0.0) -> None:
    (grad, *tensors), arguments = drawn(case)
    mask, weight, bias, *_ = arguments
    options = {"sizes": case.sizes}
    if case.lengths:
        ends = torch.tensor((0, *case.lengths)).cumsum(0).int()
        options["packed"] = Packed(ends, max(case.lengths))
    results = causal(*tensors, *arguments, **options)
    gradients = causal_backward(grad, results, *tensors, *arguments, **options)
    wide = [x.double().requires_grad_() for x in tensors]
    directions = torch.eye(case.d, dtype=torch.float64) if weight is None else weight.double()
    expected = reference(case, *wide, mask, directions, bias)
    expected.backward(grad.double())
    tolerance = tolerance or TOLERANCE[case.dtype]
    assert results.out.dtype == case.dtype
    assert case.heads == 1 or results.out.stride() == tensors[2].stride()
    assert relative(results.out, expected.detach()) < tolerance
    for name, x, y in zip("qkv", gradients, wide, strict=True):
        assert relative(x, y.grad) < tolerance, name


@pytest.mark.parametrize(
    "case",
    [
        Case("relu", heads=2),
        Case("relu", batch=2, masked=True, d=20, e=60, features=20),
        Case("relu", lengths=(0, 1, 33, 0, 32, 0)),
        Case("relu", length=1),
        Case("relu", length=63, dtype=torch.bfloat16, d=64, e=64, features=100, sizes=None),
        Case("relu", dtype=torch.float16, lengths=(0, 20, 33)),
        Case("relu", lengths=(0, 1, 64, 5), dtype=torch.bfloat16, d=64, e=64, features=100, sizes=None),
        Case("relu", length=40, masked=True, dtype=torch.bfloat16, d=64, e=64, features=100, sizes=None),
        Case("relu_unprojected", batch=2, masked=True, d=20),
        *(Case(name, length=40) for name in ("gelu", "sigmoid", "abs", "elu+1")),
        Case("softmax", heads=2),
        Case("softmax", batch=2, masked=True, d=20, e=60, features=20),
        Case("softmax", lengths=(0, 1, 33, 0, 32, 0)),
        Case("softmax", length=1),
        Case("softmax", length=63, dtype=torch.bfloat16, d=64, e=64, features=100, sizes=None),
        Case("softmax", dtype=torch.float16),
        Case("softmax", lengths=(40, 0, 33), masked=True),
        Case("softmax", lengths=(0, 1, 64, 5), dtype=torch.bfloat16, d=64, e=64, features=100, sizes=None),
        Case("softmax", length=140, masked=True, dtype=torch.bfloat16, d=64, e=64, features=100, sizes=None),
        *(Case(name, length=40, size=0.1, offset=1.0) for name in ("tanh", "cos", "identity")),
        *(Case(name, length=40) for name in ("hyperbolic", "regularised", "optimal", "sderf", "exp")),
    ],
    ids=lambda case: f"{case.kernel}-{case.dtype}-{case.lengths or case.length}{'-masked' if case.masked else ''}",
)
def test_outputs_and_gradients(case: Case) -> None:
    check(case)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", ["relu", "softmax"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("d", "features"), [(64, 256), (128, 100), (60, 32)])
def test_sizes_of_models(kernel: str, dtype: torch.dtype, d: int, features: int) -> None:
    length = 65 if dtype == torch.float32 else 257  # two groups of positions and one more
    check(Case(kernel, length=length, d=d, e=d, features=features, dtype=dtype, sizes=None))


@pytest.mark.parametrize(
    ("case", "tolerance"),
    [
        (Case("softmax", size=0.3, growth=60.0), 1e-5),
        (Case("softmax", size=18.0, growth=0.01), 1e-4),
        (Case("exp", size=0.3, growth=60.0), 1e-4),
        (Case("softmax", size=0.3, growth=60.0, dtype=torch.bfloat16), 2e-2),
        (Case("softmax", batch=2, size=0.3, growth=30.0, masked=True), 1e-4),
        (Case("softmax", size=0.3, growth=60.0, lengths=(40, 1)), 1e-4),
    ],
    ids=range(6),
)
def test_keys_that_outgrow_those_before(case: Case, tolerance: float) -> None:
    """Features of one group differ by more than float32 can hold."""
    check(case, tolerance)


@pytest.mark.parametrize("kernel", ["relu", "softmax", "exp", "optimal"])
def test_state_is_that_of_the_operator(kernel: str) -> None:
    (_, q, k, v), (_, weight, bias, feature_map, scale) = drawn(Case(kernel, batch=2, heads=2, length=40))
    results = causal(q, k, v, None, weight, bias, feature_map, scale, sizes=SMALL)
    from protlm.performer.features import encode_map

    out, shift, sums = linear_attention(
        Inputs(q, k, v, None, weight, bias), Options(encode_map(feature_map), scale, causal=True)
    )
    assert relative(results.out, out.double()) < 1e-5
    assert results.shift.shape == shift.shape
    assert results.sums.shape == sums.shape
    scaled = results.sums.double() * results.shift.double().exp2()
    assert relative(scaled, sums.double() * shift.double().exp2()) < 1e-5


def test_positions_are_independent_of_what_follows() -> None:
    """Bit for bit, also where later keys are very large."""
    (_, q, k, v), arguments = drawn(Case("softmax", length=64))
    whole = causal(q, k, v, *arguments, sizes=SMALL).out
    k[:, :, 33:] *= 30
    assert torch.equal(causal(q, k, v, *arguments, sizes=SMALL).out[:, :, :32], whole[:, :, :32])


def test_a_sequence_is_the_same_alone_and_packed() -> None:
    (_, q, k, v), arguments = drawn(Case("softmax", length=80))
    packed = Packed(torch.tensor([0, 37, 80], dtype=torch.int32), 43)
    together = causal(q, k, v, *arguments, packed=packed, sizes=SMALL)
    alone = causal(q[:, :, 37:], k[:, :, 37:], v[:, :, 37:], *arguments, sizes=SMALL)
    assert torch.equal(together.out[:, :, 37:], alone.out)
    assert torch.equal(together.sums[1:], alone.sums)


def test_unknown_map_is_refused() -> None:
    x = torch.zeros(1, 1, 4, 8)
    with pytest.raises(NotImplementedError, match="Trigonometric"):
        causal(x, x, x, None, torch.zeros(4, 8), None, Trigonometric(), 1.0)


@pytest.mark.parametrize("kernel", ["relu", "relu_unprojected", "softmax", "exp", "optimal"])
def test_steps_go_on_from_the_state(kernel: str) -> None:
    """Also from no state at all, and with keys that grow."""
    (_, q, k, v), (_, weight, bias, feature_map, scale) = drawn(
        Case(kernel, batch=2, heads=2, length=12, e=20, growth=8.0)
    )
    whole = causal(q, k, v, None, weight, bias, feature_map, scale, sizes=SMALL)
    for start in (0, 7):
        first = causal(*(x[:, :, :start] for x in (q, k, v)), None, weight, bias, feature_map, scale, sizes=SMALL)
        for t in range(start, 12):
            now = (x[:, :, t : t + 1] for x in (q, k, v))
            out = causal_step(*now, weight, bias, feature_map, scale, first.shift, first.sums)
            assert relative(out, whole.out[:, :, t : t + 1].double()) < 1e-5
        assert relative(first.sums, whole.sums.double()) < 1e-5
        assert relative(first.shift, whole.shift.double()) < 1e-5
