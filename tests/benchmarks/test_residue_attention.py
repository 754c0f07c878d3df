"""Attention between amino acids: sums, enrichment and controls."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.interpret.residue_attention import (
    AttentionSums,
    attention_sums,
    log_odds,
    off_diagonal,
    residue_attention,
    without_main_effects,
)
from protlm.errors import UserError
from protlm.interpret.attention_maps import attention_matrices
from protlm.performer import Performer
from protlm.sequence.alphabet import STANDARD


def proteins(number: int = 12, seed: int = 0) -> list[str]:
    """Proteins of several lengths and compositions; the first has all amino acids, the second unusual letters."""
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet(np.ones(20), number)
    drawn = ["".join(rng.choice(list(STANDARD), 10 + 4 * i, p=share)) for i, share in enumerate(shares)]
    return [STANDARD + drawn[0], "XUB" + drawn[1], *drawn[2:]]


def by_hand(model: Performer, sequences: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The same sums from whole matrices, one protein at a time."""
    paid, even = np.zeros((2, 2, 20, 20)), np.zeros((20, 20))
    for sequence in sequences:
        matrix = attention_matrices(model, sequence).astype(np.float64)
        length = matrix.shape[-1]
        alike = np.tril(np.ones((length, length))) if model.config.causal else np.ones((length, length))
        alike /= alike.sum(1, keepdims=True)
        one_hot = np.array([[letter == a for a in STANDARD] for letter in f"-{sequence}-"], dtype=np.float64)
        paid += one_hot.T @ matrix @ one_hot
        even += one_hot.T @ alike @ one_hot
    return paid, even


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("budget", [1, 200, 10_000])
def test_sums_are_those_of_whole_matrices(tiny_model, causal_model, causal: bool, budget: int) -> None:
    model = causal_model if causal else tiny_model
    sums = attention_sums(model, proteins(), token_budget=budget)
    paid, even = by_hand(model, proteins())
    np.testing.assert_allclose(sums.paid, paid, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(sums.even, even, rtol=1e-4, atol=1e-4)
    assert sums.counts.tolist() == ["".join(proteins()).count(letter) for letter in STANDARD]
    (last,) = attention_sums(model, proteins(), layers=[-1]).paid
    np.testing.assert_allclose(last, paid[1], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("causal", [False, True])
def test_uniform_attention_has_no_enrichment_at_any_frequencies(tiny_model, causal: bool) -> None:
    model = Performer(replace(tiny_model.config, attention="exact", causal=causal)).eval()
    with torch.no_grad():
        for block in model.blocks:
            block.attention.qkv.weight.zero_()
    sums = attention_sums(model, proteins())
    np.testing.assert_allclose(sums.enrichment(), 0, atol=1e-4)
    assert np.ptp(off_diagonal(log_odds(sums.even + 0.01))) > 0.5  # although residues co-occur


def test_pair_preferences_are_separated_from_residue_preferences() -> None:
    rng = np.random.default_rng(0)
    even = rng.uniform(1, 100, (20, 20))
    pairs = np.ones((20, 20))
    pairs[2, 3] = pairs[3, 2] = 1.5
    popular = rng.uniform(0, 1, 20)
    paid = even * (pairs + popular + rng.uniform(0, 1, 20)[:, None])
    found = AttentionSums(np.stack([paid, paid])[None], even, np.ones(20, dtype=np.int64)).enrichment()
    np.testing.assert_allclose(found, without_main_effects(pairs), atol=1e-12)
    assert found[2, 3] == pytest.approx(off_diagonal(found).max())


def test_main_effects_are_those_of_least_squares() -> None:
    matrix = np.random.default_rng(0).normal(size=(6, 6))
    matrix += matrix.T
    one, other = np.triu_indices(6, 1)
    design = np.zeros((15, 6))
    design[np.arange(15), one] = design[np.arange(15), other] = 1
    expected = matrix[one, other] - design @ np.linalg.lstsq(design, matrix[one, other], rcond=None)[0]
    np.testing.assert_allclose(off_diagonal(without_main_effects(matrix)), expected, atol=1e-12)


def test_head_correlation_is_that_of_attention_shares() -> None:
    paid = np.random.default_rng(0).uniform(1, 2, (3, 4, 20, 20))
    sums = AttentionSums(paid, np.ones((20, 20)), np.ones(20, dtype=np.int64))
    shares = paid.sum(2).reshape(12, 20) / paid.sum((2, 3)).reshape(12, 1)
    np.testing.assert_allclose(sums.head_correlation(), np.corrcoef(shares.T))
    assert np.isnan(replace(sums, paid=paid[:1, :2]).head_correlation()).all()
    assert np.isnan(replace(sums, paid=np.ones_like(paid)).head_correlation()).all()


def test_missing_residues_are_named(tiny_model) -> None:
    assert residue_attention(tiny_model, proteins(60)).shape == (20, 20)
    with pytest.raises(UserError, match="too few proteins: W, Y missing"):
        residue_attention(tiny_model, [STANDARD[:-2] * 2])
    with pytest.raises(UserError, match="a pair of residues missing"):
        residue_attention(tiny_model, [STANDARD[:10], STANDARD[10:]])


def test_log_odds_of_independent_residues_are_zero() -> None:
    p = np.random.default_rng(0).dirichlet(np.ones(20))
    np.testing.assert_allclose(log_odds(7 * np.outer(p, p)), 0, atol=1e-12)
