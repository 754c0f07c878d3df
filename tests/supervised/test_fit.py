"""A fit learns what there is, tests it on proteins it has not seen, and says what makes the test unreliable."""

import numpy as np
import pandas
import pytest

import protlm
from protlm import model_api
from protlm.checkpoint import export
from protlm.errors import ProtlmWarning, UserError
from protlm.supervised.features import variable_sites
from protlm.supervised.fit import fit_probe
from protlm.supervised.fit_api import fit
from protlm.supervised.fit_options import FitOptions
from protlm.supervised.labels import read_labels
from protlm.supervised.learning_curve import learning_curve
from protlm.supervised.predictor_folder import load_predictor
from protlm.supervised.probe import candidates_of
from protlm.supervised.target import Target
from tests.supervised.proteins import proteins, variants


def frame(count: int = 60, parts: str = "train train test") -> pandas.DataFrame:
    sequences, labels = proteins(count)
    split = (parts.split() * count)[:count] if parts else None
    return pandas.DataFrame({"sequence": sequences, "label": labels} | ({"split": split} if parts else {}))


def fitted(table: pandas.DataFrame, model, **options):
    return fit_probe(read_labels(table), model, FitOptions(**{"relatives": False} | options))


def value(found, method: str = "probe", metric: str = "accuracy") -> float:
    return found.evaluations[0].metrics[method][metric].value


def test_held_out_proteins_are_predicted_beside_baselines(tiny_model):
    found = fitted(frame(), tiny_model)
    assert value(found) > 0.9
    assert value(found, "majority") == pytest.approx(0.5, abs=0.1)
    assert value(found, "composition") > 0.9
    assert found.evaluations[0].confusion.sum() == 20
    assert found.partition.described == "the split of the labels"


def test_shuffled_labels_are_not_learned(tiny_model):
    """Otherwise labels of test proteins would leak into the fit."""
    table = frame(200)
    table["label"] = table["label"].sample(frac=1, random_state=1).to_numpy()
    assert value(fitted(table, tiny_model)) < 0.7


def test_values_and_several_targets_and_missing_labels(tiny_model):
    table = frame(90)
    table["charge"] = [sequence.count("K") - sequence.count("E") + 0.25 for sequence in table["sequence"]]
    table.loc[table.index[::9], "charge"] = None
    labelled = read_labels(table, targets=["label", "charge"])
    found = fit_probe(labelled, tiny_model, FitOptions(relatives=False))
    by_name = {one.target.name: one for one in found.evaluations}
    assert by_name["charge"].metrics["probe"]["Spearman"].value > 0.8
    assert by_name["charge"].metrics["mean"]["R2"].value < 0.1
    assert len(by_name["charge"].target.owner) == 30 - sum(row % 9 == 0 and row % 3 == 2 for row in range(90))
    assert by_name["label"].metrics["probe"]["accuracy"].value > 0.9


def test_labels_of_residues(tiny_model):
    sequences, _ = proteins(45)
    letters = ["".join("+" if one in "KR" else "o" for one in sequence) for sequence in sequences]
    letters[3] = "-" * len(sequences[3])
    table = pandas.DataFrame({"sequence": sequences, "charge": letters, "split": ["train", "valid", "test"] * 15})
    found = fitted(table, tiny_model)
    assert value(found) > 0.95
    assert set(found.evaluations[0].metrics) == {"probe", "majority", "window of residues"}
    assert len(found.evaluations[0].target.owner) == sum(map(len, sequences[2::3]))


def test_values_of_residues(tiny_model):
    sequences, _ = proteins(30)
    values = [[1.5 * (one in "KR") - (one == "E") for one in sequence] for sequence in sequences]
    values[4][:3] = [float("nan")] * 3
    table = pandas.DataFrame({"sequence": sequences, "charge": values, "split": ["train", "train", "test"] * 10})
    predictor = protlm.fit(table, model=tiny_model, relatives=False)
    target = predictor.report["targets"][0]
    assert target["described"] == "regression per residue"
    assert target["metrics"]["probe"]["Spearman"]["value"] > 0.8
    assert list(target["metrics"]) == ["probe", "mean", "window of residues"]
    (found,) = predictor.predict(["MKE"])
    assert found[1] > found[0] > found[2]


def test_of_a_ranking_only_the_order_counts(tiny_model):
    table = frame(60).drop(columns="label")
    table["fitness"] = [1.1 ** sequence.count("K") for sequence in table["sequence"]]
    monotonic = table.assign(fitness=np.exp(table["fitness"]))
    one, other = (
        fit_probe(read_labels(each, kinds={"": "ranking"}), tiny_model, FitOptions(relatives=False))
        for each in (table, monotonic)
    )
    np.testing.assert_array_equal(one.learned[0].head.weight, other.learned[0].head.weight)
    assert one.evaluations[0].target.described == "ranking per protein"
    assert value(one, metric="Spearman") > 0.8
    assert set(one.evaluations[0].metrics["probe"]) == {"Spearman", "NDCG", "top-10 % recall"}


def test_the_learning_curve_of_a_rare_class_is_of_its_ranking():
    y = np.array([0] * 9 + [1])
    target = Target("x", "classification", False, ("a", "b"), y, np.arange(10), np.zeros(10, dtype=int))
    right = np.stack([1 - 0.4 * y, 0.4 * y], axis=1)  # no probability of the rare class exceeds 0.5
    curve = learning_curve(target, [[None, (5.0, np.full((10, 2), 0.5)), (10.0, right)]])
    assert curve == [
        {"metric": "AUPRC", "proteins": 5.0, "value": pytest.approx(0.1)},
        {"metric": "AUPRC", "proteins": 10.0, "value": 1.0},
    ]


def test_a_test_part_of_one_class_is_evaluated_with_a_warning(tiny_model):
    table = frame(60)
    table = table[(table["split"] == "train") | (table["label"] == table["label"][0])]
    found = fitted(table, tiny_model)
    assert "AUPRC" not in found.evaluations[0].metrics["probe"]
    assert {point["metric"] for point in found.evaluations[0].learning_curve} == {"accuracy"}
    assert any("all test labels are" in line for line in found.warnings)


def test_relatives_are_never_on_both_sides_of_a_split_by_homology(tiny_model):
    """Each protein has a relative with the same random label: only a random split lets the probe profit from that."""
    draw = np.random.default_rng(0)
    letters = np.array(list("ACDEFGHIKLMNPQRSTVWY"))
    sequences, labels = [], []
    for number in range(20):
        parent = draw.choice(letters, 80)
        child = parent.copy()
        child[::4] = draw.choice(letters, 20)
        sequences += ["".join(parent), "".join(child)]
        labels += [str(number % 2)] * 2
    table = pandas.DataFrame({"sequence": sequences, "label": labels})
    by_homology = fitted(table, tiny_model, relatives=True)
    assert "20 clusters of relatives" in by_homology.partition.described
    for part in by_homology.partition.rounds:
        assert (part.test[0::2] == part.test[1::2]).all()
    assert by_homology.leakage.leaked == 0
    at_random = fitted(table, tiny_model, relatives=True, split_by="random")
    assert at_random.leakage.leaked > 20
    assert value(at_random, "nearest relative") > value(by_homology, "nearest relative") + 0.2


def test_variants_of_one_protein_are_compared_site_by_site(tiny_model):
    draw = np.random.default_rng(1)
    sequences = []
    for _ in range(60):
        variant = list("MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQ")
        for site in draw.choice(33, 2, replace=False):
            variant[site] = draw.choice(list("ACDEFGHIKLMNPQRSTVWY"))
        sequences.append("".join(variant))
    values = [sequence.count("K") + 0.5 * (sequence[10] == "Q") for sequence in sequences]
    table = pandas.DataFrame({"sequence": sequences, "fitness": values})
    found = fit_probe(read_labels(table, kinds={"": "regression"}), tiny_model, FitOptions())
    assert "random" in found.partition.described
    assert {"one-hot residues", "nearest relative"} <= set(found.evaluations[0].metrics)
    with pytest.raises(UserError, match="variants of one protein are all homologs"):
        fitted(table, tiny_model, split_by="homology")


def test_what_makes_a_test_unreliable_is_said(tiny_model):
    table = frame(48)
    table.loc[2, "sequence"] = table.loc[0, "sequence"]
    table.loc[5, "label"] = "membrane"
    found = fitted(table, tiny_model)
    warned = " / ".join(found.warnings)
    assert "1 test protein is also in the training part" in warned
    assert "'membrane' occurs only in the test part (1 protein), so it is never predicted" in warned
    assert "only 32 labelled training proteins" in warned
    assert "membrane" not in found.learned[0].head.classes
    assert found.evaluations[0].confusion[:, 2].sum() == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": "basic"}, "'label' is 'basic' in all training proteins; expected at least two classes"),
        ({"label": 2.5}, "'label' is 2.5 in all training proteins; expected values that differ"),
        ({"split": "train"}, None),
        ({"split": "test"}, "no training part"),
    ],
)
def test_labels_without_information_are_refused(tiny_model, change, message):
    table = frame().assign(**change)
    if message is None:
        assert "cross-validation" in fitted(table, tiny_model).partition.described
        return
    with pytest.raises(UserError, match=message):
        fitted(table, tiny_model)


def test_twenty_proteins_give_a_result_with_a_warning_nine_do_not(tiny_model):
    found = fitted(frame(20, ""), tiny_model, split_by="random")
    assert "only 20 labelled training proteins" in found.warnings[0]
    with pytest.raises(UserError, match="labelled training proteins; expected at least 10"):
        fitted(frame(9, ""), tiny_model, split_by="random")


def test_a_saved_model_predicts_the_same_and_knows_its_base(tiny_model, model_folder, tmp_path):
    table = frame()
    predictor = protlm.fit(table, tmp_path / "fitted", model_folder, relatives=False)
    sequences = table["sequence"].tolist()[:5]
    loaded = protlm.load(tmp_path / "fitted")
    assert (loaded.predict_proba(sequences) == predictor.predict_proba(sequences)).all()
    assert repr(loaded).startswith("<Predictor of label: classification per protein, 2 classes; base model ")
    assert loaded.predict({"a": sequences[0]}) == {"a": predictor.predict(sequences)[0]}
    assert loaded.predict_proba(table[["sequence"]]).columns.tolist() == ["acidic", "basic"]
    assert loaded.report["targets"][0]["metrics"]["probe"]["accuracy"]["value"] > 0.9
    curve = loaded.report["targets"][0]["learning_curve"]
    assert [point["proteins"] for point in curve][-3:] == [10, 20, 40]
    assert curve[-1]["value"] == loaded.report["targets"][0]["metrics"]["probe"]["accuracy"]["value"]
    for name in ("README.md", "report.html", "report.json"):
        assert "label" in (tmp_path / "fitted" / name).read_text()
    page = (tmp_path / "fitted" / "report.html").read_text()
    assert "http" not in page.replace('http-equiv="Content-Security-Policy"', "")  # loads nothing
    with pytest.raises(UserError, match="already exists"):
        protlm.fit(table, tmp_path / "fitted", model_folder)
    model_folder.rename(tmp_path / "moved")
    with pytest.raises(UserError, match="its base model .* is missing; give its new path as base"):
        protlm.load(tmp_path / "fitted")


def test_a_damaged_folder_is_one_line(model_folder, tmp_path):
    folder = tmp_path / "fitted"
    protlm.fit(frame(), folder, model_folder, relatives=False)
    head = (folder / "head.safetensors").read_bytes()
    (folder / "head.safetensors").write_bytes(head[:-8])
    with pytest.raises(UserError, match="damaged or incomplete .*; fit it again"):
        protlm.load(folder)


def test_a_model_without_a_path_is_saved_with_a_copy(tiny_model, tmp_path):
    predictor = protlm.fit(frame(), model=tiny_model, relatives=False)
    with pytest.raises(UserError, match="without a path; set copy_base"):
        predictor.save(tmp_path / "fitted")
    predictor.save(tmp_path / "fitted", copy_base=True)
    (tmp_path / "fitted").rename(tmp_path / "elsewhere")
    loaded = protlm.load(tmp_path / "elsewhere")
    sequences, _ = proteins(4, seed=9)
    assert loaded.predict(sequences).tolist() == predictor.predict(sequences).tolist()


def test_another_base_model_is_refused(tiny_model, causal_model, model_folder, tmp_path):
    protlm.fit(frame(), tmp_path / "fitted", model_folder, relatives=False)
    export(causal_model, tmp_path / "other")
    with pytest.raises(UserError, match="not the model that .* was fitted with"):
        load_predictor(tmp_path / "fitted", base=tmp_path / "other")
    with pytest.raises(UserError, match="written by protlm fit; use it with protlm predict"):
        model_api.load(tmp_path / "fitted")


def test_variants_are_predicted_from_the_sites_at_which_they_differ(tiny_model):
    """Means over all residues hardly tell variants apart; the rows of the sites do."""
    sequences, values = variants(150)
    table = pandas.DataFrame({"sequence": sequences, "label": values, "split": ["train", "train", "test"] * 50})
    found = fitted(table, tiny_model, layers=[1, 2])
    chosen = found.learned[0].head.blocks
    assert any(name.endswith(" at 5,12,21") for name in chosen) or "sites" in chosen
    only = candidates_of([1, 2], per_residue=False, variants=True, residues="5,12,21")
    assert ("layer 1 at 5,12,21",) in only
    assert ("layer 1 at 5,12,21", "sites") in only
    assert value(found, metric="Spearman") > 0.8
    whole = fit(table, model=tiny_model, relatives=False)
    assert whole.score(sequences, values) > 0.5
    with pytest.warns(ProtlmWarning, match="not variants of it"), pytest.raises(UserError, match="of one protein"):
        whole.predict(["MKT"])
    with pytest.warns(ProtlmWarning, match="not variants of it"):
        whole.predict(["W" * 30])


def test_no_rows_of_sites_where_they_are_too_many():
    sequences, _ = proteins(2, length=50)
    assert variable_sites([sequences[0][:50], sequences[1][:50]], 1_000) == ""


def test_the_threshold_of_a_rare_class_does_not_depend_on_the_test(tiny_model, tmp_path):
    sequences, _ = proteins(120)
    draw = np.random.default_rng(0)
    labels = ["rare" if sequence.count("K") > 16 else "common" for sequence in sequences]
    parts = ["train", "train", "test"] * 40
    thresholds = []
    for other in (labels, draw.permutation(labels).tolist()):
        own = [one if part == "train" else two for one, two, part in zip(labels, other, parts, strict=True)]
        table = pandas.DataFrame({"sequence": sequences, "label": own, "split": parts})
        thresholds.append(
            fit_probe(read_labels(table), tiny_model, FitOptions(relatives=False)).evaluations[0].threshold
        )
    assert thresholds[0] is not None
    assert thresholds[0][0] == "rare"
    assert thresholds[0] == thresholds[1]
