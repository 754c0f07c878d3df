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
    known = read_known_labels(path, ["P3", "P1", "P2", "P4"], "ref.fasta")
    assert known.names == ["GO:1", "GO:2"]
    assert known.counts.tolist() == [1, 2, 0, 0]
    index, number = known.of(np.array([1, 0, 2]))
    assert (index.tolist(), number.tolist()) == ([0, 0, 1], [0, 1, 0])
    assert known.have(np.array([0, 1, 0]), np.array([0, 1, 1])).tolist() == [True, True, False]
    assert known.take(np.array([1, 1])).counts.tolist() == [2, 2]


def test_data_frames_are_tables():
    frame = pandas.DataFrame({"id": ["a", "b"], "ec": ["1.1.1.1", None], "note": ["", ""]})
    assert read_known_labels(frame, ["a", "b"], "ref", "ec").counts.tolist() == [1, 0]


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
        ("id\tgo\tec\na\tx\ty\n", "expected one column of labels, found go, ec; choose one with column"),
    ],
)
def test_unusable_tables_are_refused(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        read_known_labels(written(tmp_path, text), ["a"], "ref.fasta")
