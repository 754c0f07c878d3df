import math

import pytest
import torch

from protlm.performer.projection import draw_directions


def many(kind: str, num_features: int, head_dim: int, draws: int) -> torch.Tensor:
    return torch.stack([draw_directions(kind, num_features, head_dim, (7, 0, draw)).double() for draw in range(draws)])


@pytest.mark.parametrize("kind", ["iid", "orthogonal"])
@pytest.mark.parametrize("num_features", [8, 20])
def test_rows_are_marginally_standard_gaussian(kind: str, num_features: int) -> None:
    """Mean 0, variance 1 and kurtosis 3 in every coordinate of every row, within 4.5 standard errors."""
    draws = 4000
    rows = many(kind, num_features, 8, draws)
    assert rows.mean(0).abs().max() < 4.5 / math.sqrt(draws)
    assert (rows.square().mean(0) - 1).abs().max() < 4.5 * math.sqrt(2 / draws)
    assert (rows.pow(4).mean(0) - 3).abs().max() < 4.5 * math.sqrt(96 / draws)


def test_blocks_are_orthogonal_and_differ() -> None:
    rows = draw_directions("orthogonal", 20, 8, (0, 0, 0)).double()
    unit = rows / rows.norm(dim=1, keepdim=True)
    for block in (unit[:8], unit[8:16], unit[16:]):
        torch.testing.assert_close(block @ block.T, torch.eye(len(block), dtype=torch.float64), atol=1e-6, rtol=0)
    assert (unit[:8] @ unit[8:16].T).abs().max() < 0.999  # a repeated block would have entries of 1


@pytest.mark.parametrize("corrected", [True, False])
def test_estimates_are_unbiased_in_every_coordinate_only_with_the_sign_correction(corrected: bool) -> None:
    """E exp(w.z - |z|^2 / 2) = 1 for z along each axis; QR without the signs of diag R fails this."""
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


def test_directions_depend_on_the_key_only() -> None:
    before = torch.get_rng_state()
    first = draw_directions("orthogonal", 8, 4, (1, 2, 3))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(5)
    assert torch.equal(first, draw_directions("orthogonal", 8, 4, (1, 2, 3)))
    for other in ((0, 2, 3), (1, 0, 3), (1, 2, 0), (1, 3, 2)):
        assert not torch.equal(first, draw_directions("orthogonal", 8, 4, other))


def test_unknown_directions_are_named() -> None:
    with pytest.raises(ValueError, match="simplex.*orthogonal"):
        draw_directions("simplex", 8, 4, (0,))
