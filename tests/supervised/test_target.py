import numpy as np
import pytest

from protlm.errors import UserError
from protlm.supervised.target import target_of

SEQUENCES = ["MKTAY", "MKT", "MKTAYI", "MKTA"]


@pytest.mark.parametrize(
    ("cells", "kind", "classes"),
    [
        (["a", "b", "a", "b"], "classification", ("a", "b")),
        (["1", "0", "1", ""], "classification", ("0", "1")),
        (["0.5", "1", "2", "NA"], "regression", ()),
        (["1e3", "-2", "7.5", "0"], "regression", ()),
        (["a;b", "b", "", "c; a"], "multilabel", ("a", "b", "c")),
    ],
)
def test_the_kind_follows_from_the_labels(cells, kind, classes):
    target = target_of("x", cells, SEQUENCES)
    assert (target.kind, target.classes, target.per_residue) == (kind, classes, False)
    known = [row for row, cell in enumerate(cells) if cell not in ("", "NA")]
    assert target.owner.tolist() == known


def test_strings_as_long_as_their_sequences_are_labels_of_residues():
    target = target_of("ss", ["HHEE-", "", "CCCCCC", "?HE?"], SEQUENCES)
    assert target.per_residue
    assert target.classes == ("C", "E", "H")
    letters = ["".join(target.classes[label] for label in target.y[target.owner == owner]) for owner in range(4)]
    assert letters == ["HHEE", "", "CCCCCC", "HE"]
    assert target.position[target.owner == 3].tolist() == [1, 2]


def test_a_kind_can_be_given():
    numbers = target_of("x", ["1", "2", "3", "1"], SEQUENCES, "regression")
    np.testing.assert_array_equal(numbers.y, [1, 2, 3, 1])


def test_multi_label_rows_have_all_their_labels():
    target = target_of("go", ["a;b", "c", "a", "b;c;a"], SEQUENCES)
    assert target.y.tolist() == [[1, 1, 0], [0, 0, 1], [1, 0, 0], [1, 1, 1]]


@pytest.mark.parametrize(
    ("cells", "kind", "message"),
    [
        (["", "NA", "nan", "None"], None, "column 'x' has no labels"),
        (["1.5", "inf", "2", "3"], None, "row 2: x is 'inf'; expected a finite number"),
        (["1.5", "high", "2", "3"], "regression", "row 2: x is 'high'; expected a finite number"),
        (["HHEEC", "HHE", "HHHHHH", "HH"], None, "row 4: x has 2 letters for 4 residues"),
        (["a", "b", "a", "b"], "clustering", "kind 'clustering': expected one of"),
    ],
)
def test_columns_that_cannot_be_used_are_refused(cells, kind, message):
    with pytest.raises(UserError, match=message):
        target_of("x", cells, SEQUENCES, kind)


def test_numbers_with_a_stray_word_are_refused_with_its_row():
    cells = [f"{number}.5" for number in range(30)]
    cells[6] = "high"
    with pytest.raises(UserError, match="30 distinct values in 30 rows, such as 'high' in row 7"):
        target_of("x", cells, ["MKTAYIAK"] * 30)


@pytest.mark.parametrize("form", ["{};{};nan", "{} {} -", "[{}, {}, NaN]", "[{}, {}, null]", "{},{},?"])
def test_as_many_numbers_as_residues_are_values_of_residues(form):
    target = target_of("b", [form.format(0.5, 2), "", "1;2;3;4;5;6", "7;8;9;10"], SEQUENCES[1:2] * 2 + SEQUENCES[2:])
    assert target.described == "regression per residue"
    assert target.y[target.owner == 0].tolist() == [0.5, 2]
    assert target.position[target.owner == 0].tolist() == [0, 1]
    assert target.owner.tolist() == [0] * 2 + [2] * 6 + [3] * 4


@pytest.mark.parametrize(
    ("cells", "kind", "message"),
    [
        (["1;2;3;4;5", "1;2", "1;2;3;4;5;6", ""], None, "row 2: b has 2 numbers for 3 residues; expected one per"),
        (["1;2", "", "", ""], "ranking", "row 1: b has 2 numbers for 5 residues"),
        (["1;2;3;4;inf", "", "", ""], None, "row 1: b has an infinite number"),
        (["nan;nan;nan;nan;nan", "", "", ""], None, "no residue of 'b' has a value"),
    ],
)
def test_numbers_that_do_not_fit_the_residues_are_refused(cells, kind, message):
    with pytest.raises(UserError, match=message):
        target_of("b", cells, SEQUENCES, kind)


def test_labels_that_are_numbers_stay_labels():
    assert target_of("ec", ["1;3", "2", "1", "4;5"], SEQUENCES).kind == "multilabel"
