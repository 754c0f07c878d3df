import gzip

import numpy as np
import pytest

from protlm.errors import UserError
from protlm.supervised.partition import by_column, by_groups, equal_sequences, folds_of, read_clusters


def test_groups_stay_together_and_every_protein_is_tested_once():
    groups = np.random.default_rng(0).integers(0, 30, 200)
    partition = by_groups(groups, 5, 0, "")
    assert np.sum([part.test for part in partition.rounds], axis=0).tolist() == [1] * 200
    for part in partition.rounds:
        assert not set(groups[part.train]) & set(groups[part.test])
        assert 25 <= part.test.sum() <= 55
    assert partition.final.train.all()


def test_a_split_without_a_test_part_is_cross_validated():
    parts = np.array(["train", "valid"] * 10)
    assert len(by_column(parts, np.arange(20)).rounds) == 5
    parts[:4] = "test"
    assert len(by_column(parts, np.arange(20)).rounds) == 1
    with pytest.raises(UserError, match="no training part"):
        by_column(np.array(["test"] * 3), np.arange(3))


def test_too_few_groups_are_refused():
    with pytest.raises(UserError, match="3 groups of related proteins; expected at least 5"):
        folds_of(np.array([0, 1, 2] * 10))


def test_clusters_are_read_by_identifier(tmp_path):
    path = tmp_path / "clusters.tsv"
    path.write_text("a\ta\na\tb\nc\tc\n")
    found = read_clusters(path, ["c", "b", "a"])
    assert found[1] == found[2] != found[0]
    with pytest.raises(UserError, match="1 of 2 proteins have no cluster, such as 'z'"):
        read_clusters(path, ["a", "z"])
    (tmp_path / "clusters.tsv.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert read_clusters(tmp_path / "clusters.tsv.gz", ["c", "b", "a"]).tolist() == found.tolist()
    path.write_text("a\ta\na\tb\nc\tb\n")
    with pytest.raises(UserError, match="'b' is in two clusters, 'a' and 'c'"):
        read_clusters(path, ["a"])
    path.write_text("a\ta\nb\n")
    with pytest.raises(UserError, match="line 2: 'b'; expected representative, tab, member"):
        read_clusters(path, ["a"])


def test_equal_sequences_share_a_group():
    assert (equal_sequences(["MK", "MKT", "MK"]) == np.array([0, 1, 0])).all()
