import pandas
import pytest

from protlm.errors import UserError
from protlm.supervised.labels import read_labels
from tests.supervised.proteins import table


@pytest.fixture
def fasta(write_fasta):
    return write_fasta([("a", "MKT"), ("b", "MKTAY"), ("c", "MM"), ("d", "MKKK")])


def test_tables_frames_and_parquet_give_the_same_labels(tmp_path):
    frame = pandas.DataFrame({"sequence": ["MKT", "MKV"], "y": [1.25, None], "split": ["train", "test"]})
    frame.to_csv(tmp_path / "labels.csv", index=False)
    frame.to_parquet(tmp_path / "labels.parquet")
    sets = [read_labels(one) for one in (frame, tmp_path / "labels.csv", tmp_path / "labels.parquet")]
    assert len({one.fingerprint for one in sets}) == 1
    assert sets[0].parts is not None
    assert sets[0].parts.tolist() == ["train", "test"]
    assert sets[0].targets[0].y.tolist() == [1.25]
    frame.loc[0, "y"] = 1.5
    assert read_labels(frame).fingerprint != sets[0].fingerprint


def test_sequences_come_from_a_fasta_file(tmp_path, fasta):
    table(tmp_path / "labels.tsv", [("b", "x"), ("a", "y")], "id\tlabel")
    labelled = read_labels(tmp_path / "labels.tsv", fasta)
    assert labelled.sequences == ["MKTAY", "MKT"]
    assert "2 proteins without a row" in labelled.notes[0]


def test_an_identifier_of_two_sequences_is_refused(tmp_path, write_fasta):
    (tmp_path / "labels.tsv").write_text("id\tx\na\t1\nb\t2\n")
    twice = write_fasta([("a", "MKT"), ("b", "MKTAY"), ("a", "MMM")])
    with pytest.raises(UserError, match="record 3: identifier 'a' again, with another sequence; rename one"):
        read_labels(tmp_path / "labels.tsv", twice)
    same = write_fasta([("a", "MKT"), ("b", "MKTAY"), ("a", "MKT")])
    assert read_labels(tmp_path / "labels.tsv", same).sequences == ["MKT", "MKTAY"]


def test_strings_of_flip_have_parts_and_a_mask(tmp_path, fasta):
    labels, mask = tmp_path / "labels.fasta", tmp_path / "mask.fasta"
    labels.write_text(
        ">a SET=train VALIDATION=False\nHEC\n>b SET=train VALIDATION=True\nHH\nHEC\n>c SET=test VALIDATION=False\nEE\n"
    )
    mask.write_text(">a\n011\n>b\n11111\n>c\n10\n")
    labelled = read_labels(labels, fasta, mask)
    assert labelled.parts is not None
    assert labelled.parts.tolist() == ["train", "valid", "test"]
    (target,) = labelled.targets
    assert [target.position[target.owner == owner].tolist() for owner in range(3)] == [[1, 2], [0, 1, 2, 3, 4], [0]]
    labels.write_text(labels.read_text().replace("\n", "X\n", 2).replace("X\n", "\n", 1))
    with pytest.raises(UserError, match=r"labels.fasta, record 1: 4 labels for 3 residues"):
        read_labels(labels, fasta, mask)


def test_flips_second_column_marks_the_validation_part(tmp_path):
    rows = [("MKT", "1.5", "train", ""), ("MKV", "2.5", "train", "True"), ("MKI", "0.5", "test", "")]
    table(tmp_path / "labels.tsv", rows, "sequence\ttarget\tset\tvalidation")
    labelled = read_labels(tmp_path / "labels.tsv")
    assert labelled.parts is not None
    assert labelled.parts.tolist() == ["train", "valid", "test"]
    assert [target.name for target in labelled.targets] == ["target"]


@pytest.mark.parametrize(
    ("columns", "rows", "options", "message"),
    [
        ("sequence\tlabel", [], {}, "no rows after the header"),
        ("protein\tlabel", [("MKT", "x")], {}, "no column 'sequence'; found: protein, label"),
        ("sequence\tx\ty", [("MKT", "1", "2")], {}, "expected target, the column with the labels; found: x, y"),
        ("sequence\tx", [("MKT", "1")], {"targets": ["z"]}, "no column 'z'; found: sequence, x"),
        (
            "sequence\tx\tsplit",
            [("MKT", "1", "holdout")],
            {},
            "row 1: split is 'holdout'; expected",
        ),
        ("sequence\tx", [("MK1", "1")], {}, "row 1: sequence: '1' at position 3 is not a residue"),
        ("sequence\tx", [("", "1")], {}, "row 1: sequence is blank"),
        ("id\tx", [("q", "1")], {"fasta": True}, "1 id not in .*, such as 'q'"),
        ("sequence\tx", [("MKT", "1")], {"kinds": {"y": "regression"}}, "kind of 'y': not a target"),
    ],
)
def test_tables_that_cannot_be_used_are_refused(tmp_path, fasta, columns, rows, options, message):
    table(tmp_path / "labels.tsv", rows, columns)
    sequences = fasta if options.pop("fasta", False) else None
    with pytest.raises(UserError, match=message):
        read_labels(tmp_path / "labels.tsv", sequences, **options)


def test_strings_of_another_length_are_refused_with_their_record(tmp_path, fasta):
    labels = tmp_path / "labels.fasta"
    labels.write_text(">a SET=train\nHEC\n>b SET=test\nHE\n")
    with pytest.raises(UserError, match="record 2: 2 labels for 5 residues"):
        read_labels(labels, fasta)
    with pytest.raises(UserError, match="expected sequences, a FASTA file"):
        read_labels(labels)


def test_equal_sequences_with_different_labels_are_counted():
    frame = pandas.DataFrame({"sequence": ["MKTA", "MKTA", "MKV", "MKV", "MMMMM"], "label": ["a", "b", "a", "a", "b"]})
    assert read_labels(frame).notes == ["label: 2 proteins with a sequence that occurs with different labels"]
    assert read_labels(frame.assign(label=[1.25, 2.5, 1, 1.125, 2], kind="x"), targets=["label"]).notes == []
