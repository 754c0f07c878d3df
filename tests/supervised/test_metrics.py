"""Metrics equal those of scikit-learn and scipy, with weights and ties; intervals are of whole proteins."""

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn import metrics as sk

from protlm.supervised.evaluation import evaluated, gain_of
from protlm.supervised.metrics import _ranked, auroc, average_precision, evaluate
from protlm.supervised.rank_metrics import ndcg_of, spearman_of, top_recall_of
from protlm.supervised.target import Target


@pytest.fixture
def classes():
    draw = np.random.default_rng(1)
    y = draw.integers(0, 3, 200)
    p = draw.dirichlet([1, 1, 1], 200).round(2) + 0.5 * np.eye(3)[y] * draw.random((200, 1)).round(1)
    return y, p / p.sum(axis=1, keepdims=True), np.repeat(np.arange(40), 5)


def test_metrics_of_classes_equal_those_of_scikit_learn(classes):
    y, p, owner = classes
    found = {name: estimate.value for name, estimate in evaluate("classification", y, p, owner, draws=5).items()}
    guess = p.argmax(axis=1)
    each = [sk.average_precision_score(y == label, p[:, label]) for label in range(3)]
    expected = {
        "accuracy": sk.accuracy_score(y, guess),
        "MCC": sk.matthews_corrcoef(y, guess),
        "macro F1": sk.f1_score(y, guess, average="macro"),
        "AUROC": sk.roc_auc_score(y, p, multi_class="ovr"),
        "AUPRC": np.mean(each),
    }
    assert found == pytest.approx(expected)


def test_of_two_classes_the_rarer_one_is_ranked():
    draw = np.random.default_rng(2)
    y = (draw.random(100) < 0.8).astype(int)
    p = np.stack([1 - y * 0.5, y * 0.5], axis=1) + 0.3 * draw.random((100, 2)).round(1)
    found = evaluate("classification", y, p, np.arange(100), draws=5)
    assert found["AUPRC"].value == pytest.approx(sk.average_precision_score(y == 0, p[:, 0]))


@pytest.mark.parametrize(
    ("ours", "theirs"), [(auroc, sk.roc_auc_score), (average_precision, sk.average_precision_score)]
)
def test_weights_count_as_copies_of_rows(ours, theirs):
    draw = np.random.default_rng(3)
    scores, positive = draw.random(60).round(1), draw.random(60) < 0.4
    weights = draw.integers(0, 4, 60)
    found = _ranked(ours, scores, positive, np.arange(60), weights[None].astype(float))[0]
    assert found == pytest.approx(theirs(np.repeat(positive, weights), np.repeat(scores, weights)))


def test_metrics_of_values():
    draw = np.random.default_rng(4)
    y = draw.normal(size=80)
    guess = y + draw.normal(size=80)
    found = evaluate("regression", y, guess[:, None], np.arange(80), draws=200)
    assert found["Spearman"].value == pytest.approx(spearmanr(y, guess)[0])
    assert found["R2"].value == pytest.approx(sk.r2_score(y, guess))
    assert found["RMSE"].value == pytest.approx(sk.root_mean_squared_error(y, guess))
    assert found["Spearman"].low < found["Spearman"].value < found["Spearman"].high


def test_fmax_is_that_of_the_best_threshold():
    y = np.array([[1.0, 0, 1], [0, 1, 0]])
    assert evaluate("multilabel", y, y * 0.8 + 0.1, np.arange(2), draws=2)["Fmax"].value == 1
    # at any threshold: all labels (precision 1/2, recall 1) or, above 0.6, one wrong label of each
    wrong = np.where(y > 0, 0.5, 0.7)
    assert evaluate("multilabel", y, wrong, np.arange(2), draws=2)["Fmax"].value == pytest.approx(2 / 3)


def test_intervals_widen_when_rows_of_a_protein_agree():
    """Ten copies of each row are no new evidence, if they are of the same protein."""
    draw = np.random.default_rng(5)
    y = draw.integers(0, 2, 50)
    p = np.eye(2)[np.where(draw.random(50) < 0.7, y, 1 - y)]
    alone = evaluate("classification", y, p, np.arange(50))["accuracy"]
    rows = np.repeat(np.arange(50), 10)
    copied = evaluate("classification", y[rows], p[rows], rows)["accuracy"]
    independent = evaluate("classification", y[rows], p[rows], np.arange(500))["accuracy"]
    assert copied == pytest.approx(alone)
    assert independent.high - independent.low < 0.6 * (alone.high - alone.low)


def test_rows_that_count_several_times_are_copies():
    draw = np.random.default_rng(5)
    y = draw.normal(size=50)
    guess = y + draw.normal(size=50)
    weights = draw.integers(0, 4, 50)
    given, wanted = np.repeat(guess, weights), np.repeat(y, weights)
    every, weighted = np.ones(len(given)), weights.astype(float)
    assert spearman_of(guess, y)(weighted) == pytest.approx(spearmanr(given, wanted)[0])
    assert top_recall_of(guess, y)(weighted) == pytest.approx(top_recall_of(given, wanted)(every))
    gains = (wanted - y.min()) / np.ptp(y)  # of the range of all values, also of those that a draw leaves out
    expected = sk.ndcg_score([gains], [given], k=int(0.1 * len(given)))
    assert ndcg_of(guess, y)(weighted) == pytest.approx(expected)


def test_metrics_of_order():
    draw = np.random.default_rng(6)
    y = draw.normal(size=100)
    guess = y + draw.normal(size=100)
    found = evaluate("ranking", y, guess[:, None], np.arange(100), draws=20)
    assert found["Spearman"].value == pytest.approx(spearmanr(y, guess)[0])
    top = [set(np.argsort(-values)[:10].tolist()) for values in (y, guess)]
    assert found["top-10 % recall"].value == len(top[0] & top[1]) / 10
    assert evaluate("ranking", y, y[:, None], np.arange(100), draws=20)["NDCG"].value == pytest.approx(1)
    constant = evaluate("ranking", y, np.zeros((100, 1)), np.arange(100), draws=20)
    assert all(np.isnan(estimate.value) for estimate in constant.values())


def test_a_rare_class_is_called_from_the_threshold_of_other_proteins():
    draw = np.random.default_rng(7)
    owner = np.repeat(np.arange(40), 50)
    y = (draw.random(2_000) < 0.1).astype(int)
    p = 0.1 + 0.15 * y + 0.1 * draw.normal(size=2_000)  # hardly any above 0.5
    p = np.stack([1 - p, p], axis=1)
    found = evaluate("classification", y, p, owner, draws=50)["F1"]
    best = max(sk.f1_score(y, p[:, 1] >= cut) for cut in np.unique(p[:, 1])[::10])
    assert 0.9 * best < found.value <= best + 1e-9
    assert found.low < found.value < found.high
    assert found.value > sk.f1_score(y, p.argmax(axis=1)) + 0.1
    noise = draw.permutation(y)
    assert evaluate("classification", noise, p, owner, draws=2)["F1"].value < 0.25
    assert "F1" not in evaluate("classification", draw.integers(0, 2, 2_000), p, owner, draws=2)


def test_the_confusion_matrix_is_of_what_is_predicted():
    y = np.array([0, 0, 0, 1])
    target = Target("x", "classification", False, ("a", "b"), y, np.arange(4), np.zeros(4, dtype=int))
    p = np.array([[0.9, 0.1], [0.8, 0.2], [0.65, 0.35], [0.7, 0.3]])
    assert evaluated(target, {"probe": p}).confusion.tolist() == [[3, 0], [1, 0]]
    assert evaluated(target, {"probe": p}, threshold=("b", 0.3)).confusion.tolist() == [[2, 1], [0, 1]]


def test_a_small_gain_on_every_protein_is_certain_although_the_intervals_overlap():
    rng = np.random.default_rng(3)
    owner = np.repeat(np.arange(40), 50)
    difficulty = rng.uniform(0.2, 0.9, 40)[owner]  # of proteins, which makes the intervals wide
    right = rng.random(len(owner)) < difficulty
    y = np.zeros(len(owner), dtype=np.int64)
    worse = np.where(right[:, None], [0.9, 0.1], [0.1, 0.9])
    better = worse.copy()
    better[::25] = [0.9, 0.1]
    y[1] = 1  # both classes occur
    target = Target("t", "classification", True, ("a", "b"), y, owner, np.arange(len(owner)))
    found = evaluated(target, {"lora": better, "probe": worse})
    ours, theirs = (found.metrics[method]["accuracy"] for method in ("lora", "probe"))
    gain = found.gains["probe"]["accuracy"]
    assert ours.low < theirs.high
    assert gain.value == pytest.approx(ours.value - theirs.value)
    assert 0 < gain.low < gain.value < gain.high < 0.04
    assert (
        gain_of(found.to_dict(), "probe")
        == f"{100 * gain.value:+.1f} ({100 * gain.low:+.1f} to {100 * gain.high:+.1f})"
    )
    assert gain_of(found.to_dict(), "lora") == ""
    assert found.worse == []
    (line,) = evaluated(target, {"lora": worse, "majority": better}).worse
    assert line.startswith("t: lora is worse than majority (accuracy ")
