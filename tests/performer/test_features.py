"""Each map against its formula in the literature, and the kernels they estimate."""

import math
from functools import lru_cache

import pytest
import torch
from torch import Tensor

from protlm.performer import FavorAttention
from protlm.performer.features import (
    FEATURE_MAPS,
    FeatureMap,
    optimal_coefficient,
)
from protlm.performer.projection import DIRECTIONS, draw_directions
from protlm.performer.reference import phi

EVERY = pytest.mark.parametrize("name", FEATURE_MAPS)
UNBIASED = ["softmax", "hyperbolic", "trig", "optimal", "sderf"]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def moment_of(x: Tensor, y: Tensor) -> Tensor:
    """The mean of (x + y)(x + y)' over the rows."""
    return (x + y).T @ (x + y) / len(x)


def a_of(f: float) -> float:
    """As printed in Likhosherstov et al. 2022."""
    return (1 - 2 * f - math.sqrt((2 * f + 1) ** 2 + 8 * f)) / 16


def textbook(name: str, x: Tensor, w: Tensor, moment: Tensor) -> Tensor:
    """phi(x) (T, M) for one name, written from the table of FAVOR+ maps without looking at the implementation."""
    product, half, dim = x @ w.T, x.square().sum(1, keepdim=True) / 2, x.shape[1]
    if name in ("softmax", "regularised"):
        return torch.exp(product - half)
    if name == "hyperbolic":
        return torch.cat((torch.exp(product - half), torch.exp(-product - half)), 1)
    if name == "trig":
        return torch.exp(half) * torch.cat((torch.cos(product), torch.sin(product)), 1)
    if name == "optimal":
        a = a_of(moment.trace().item() / dim)
        constant = dim / 4 * math.log(1 - 4 * a)
        return torch.exp(a * w.square().sum(1) + math.sqrt(1 - 4 * a) * product - half + constant)
    if name == "sderf":
        values, axes = torch.linalg.eigh(moment)
        a = torch.tensor([a_of(value) for value in values.tolist()], dtype=torch.float64)
        turned = x @ axes @ torch.diag((1 - 4 * a).sqrt())
        return torch.exp(w.square() @ a + turned @ w.T - half + (1 - 4 * a).log().sum() / 4)
    functions = {
        "exp": lambda p: math.e**p,
        "relu": lambda p: (p + p.abs()) / 2,
        "gelu": lambda p: p * torch.distributions.Normal(0.0, 1.0).cdf(p),
        "sigmoid": lambda p: 1 / (1 + torch.exp(-p)),
        "tanh": lambda p: (torch.exp(p) - torch.exp(-p)) / (torch.exp(p) + torch.exp(-p)),
        "abs": lambda p: torch.where(p > 0, p, -p),
        "elu+1": lambda p: torch.where(p > 0, p + 1, torch.exp(p)),
        "cos": torch.cos,
        "identity": lambda p: p,
    }
    p = x if name == "relu_unprojected" else product
    return functions[name.removesuffix("_unprojected")](p) + 1e-3


def values(feature_map: FeatureMap, x: Tensor, w: Tensor, moment: Tensor) -> Tensor:
    """phi(x), with all its factors."""
    features, factor = phi(x, feature_map, *feature_map.affine(w, moment))
    return (features + factor).exp() if feature_map.log else features * factor.exp()


@EVERY
def test_equals_its_formula(name: str) -> None:
    x, w = normal(9, 6), normal(11, 6, seed=1)
    moment = moment_of(normal(30, 6, seed=2), normal(30, 6, seed=3) * torch.arange(6))
    torch.testing.assert_close(
        values(FEATURE_MAPS[name], x, w, moment), textbook(name, x, w, moment), rtol=1e-12, atol=1e-14
    )


@EVERY
def test_class_attributes_describe_the_map_correctly(name: str) -> None:
    chosen, p = FEATURE_MAPS[name], normal(50, 7) * 3
    if chosen.linear:
        assert torch.equal(chosen.features(p), p)
    else:
        before = p.clone()
        assert chosen.features(p) is not p
        assert torch.equal(p, before)
    assert chosen.projected == (name != "relu_unprojected")


@EVERY
def test_backward_equals_autograd(name: str) -> None:
    p = torch.cat((normal(20, 8) * 3, torch.tensor([0.0, -0.0, 30, -30, 1e3, -1e3, 1e9, -1e9])[None].double()))
    p.requires_grad_()
    features = FEATURE_MAPS[name].features(p)
    upstream = normal(*features.shape, seed=1)
    (true,) = torch.autograd.grad(features, p, upstream)
    mine = FEATURE_MAPS[name].features_backward(p.detach(), upstream.clone())
    torch.testing.assert_close(mine, true, rtol=1e-12, atol=1e-12)


def test_the_optimal_coefficient_equals_the_closed_form_and_is_accurate_near_0() -> None:
    for f in (0.1, 1.0, 7.0, 1e4):
        assert optimal_coefficient(torch.tensor(f, dtype=torch.float64)).item() == pytest.approx(a_of(f), rel=1e-9)
    tiny = optimal_coefficient(torch.tensor(1e-12, dtype=torch.float64)).item()
    assert tiny == pytest.approx(-0.5e-12, rel=1e-6)  # the series of the closed form
    assert optimal_coefficient(torch.tensor(0.0)) == 0


@pytest.mark.parametrize("name", ["optimal", "sderf"])
def test_adaptive_maps_equal_softmax_before_they_adapt(name: str) -> None:
    x, w = normal(9, 6), normal(11, 6, seed=1)
    torch.testing.assert_close(
        values(FEATURE_MAPS[name], x, w, torch.zeros(6, 6).double()), textbook("softmax", x, w, w)
    )


# what they estimate


@lru_cache
def draws(kind: str, norms: str, num_features: int, dim: int, count: int) -> Tensor:
    """(count, M, d)."""
    return torch.stack([draw_directions(kind, norms, num_features, dim, (5, draw)) for draw in range(count)])


def estimates(name: str, w: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """phi(x).phi(y) / M of every draw, for pairs of rows: (draws, pairs)."""
    chosen = FEATURE_MAPS[name]
    moment = moment_of(x, y)
    products = values(chosen, x, w.flatten(0, 1), moment) * values(chosen, y, w.flatten(0, 1), moment)
    sums = products.unflatten(1, (-1, *w.shape[:2])).sum((1, 3))
    return sums.T / (w.shape[1] * (2 if name == "hyperbolic" else 1))


def errors(estimate: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Deviation of each pair from its kernel in standard errors; for constant pairs the error is that of rounding."""
    return (estimate.mean(0) - (x * y).sum(1).exp()) / (estimate.std(0) / math.sqrt(len(estimate))).clamp(min=1e-13)


@pytest.mark.parametrize("kind", DIRECTIONS)
@pytest.mark.parametrize("name", UNBIASED)
def test_estimates_of_the_softmax_kernel_are_unbiased(name: str, kind: str) -> None:
    """The mean over many draws is exp(x.y), within 4 standard errors, for pairs at random and along each axis."""
    axes = torch.eye(6, dtype=torch.float64)
    x = torch.cat((normal(8, 6) * 0.4, axes * 0.5, -axes * 0.5))
    y = torch.cat((normal(8, 6, seed=1) * 0.4, axes * 0.5, axes * 0.5))
    assert errors(estimates(name, draws(kind, "chi", 10, 6, 3000), x, y), x, y).abs().max() < 4


def test_regularised_estimates_are_below_the_kernel_as_in_the_theorem() -> None:
    x = normal(8, 6)
    estimate = estimates("regularised", draws("orthogonal", "constant", 10, 6, 3000), x, x)
    assert errors(estimate, x, x).max() < -4


@pytest.mark.parametrize("norms", ["chi", "constant"])
def test_smreg_directions_have_norm_sqrt_of_the_width(norms: str) -> None:
    """For any requested norms; public code scales rows that do not have norm 1 by sqrt(d), or leaves norm 1."""
    attention = FavorAttention(12, 30, "regularised", norms=norms)
    torch.testing.assert_close(attention.directions.norm(dim=1), torch.full((30,), math.sqrt(12)))


def variance(name: str, w: Tensor, x: Tensor, y: Tensor) -> float:
    """Of the estimates relative to the kernel: the mean of its logarithm over the pairs."""
    ratio = estimates(name, w, x, y) / (x * y).sum(1).exp()
    return (ratio - 1).square().mean(0).log().mean().item()


def test_variance_order_of_the_paper() -> None:
    """d = 16: orthogonal below iid; positive below trig where similarity is low; adapted maps below positive."""
    x, y = normal(40, 16) / 2, normal(40, 16, seed=1) / 2
    w, independent = (draws(kind, "chi", 16, 16, 1500) for kind in ("orthogonal", "iid"))
    for name in ("softmax", "hyperbolic", "trig"):
        assert variance(name, w, x, y) < variance(name, independent, x, y)
    assert variance("softmax", w, x, -x) < variance("trig", w, x, -x) - 2
    assert variance("hyperbolic", w, x, y) < variance("softmax", w, x, y)
    assert variance("optimal", w, x, y) < variance("softmax", w, x, y)
    stretch = torch.linspace(0.1, 1.7, 16).double()
    adapted, uniform, plain = (variance(name, w, x * stretch, y * stretch) for name in ("sderf", "optimal", "softmax"))
    assert adapted < uniform < plain
