import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge

from protlm.supervised.calibration import fitted_temperature
from protlm.supervised.linear_fit import ABSENT, RIDGE, _ridge_errors, choose, fit, fit_sets, thinned
from protlm.supervised.linear_head import answers


@pytest.fixture
def data():
    draw = np.random.default_rng(0)
    x = draw.normal(3, 2, (120, 6)).astype(np.float32)
    y = (x[:, 0] > 3).astype(np.int64) + (x[:, 1] > 4)
    return x, y


def test_weights_on_features_as_they_are_equal_scikit_learns_on_standardised_ones(data):
    x, y = data
    weight, bias = fit(x, y, "classification", 3, 0.1)
    scaled = (x - x.mean(axis=0)) / x.std(axis=0)
    model = LogisticRegression(C=1 / (0.1 * len(x))).fit(scaled, y)
    np.testing.assert_allclose(answers("classification", x @ weight + bias), model.predict_proba(scaled), atol=2e-3)
    weight, bias = fit(x, y.astype(float), "regression", 1, 0.1)
    np.testing.assert_allclose((x @ weight + bias)[:, 0], Ridge(0.1 * len(x)).fit(scaled, y).predict(scaled), rtol=1e-4)


def test_the_fast_path_of_ridge_equals_fits_of_each_fold(data):
    x, y = data
    folds, wanted = np.arange(120) % 4, np.eye(3)[y]
    errors, predictions = _ridge_errors(x, wanted, folds)
    for number in (0, 4, len(RIDGE) - 1):
        expected = np.zeros_like(wanted)
        for fold in range(4):
            out = folds == fold
            mean, scale = x[~out].mean(axis=0), x[~out].std(axis=0)
            model = Ridge(RIDGE[number] * int((~out).sum())).fit((x[~out] - mean) / scale, wanted[~out])
            expected[out] = model.predict((x[out] - mean) / scale)
        np.testing.assert_allclose(predictions[number], expected, atol=1e-4)
        assert errors[number] == pytest.approx(((expected - wanted) ** 2).mean(), rel=1e-3)


@pytest.mark.parametrize("present", [(0, 2), (1,)])
def test_classes_without_examples_are_never_predicted(data, present):
    x, _ = data
    y = np.array([present[row % len(present)] for row in range(len(x))])
    weight, bias = fit(x, y, "classification", 3, 0.1)
    missing = sorted({0, 1, 2} - set(present))
    assert (bias[missing] == ABSENT).all()
    assert not np.isin((x @ weight + bias).argmax(axis=1), missing).any()


def test_features_that_carry_the_label_are_chosen(data):
    x, y = data
    noise = np.random.default_rng(1).normal(size=x.shape).astype(np.float32)
    rows = np.arange(len(x))
    choice = choose({"good": x, "noise": noise}, [("noise",), ("good",)], y, "classification", 3, rows % 5, rows)
    assert choice.blocks == ("good",)
    assert (choice.logits.argmax(axis=1) == y).mean() > 0.65  # the majority: 0.5


def test_labels_of_multi_label_rows_are_learned_apart(data):
    x, _ = data
    y = np.stack([x[:, 0] > 3, x[:, 1] > 3, np.zeros(len(x))], axis=1).astype(float)
    weight, bias = fit(x, y, "multilabel", 3, 0.003)
    p = answers("multilabel", x @ weight + bias)
    assert ((p > 0.5) == (y > 0)).mean() > 0.95
    assert p[:, 2].max() < 1e-6


def test_temperature_is_recovered():
    draw = np.random.default_rng(2)
    logits = draw.normal(size=(3_000, 3)) * 2
    y = np.array([draw.choice(3, p=p) for p in answers("classification", logits)])
    assert fitted_temperature(logits * 2.5, y, "classification") == pytest.approx(2.5, rel=0.15)


def test_large_sets_are_thinned_by_whole_groups():
    groups = np.repeat(np.arange(50), 20)
    rows = thinned(groups, 300)
    kept, counts = np.unique(groups[rows], return_counts=True)
    assert 280 <= len(rows) <= 300
    assert (counts == 20).all()
    assert len(kept) == 15
    assert thinned(groups, 1_000).tolist() == list(range(1_000))


def test_values_are_predicted_by_the_mean_of_regressions_where_it_is_better():
    draw = np.random.default_rng(0)
    signal = draw.normal(size=(200, 3))
    y, rows = signal.sum(1), np.arange(200)
    blocks = {"first": signal + draw.normal(size=signal.shape), "second": signal + draw.normal(size=signal.shape)}
    candidates = [("first",), ("second",)]
    choice = choose(blocks, candidates, y, "regression", 1, rows % 5, rows)
    assert [names for names, _ in choice.sets] == candidates
    weight, bias = fit_sets(blocks, choice.sets, y, "regression", 1)
    each = [fit(blocks[name], y, "regression", 1, strength) for (name,), strength in choice.sets]
    mean = np.mean([blocks[name] @ w + b for name, (w, b) in zip(blocks, each, strict=True)], axis=0)
    np.testing.assert_allclose(np.concatenate(list(blocks.values()), axis=1) @ weight + bias, mean, atol=1e-10)
    blocks["second"] = draw.normal(size=signal.shape)  # the mean with noise is worse
    assert len(choose(blocks, candidates, y, "regression", 1, rows % 5, rows).sets) == 1
