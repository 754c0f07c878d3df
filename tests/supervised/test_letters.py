import pytest

from protlm.errors import UserError
from protlm.supervised.labels import read_labels
from protlm.supervised.letters import Letters, merged

RECORDS = [Letters("P1", "train", "0041"), Letters("P2", "test", "700b")]


def test_letters_of_a_class_are_replaced_in_one_pass():
    assert [one.letters for one in merged(RECORDS, {"b": "147", "0": "b"})] == ["00bb", "b000"]
    assert merged(RECORDS, {}) == RECORDS


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ({"bind": "14"}, "expected a letter"),
        ({"b": ""}, "expected a letter"),
        ({"b": "14", "n": "10"}, "'1' is in 'b' and 'n'"),
        ({"b": "xyz"}, "none of xyz; its letters are 0147b"),
    ],
)
def test_classes_that_cannot_be_used_are_refused(classes, message):
    with pytest.raises(UserError, match=message):
        merged(RECORDS, classes)


def test_digits_of_a_file_become_two_classes(tmp_path):
    (tmp_path / "bind.fasta").write_text(">P1 SET=train\n0041\n>P2 SET=test\n7000\n")
    (tmp_path / "proteins.fasta").write_text(">P1\nMKTA\n>P2\nMKTV\n")
    found = read_labels(tmp_path / "bind.fasta", tmp_path / "proteins.fasta", classes={"b": "1234567"})
    assert found.targets[0].classes == ("0", "b")
    assert found.targets[0].y.tolist() == [0, 0, 1, 1, 1, 0, 0, 0]


def test_classes_of_letters_do_not_apply_to_a_table(tmp_path):
    (tmp_path / "table.csv").write_text("sequence,label\nMKTA,0041\n")
    with pytest.raises(UserError, match="classes: apply to a FASTA"):
        read_labels(tmp_path / "table.csv", classes={"b": "14"})


def test_nucleotides_are_refused_without_an_option_that_does_not_exist(tmp_path):
    (tmp_path / "bind.fasta").write_text(">P1 SET=train\n" + "01" * 30 + "\n")
    (tmp_path / "genes.fasta").write_text(">P1\n" + "ACGT" * 15 + "\n")
    with pytest.raises(UserError, match="looks like nucleotides.*translate it first$"):
        read_labels(tmp_path / "bind.fasta", tmp_path / "genes.fasta")
