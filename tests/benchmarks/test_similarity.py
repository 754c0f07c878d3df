"""Similarities of amino acids by embeddings and predictions, and their agreement with BLOSUM62."""

import math

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr

from benchmarks.interpret.residue_attention import off_diagonal
from benchmarks.interpret.similarity import (
    agreement,
    contextual_embedding,
    cosine_similarity,
    predicted,
    prediction_similarity,
    residue_embedding,
)
from protlm.embedding.in_memory import embed
from protlm.errors import UserError
from protlm.homology.blosum62 import blosum62_matrix
from protlm.inference.probabilities import of_letters
from protlm.sequence.alphabet import INDEX, MASK, STANDARD
from tests.inference.toys import random_table, table_model

PROTEINS = [STANDARD, "MKTAYIAKQRQISFVKSHFSRQ", STANDARD[::-1] * 3, "WX"]


def symmetric(seed: int) -> np.ndarray:
    matrix = np.random.default_rng(seed).normal(size=(20, 20))
    return matrix + matrix.T


def test_agreement_is_correlation_off_the_diagonal() -> None:
    similarity = blosum62_matrix() + 3 * symmetric(0)
    changed = similarity + np.diag(np.full(20, 1e6))
    x, y = off_diagonal(similarity), off_diagonal(blosum62_matrix())
    for found in (agreement(similarity, permutations=500), agreement(changed, permutations=500)):
        assert found.pearson == pytest.approx(pearsonr(x, y)[0])
        assert found.spearman == pytest.approx(spearmanr(x, y)[0])
        assert found.p_pearson == pytest.approx(1 / 501)
        assert found == agreement(similarity, permutations=500)


def test_p_values_count_relabelled_amino_acids() -> None:
    """Checked by hand for one similarity; and small p-values are as rare among random ones as they should be."""
    similarity, reference = symmetric(3), blosum62_matrix()
    rng = np.random.default_rng(0)
    labels = [rng.permutation(20) for _ in range(200)]
    values = [pearsonr(off_diagonal(similarity[np.ix_(o, o)]), off_diagonal(reference))[0] for o in labels]
    found = agreement(similarity, permutations=200)
    assert found.p_pearson == pytest.approx((1 + sum(value >= found.pearson for value in values)) / 201)
    p = [agreement(symmetric(seed), permutations=99) for seed in range(200)]
    assert 0.05 < np.mean([one.p_pearson <= 0.1 for one in p]) < 0.16
    assert 0.05 < np.mean([one.p_spearman <= 0.1 for one in p]) < 0.16


def test_a_constant_similarity_has_no_agreement() -> None:
    for matrix in (np.ones((20, 20)), np.full((20, 20), np.nan), np.eye(20)):
        assert all(math.isnan(value) for value in agreement(matrix))


def test_cosines_ignore_the_mean() -> None:
    vectors = np.random.default_rng(0).normal(size=(20, 8))
    found = cosine_similarity(vectors)
    np.testing.assert_allclose(found, cosine_similarity(3 * vectors + 100), atol=1e-9)
    np.testing.assert_allclose(found.diagonal(), 1)


def test_embeddings_are_those_of_each_residue(tiny_model) -> None:
    weight = tiny_model.embedding.weight.detach().double().numpy()
    np.testing.assert_array_equal(residue_embedding(tiny_model)[3], weight[INDEX[STANDARD[3]]])
    each = np.concatenate(list(embed(tiny_model, PROTEINS)))
    letters = np.array(list("".join(PROTEINS)))
    expected = [each[letters == letter].mean(0) for letter in STANDARD]
    for budget in (1, 1_000):
        np.testing.assert_allclose(contextual_embedding(tiny_model, PROTEINS, budget), expected, atol=1e-5)


def test_a_bidirectional_model_predicts_masked_residues() -> None:
    table = random_table(33)
    found = predicted(table_model(table, "token"), PROTEINS * 20)
    np.testing.assert_allclose(found, np.tile(np.exp(of_letters(table[MASK])), (20, 1)), atol=1e-4)
    np.testing.assert_allclose(prediction_similarity(found), 0, atol=1e-2)


def test_a_causal_model_predicts_the_next_residue() -> None:
    table = random_table(33)
    found = predicted(table_model(table, "token", causal=True), ["M" + STANDARD])
    before = ["M", *STANDARD[:-1]]
    expected = np.exp(of_letters(table[[INDEX[token] for token in before]]))
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("causal", [False, True])
def test_the_first_residue_is_scored_only_if_it_is_the_only_one(causal: bool) -> None:
    proteins = ["M" + STANDARD.replace("M", ""), "M"] * 40
    found = predicted(table_model(random_table(33), "token", causal=causal), [*proteins, STANDARD])
    with pytest.raises(UserError, match="M missing"):
        predicted(table_model(random_table(33), "token", causal=causal), proteins[::2])
    np.testing.assert_allclose(found.sum(1), 1)


def test_masks_do_not_depend_on_batches(tiny_model) -> None:
    found = [predicted(tiny_model, PROTEINS * 30, token_budget=budget) for budget in (1, 64, 10_000)]
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], atol=1e-6)
    assert np.abs(predicted(tiny_model, PROTEINS * 30, seed=1) - found[0]).max() > 1e-6


def test_a_confusion_of_two_residues_is_a_similarity() -> None:
    p = np.full((20, 20), 0.02) + np.diag(np.full(20, 0.6))
    p[4, 7] = p[7, 4] = 0.2
    p /= p.sum(1, keepdims=True)
    found = prediction_similarity(p)
    np.testing.assert_array_equal(found, found.T)
    assert found[4, 7] == off_diagonal(found).max()


def test_missing_residues_are_named(tiny_model) -> None:
    with pytest.raises(UserError, match="too few proteins: Y missing"):
        contextual_embedding(tiny_model, [STANDARD[:-1]])
    with pytest.raises(UserError, match="too few proteins: .*missing"):
        predicted(tiny_model, [STANDARD])
