import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import cross_val_score

import protlm
from protlm.errors import UserError
from tests.supervised.proteins import proteins


@pytest.fixture
def labelled():
    return proteins(60)


def test_a_probe_is_an_estimator_of_scikit_learn(tiny_model, model_folder, labelled):
    sequences, labels = labelled
    probe = protlm.Probe(model_folder, seed=3)
    copy = clone(probe)
    assert copy.get_params() == probe.get_params()
    assert copy.set_params(kind="classification").kind == "classification"
    scores = cross_val_score(probe, np.array(sequences), np.array(labels), cv=3)
    assert scores.min() > 0.85
    probe.fit(sequences, labels)
    assert probe.classes_.tolist() == ["acidic", "basic"]
    p = probe.predict_proba(sequences)
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-6)
    assert (probe.classes_[p.argmax(axis=1)] == probe.predict(sequences)).all()


def test_classes_stay_numbers_and_values_are_regressed(tiny_model, labelled):
    sequences, labels = labelled
    numbers = [int(label == "basic") for label in labels]
    probe = protlm.Probe(tiny_model).fit(sequences, numbers)
    assert set(probe.predict(sequences).tolist()) == {0, 1}
    assert probe.score(sequences, numbers) > 0.9
    charge = [sequence.count("K") - sequence.count("E") + 0.5 for sequence in sequences]
    charge[4] = float("nan")
    regression = protlm.Probe(tiny_model).fit(sequences, charge)
    assert regression.score(sequences[5:], charge[5:]) > 0.8


def test_labels_of_residues_and_several_labels(tiny_model, labelled):
    sequences, _ = labelled
    letters = ["".join("+" if one == "K" else "o" for one in sequence) for sequence in sequences]
    probe = protlm.Probe(tiny_model).fit(sequences, letters)
    assert probe.score(sequences, letters) > 0.95
    assert len(probe.predict(sequences)[0]) == len(sequences[0])
    several = [["rich"] * (sequence.count("K") > 8) + ["any"] * (sequence.count("E") > 3) for sequence in sequences]
    assert protlm.Probe(tiny_model, kind="multilabel").fit(sequences, several).score(sequences, several) > 0.5


def test_labels_of_another_number_are_refused(tiny_model, labelled):
    with pytest.raises(UserError, match="60 proteins and 2 labels"):
        protlm.Probe(tiny_model).fit(labelled[0], ["a", "b"])


def test_it_trains_by_other_methods_in_cross_validation(model_folder, labelled):
    sequences, labels = labelled
    numbers = np.array([int(label == "basic") for label in labels])
    head = protlm.Probe(model_folder, method="head", epochs=1, settings=["task.hidden=8"])
    assert clone(head).get_params() == head.get_params()
    assert cross_val_score(head, np.array(sequences), numbers, cv=2).min() > 0.85
    head.fit(sequences, numbers)
    assert head.predict_proba(sequences).shape == (60, 2)
    assert set(head.predict(sequences).tolist()) == {0, 1}
    assert set(head.predictor_.report) == {"data", "training"}  # nothing was tested


def test_methods_are_checked(model_folder, labelled):
    with pytest.raises(UserError, match="method 'svm': expected one of probe, head, lora, full"):
        protlm.Probe(model_folder, method="svm").fit(*labelled)
