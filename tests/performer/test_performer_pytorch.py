"""performer-pytorch 1.1.4 as an oracle where it is correct, and its errors where it is not."""

import warnings

import pytest
import torch
from torch import Tensor

from protlm.performer import FavorAttention
from protlm.performer.features import FEATURE_MAPS
from protlm.performer.reference import favor_attention, phi

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # distutils, torch.cuda.amp
    theirs = pytest.importorskip("performer_pytorch.performer_pytorch")

BOTH = pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])


def inputs(*shape: int) -> list[Tensor]:
    """float64, with gradients."""
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return [part.requires_grad_() for part in x.unbind()]


def product(causal: bool, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Its two ways to multiply features; the causal one adds its eps to the sums of keys, here none."""
    return theirs.causal_linear_attention_noncuda(q, k, v, eps=0.0) if causal else theirs.linear_attention(q, k, v)


def assert_equal(ours: Tensor, other: Tensor, tensors: list[Tensor]) -> None:
    """In outputs and gradients."""
    torch.testing.assert_close(ours, other, rtol=1e-10, atol=1e-12)
    upstream = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for mine, true in zip(
        torch.autograd.grad(ours, tensors, upstream), torch.autograd.grad(other, tensors, upstream), strict=True
    ):
        torch.testing.assert_close(mine, true, rtol=1e-9, atol=1e-11)


def fast_attention(attention: FavorAttention, **options) -> torch.nn.Module:
    """Its module, with our directions."""
    module = theirs.FastAttention(attention.head_dim, len(attention.directions), causal=attention.causal, **options)
    module.projection_matrix.copy_(attention.directions)
    return module


@BOTH
@pytest.mark.parametrize("function", ["relu", "sigmoid", "gelu"])
def test_its_generalised_attention_equals_ours(function: str, causal: bool) -> None:
    tensors = inputs(2, 3, 150, 16)
    attention = FavorAttention(16, 40, function, causal=causal)
    kernel = {"relu": torch.nn.ReLU(), "sigmoid": torch.nn.Sigmoid(), "gelu": torch.nn.GELU()}[function]
    module = fast_attention(attention, generalized_attention=True, kernel_fn=kernel)
    if causal:
        module.causal_linear_fn = lambda q, k, v: product(True, q, k, v)
    assert_equal(attention(*tensors), module(*tensors), tensors)


def test_its_eps_of_the_causal_sums_is_the_only_difference() -> None:
    tensors = inputs(1, 2, 150, 16)
    attention = FavorAttention(16, 40, "relu", causal=True)
    off = fast_attention(attention, generalized_attention=True)(*tensors) - attention(*tensors)
    assert 1e-9 < off.abs().max() < 1e-4


@BOTH
def test_its_unprojected_relu_equals_ours(causal: bool) -> None:
    tensors = inputs(2, 3, 150, 16)
    q, k = (theirs.generalized_kernel(x, projection_matrix=None) for x in tensors[:2])
    attention = FavorAttention(16, kernel="relu_unprojected", causal=causal)
    assert_equal(attention(*tensors), product(causal, q, k, tensors[2]), tensors)


@BOTH
@pytest.mark.parametrize("kernel", ["softmax", "regularised"])
def test_its_softmax_features_without_eps_equal_ours(kernel: str, causal: bool) -> None:
    tensors = inputs(2, 3, 150, 16)
    attention = FavorAttention(16, 40, kernel, causal=causal)
    q, k = (
        theirs.softmax_kernel(x, projection_matrix=attention.directions, is_query=is_query, eps=0.0)
        for x, is_query in ((tensors[0], True), (attention.centred(*tensors[:2]), False))
    )
    assert_equal(attention(*tensors), product(causal, q, k, tensors[2]), tensors)


def test_its_scaling_of_smreg_equals_ours() -> None:
    rows = theirs.gaussian_orthogonal_random_matrix(20, 8, scaling=1)
    torch.testing.assert_close(rows.norm(dim=1), FavorAttention(8, 20, "regularised").directions.norm(dim=1))


@BOTH
def test_its_epsilon_changes_the_estimator_and_ours_has_none(causal: bool) -> None:
    """Unit Gaussian q and k, d = 64, M = 256: an epsilon in every feature drowns most of them."""
    q, k, v = (x.detach() for x in inputs(1, 2, 150, 64))
    attention = FavorAttention(64, 256, causal=causal)
    centred = q, attention.centred(q, k), v
    true = favor_attention(*centred, FEATURE_MAPS["softmax"], attention.directions, causal=causal)

    def error(result: Tensor) -> float:
        return ((result - true).norm() / true.norm()).item()

    assert error(attention(q, k, v)) < 1e-12
    assert error(fast_attention(attention)(*(x.float() for x in centred))) > 0.3


def test_its_padding_stays_in_the_denominator() -> None:
    """Its SelfAttention only sets v to 0 where a key is padding: weights sum to less than 1."""
    q, k, _ = (x.detach() for x in inputs(1, 2, 40, 16))
    mask = torch.arange(40)[None] < 20
    attention = FavorAttention(16, 40, "relu")
    module = fast_attention(attention, generalized_attention=True)
    ones = torch.ones_like(q)
    torch.testing.assert_close(attention(q, k, ones, mask), ones)
    assert module(q, k, ones * mask[:, None, :, None]).max() < 0.9


def test_its_directions_are_biased_and_ours_are_not() -> None:
    """E exp(w.z - |z|^2 / 2) = 1 along each axis; its QR lacks the signs of the diagonal of R."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        biased = torch.stack([theirs.gaussian_orthogonal_random_matrix(8, 8) for _ in range(3000)]).double()
    for rows, right in ((biased, False), (_ours(3000), True)):
        estimates = phi(torch.eye(8).double(), FEATURE_MAPS["softmax"], rows.flatten(0, 1))
        means = (estimates[0] + estimates[1]).exp().unflatten(1, (3000, 8)).mean(2)
        error = (means.mean(1) - 1) / (means.std(1) / 3000**0.5)
        assert (error.abs().max() < 4) == right


def _ours(draws: int) -> Tensor:
    attention = FavorAttention(8, 8)
    rows = []
    for draw in range(draws):
        attention.redraw(draw)
        rows.append(attention.directions.double())
    return torch.stack(rows)
