"""Couplings between sites, fitted by pseudo-likelihood in the dual form."""

import random

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax

from protlm.homology import couplings
from protlm.homology.alignment import GAP, Alignment
from protlm.homology.couplings import Couplings
from protlm.homology.profile import covering, log_frequencies
from protlm.homology.weights import sequence_weights
from protlm.sequence.alphabet import STANDARD


def family(rows: list[str]) -> Alignment:
    return Alignment(rows[0], [str(number) for number in range(len(rows))], rows)


@pytest.fixture(scope="module")
def paired() -> Alignment:
    """Sites 3 and 11 have opposite charges, one way or the other; all others vary independently."""
    generator = random.Random(0)
    query = "MSTKVAGIQNLESFYH"
    rows = [query]
    for _ in range(150):
        row = [letter if generator.random() < 0.4 else generator.choice(STANDARD) for letter in query]
        row[3], row[11] = generator.choice(["KE", "EK"])
        rows.append("".join(row))
    return family(rows)


def fitted_by_features(alignment: Alignment) -> np.ndarray:
    """The field (L, 20) of the query by regressions on features, one site after the other, with a general optimiser."""
    codes = alignment.codes[covering(alignment.codes)]
    weights = sequence_weights(codes)
    count = len(codes)
    one_hot = (codes[..., None] == np.arange(GAP)).astype(float)
    known = one_hot.any(2)
    frequencies = np.tensordot(weights, one_hot, 1) / (weights @ known)[:, None]
    features = (one_hot - frequencies) * known[..., None]
    fields = []
    log_profile = log_frequencies(codes, weights)
    weights[0] = 0
    for site, profile in enumerate(log_profile):
        present = weights * known[:, site]
        penalty = couplings.REGULARISATION * (present @ known.sum(1)) / present.sum()
        others = np.delete(features, site, axis=1).reshape(count, -1)

        def loss(
            flat: np.ndarray, site: int = site, profile=profile, others=others, penalty=penalty
        ) -> tuple[float, np.ndarray]:
            parameters = flat.reshape(-1, GAP)
            log_p = log_softmax(profile + others @ parameters, axis=1)
            excess = (np.exp(log_p) - one_hot[:, site]) * (weights * known[:, site])[:, None]
            value = penalty / 2 * (flat**2).sum() - (weights[:, None] * one_hot[:, site] * log_p).sum()
            return value, (others.T @ excess + penalty * parameters).ravel()

        best = minimize(loss, np.zeros(others.shape[1] * GAP), jac=True, method="L-BFGS-B", options={"gtol": 1e-7})
        fields.append(others[0] @ best.x.reshape(-1, GAP))
    return np.array(fields)


def test_the_dual_equals_regressions_on_features(paired: Alignment, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row[:5] + "-" * (number % 3) + row[5 + number % 3 :] for number, row in enumerate(paired.rows[:30])]
    small = family([row[:12] for row in rows])
    monkeypatch.setattr(couplings, "TOLERANCE", 1e-6)
    monkeypatch.setattr(couplings, "_SITES", 5)
    expected = fitted_by_features(small)
    assert np.abs(expected).max() > 0.05
    np.testing.assert_allclose(Couplings(small).field, expected, atol=1e-4)


def test_the_default_tolerance_suffices(paired: Alignment, monkeypatch: pytest.MonkeyPatch) -> None:
    field = Couplings(paired).field
    monkeypatch.setattr(couplings, "TOLERANCE", 1e-6)
    np.testing.assert_allclose(field, Couplings(paired).field, atol=2e-3)


def test_one_sequence_has_no_field() -> None:
    alone = Couplings(family(["MKXTAYI"]))
    assert (alone.field == 0).all()
    pair = np.array([0, 0])
    assert alone.interactions(pair, np.array([0, 1]), np.array([3, 4]), np.ones(7)).tolist() == [0]


def test_a_residue_that_its_partner_asks_for_is_preferred(paired: Alignment) -> None:
    field = Couplings(paired).field
    site, k, e = 3, STANDARD.index("K"), STANDARD.index("E")
    assert field[site, k] - field[site, e] > 0.5
    strongest = np.argsort(np.ptp(field, axis=1))[-2:]
    assert sorted(strongest) == [3, 11]


def test_a_compensated_double_mutant_is_preferred(paired: Alignment) -> None:
    fitted = Couplings(paired)
    k, e, a = (STANDARD.index(letter) for letter in "KEA")
    variant, position = np.array([0, 1, 1, 2, 2, 3, 3]), np.array([3, 3, 11, 3, 5, 11, 3])
    mutant = np.array([e, e, k, e, a, k, a])
    single, compensated, elsewhere, half = fitted.interactions(variant, position, mutant, np.ones(16))
    assert single == 0
    assert compensated > 10 * abs(elsewhere)
    assert compensated > half
    loss = fitted.field[3, e] - fitted.field[3, k] + fitted.field[11, k] - fitted.field[11, e]
    # with both exchanged, each prefers the other as much as before
    assert loss + compensated == pytest.approx(0, abs=0.3 * abs(loss))


def test_interactions_are_the_mean_change_of_fields_over_orders(paired: Alignment) -> None:
    """Computed from the field of the mutated sequence, of which `field` is the special case of the query."""
    fitted = Couplings(paired)
    generator = np.random.default_rng(0)
    factors = generator.random(16)
    position, mutant = np.array([2, 7, 9]), np.array([4, 0, 15])
    query = np.array([STANDARD.index(letter) for letter in paired.query])

    def field_of(residues: np.ndarray) -> np.ndarray:
        one_hot = np.zeros((16, GAP))
        one_hot[np.arange(16), residues] = 1
        own = one_hot - np.eye(GAP)[query] + fitted._features[0]
        by_site = np.einsum("sjb,jb->sj", fitted._features, own)
        without = by_site.sum(1, keepdims=True) - by_site
        return np.einsum("si,sia->ia", without, fitted._combinations)

    np.testing.assert_allclose(field_of(query), fitted.field, atol=1e-4)
    expected = 0.0
    for first in range(3):
        changed = query.copy()
        changed[position[first]] = mutant[first]
        change = field_of(changed) - field_of(query)
        for second in range(3):
            j, b = position[second], mutant[second]
            expected += factors[j] * (change[j, b] - change[j, query[j]]) / 2
    order = np.array([1, 1, 1])
    assert fitted.interactions(order, position, mutant, factors) == pytest.approx([0, expected], abs=1e-4)


def test_other_domains_of_a_long_protein_change_nothing(paired: Alignment) -> None:
    """Homologs of one domain know nothing of the other, and the other knows nothing of them."""
    field = Couplings(paired).field
    alone = Couplings(family([*paired.rows, *["-" * 16] * 3])).field
    np.testing.assert_allclose(alone, field, atol=1e-3)
    rng = random.Random(3)
    rows = ["".join(rng.choices(STANDARD, k=16)) for _ in range(40)]
    both = [
        paired.rows[0] + rows[0],
        *(row + "-" * 16 for row in paired.rows[1:]),
        *("-" * 16 + row for row in rows[1:]),
    ]
    np.testing.assert_allclose(Couplings(family(both)).field[:16], field, atol=0.02)


def test_large_families_are_thinned_to_the_most_distinct(paired: Alignment, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [*paired.rows[:50], *[paired.rows[1]] * 30]
    monkeypatch.setattr(couplings, "MOST", 49)
    few = Couplings(family(rows))
    assert few._features.shape[0] == 49
    monkeypatch.setattr(couplings, "WORK", 100 * 16)
    assert Couplings(family(rows))._features.shape[0] == 10


def test_norms_are_those_of_the_couplings_in_both_directions(
    paired: Alignment, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted = Couplings(paired)
    couplings_of = np.einsum("sjb,sia->iajb", fitted._features, fitted._combinations).astype(float)
    mean = (couplings_of + couplings_of.transpose(2, 3, 0, 1)) / 2
    mean -= mean.mean(1, keepdims=True)
    mean -= mean.mean(3, keepdims=True)
    expected = np.sqrt(np.square(mean).sum((1, 3)))
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(fitted.norms(), expected, atol=1e-5 * expected.max())
    monkeypatch.setattr(couplings, "_SITES", 5)
    np.testing.assert_allclose(fitted.norms(), expected, atol=1e-5 * expected.max())


def test_the_strongest_norm_is_that_of_the_coupled_sites(paired: Alignment) -> None:
    norms = Couplings(paired).norms()
    assert np.unravel_index(norms.argmax(), norms.shape) == (3, 11)
    assert norms[3, 11] > 2 * np.median(norms[np.triu_indices(16, 1)])
    assert not Couplings(family(["MKXTAYI"])).norms().any()
