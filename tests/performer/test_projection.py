import math
from functools import lru_cache

import pytest
import torch

from protlm.performer.projection import DIRECTIONS, NORMS, draw_directions

KINDS = pytest.mark.parametrize("kind", DIRECTIONS)


@lru_cache
def many(kind: str, num_features: int, head_dim: int, draws: int) -> torch.Tensor:
    return torch.stack([draw_directions(kind, "chi", num_features, head_dim, (7, 0, draw)) for draw in range(draws)])


def unit(rows: torch.Tensor) -> torch.Tensor:
    return rows / rows.norm(dim=-1, keepdim=True)


@KINDS
@pytest.mark.parametrize("num_features", [8, 20])
def test_rows_with_chi_norms_are_marginally_standard_gaussian(kind: str, num_features: int) -> None:
    """Mean 0, variance 1 and kurtosis 3 in every coordinate of every row, within 4.5 standard errors."""
    draws = 3000
    rows = many(kind, num_features, 8, draws)
    assert rows.mean(0).abs().max() < 4.5 / math.sqrt(draws)
    assert (rows.square().mean(0) - 1).abs().max() < 4.5 * math.sqrt(2 / draws)
    assert (rows.pow(4).mean(0) - 3).abs().max() < 4.5 * math.sqrt(96 / draws)


@KINDS
def test_constant_norms_equal_sqrt_of_the_width(kind: str) -> None:
    rows = draw_directions(kind, "constant", 20, 8, (0,))
    torch.testing.assert_close(rows.norm(dim=1), torch.full((20,), math.sqrt(8), dtype=torch.float64))


@KINDS
def test_norms_do_not_change_the_directions(kind: str) -> None:
    chi, constant = (unit(draw_directions(kind, norms, 20, 8, (3,))) for norms in NORMS)
    torch.testing.assert_close(chi, constant)


@pytest.mark.parametrize(("kind", "product"), [("orthogonal", 0.0), ("simplex", -1 / 7)])
def test_rows_of_a_block_have_equal_inner_products(kind: str, product: float) -> None:
    rows = unit(draw_directions(kind, "chi", 20, 8, (0, 0, 0)))
    for block in (rows[:8], rows[8:16], rows[16:]):
        expected = torch.full((len(block), len(block)), product, dtype=torch.float64).fill_diagonal_(1.0)
        torch.testing.assert_close(block @ block.T, expected, atol=1e-12, rtol=0)


@KINDS
def test_no_duplicate_blocks_when_there_are_more_features_than_dimensions(kind: str) -> None:
    """A repeated block, as some public code has it, adds cost and no information: rows with a cosine of 1."""
    rows = unit(draw_directions(kind, "chi", 40, 8, (0, 0, 0)))
    cosines = (rows @ rows.T).fill_diagonal_(0.0)
    assert cosines.abs().max() < 0.9999
    blocks = rows.unflatten(0, (5, 8))
    for i in range(5):
        for j in range(i):
            assert (blocks[i] - blocks[j]).norm() > 1


@KINDS
@pytest.mark.parametrize("norms", NORMS)
def test_one_dimension_works(kind: str, norms: str) -> None:
    rows = draw_directions(kind, norms, 5, 1, (0,))
    assert rows.shape == (5, 1)
    assert rows.isfinite().all()
    assert rows.abs().min() > 0


@pytest.mark.parametrize("corrected", [True, False])
def test_estimates_are_unbiased_in_every_coordinate_only_with_the_sign_correction(corrected: bool) -> None:
    """E exp(w.z - |z|^2 / 2) = 1 for z along each axis; QR without the signs of diag R fails this: biased QR."""
    generator = torch.Generator().manual_seed(0)
    dim, draws = 8, 6000
    gaussian = torch.randn(draws, dim, dim, generator=generator, dtype=torch.float64)
    q, _ = torch.linalg.qr(gaussian)
    if corrected:
        rows = many("orthogonal", dim, dim, draws)
    else:
        rows = q.transpose(1, 2) * torch.randn(draws, dim, dim, generator=generator, dtype=torch.float64).norm(
            dim=2, keepdim=True
        )
    estimates = (rows - 0.5).exp().mean(1)  # (draws, axis): features averaged, z the unit vector of each axis
    error = (estimates.mean(0) - 1) / (estimates.std(0) / math.sqrt(draws))
    assert (error.abs().max() < 4) == corrected


@KINDS
def test_directions_depend_on_the_key_only(kind: str) -> None:
    before = torch.get_rng_state()
    first = draw_directions(kind, "chi", 8, 4, (1, 2, 3))
    assert first.dtype == torch.float64
    assert first.shape == (8, 4)
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        assert torch.equal(first, draw_directions(kind, "chi", 8, 4, (1, 2, 3)))
    for other in ((0, 2, 3), (1, 0, 3), (1, 2, 0), (1, 3, 2)):
        assert not torch.equal(first, draw_directions(kind, "chi", 8, 4, other))


def test_unknown_names_are_reported() -> None:
    with pytest.raises(ValueError, match="directions 'sobol'.*orthogonal"):
        draw_directions("sobol", "chi", 8, 4, (0,))
    with pytest.raises(ValueError, match="norms 'gamma'.*constant"):
        draw_directions("iid", "gamma", 8, 4, (0,))
