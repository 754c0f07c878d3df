"""Labels of a reference, and what is wrong with a table."""

import warnings

import numpy as np
import pandas
import pytest

from protlm.annotation.known_labels import read_known_labels
from protlm.errors import ProtlmWarning, UserError


def written(tmp_path, text: str):
    path = tmp_path / "labels.tsv"
    path.write_text(text)
    return path


def test_cells_hold_several_labels(tmp_path):
    path = written(tmp_path, "id\tgo\nsp|P1|X_HUMAN\tGO:2; GO:1;GO:2\nP2\t\nP3\tGO:1\n")
    known = read_known_labels(path, ["P3", "P1", "P2", "P4"], "ref.fasta")["go"]
    assert known.names == ["GO:1", "GO:2"]
    assert known.counts.tolist() == [1, 2, 0, 0]
    index, number = known.of(np.array([1, 0, 2]))
    assert (index.tolist(), number.tolist()) == ([0, 0, 1], [0, 1, 0])
    assert known.have(np.array([0, 1, 0]), np.array([0, 1, 1])).tolist() == [True, True, False]
    assert known.take(np.array([1, 1])).counts.tolist() == [2, 2]


def test_data_frames_are_tables():
    frame = pandas.DataFrame({"id": ["a", "b"], "ec": ["1.1.1.1", None], "note": ["", ""]})
    assert read_known_labels(frame, ["a", "b"], "ref", ["EC"])["ec"].counts.tolist() == [1, 0]


def test_several_columns_are_read_in_the_order_given(tmp_path):
    path = written(tmp_path, "id\tgo\tec\na\tx;y\t\nb\t\t1.1\n")
    found = read_known_labels(path, ["a", "b"], "ref.fasta", ["ec", "go"])
    assert {column: known.counts.tolist() for column, known in found.items()} == {"ec": [0, 1], "go": [2, 0]}
    assert list(found) == ["ec", "go"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["go", "kegg"], "no column 'kegg'; found: id, go, ec"),
        (["go", "ec", "GO"], "column 'go': given twice; expected each column of .*labels.tsv once"),
        (["go,ec"], "column 'go,ec': several columns; give column once for each"),
        (["ID"], "column 'id': identifies the proteins"),
        (["go", "ec"], "no protein of ref.fasta has a label in column 'ec'"),
    ],
)
def test_columns_that_cannot_be_used_are_refused(tmp_path, columns, message):
    with pytest.raises(UserError, match=message):
        read_known_labels(written(tmp_path, "id\tgo\tec\na\tx\t\n"), ["a"], "ref.fasta", columns)


def test_ids_that_are_not_in_the_reference_are_counted(tmp_path):
    path = written(tmp_path, "id\tgo\na\tx\nQ9\ty\nQ8\ty\n")
    with pytest.warns(
        ProtlmWarning, match=r"2 of 3 ids not in ref.fasta, such as 'Q9'; identifiers there look like 'a'"
    ):
        read_known_labels(path, ["a"], "ref.fasta")
    with pytest.raises(UserError, match="3 of 3 ids not in ref.fasta"), warnings.catch_warnings():
        read_known_labels(path, ["b"], "ref.fasta")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id\tgo\n", "no rows after the header"),
        ("", "empty"),
        ("name\tgo\na\tx\n", "no column 'id'; found: name, go"),
        ("id\tgo\na\tx\na\ty\n", r"duplicate id 'a' \(rows 1 and 2\); expected one row per protein"),
        ("id\tgo\na\t\n", "no protein of ref.fasta has a label in column 'go'"),
        ("id\tgo\tec\na\tx\ty\n", "expected one column of labels, found go, ec; choose one or more with column"),
    ],
)
def test_unusable_tables_are_refused(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read_known_labels(written(tmp_path, text), ["a"], "ref.fasta")
