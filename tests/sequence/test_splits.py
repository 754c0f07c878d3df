import gzip
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from protlm.errors import UserError
from protlm.sequence.corpus import Corpus, prepare_corpus
from protlm.sequence.splits import OOD, SPLITS, TEST, TRAIN, VALID, SplitRule, digest, read_clusters, read_ids
from protlm.sequence.splits import unite_identical as unite

DIGESTS = [digest(b"%d" % number) for number in range(20_000)]


def test_the_hash_never_changes() -> None:
    # blake2b of b"MKT" with eight bytes, little-endian: corpora made long ago must keep their splits
    assert digest(b"MKT") == int.from_bytes(bytes.fromhex("6f9650fe4420ebf5"), "little")


@pytest.mark.parametrize(("valid", "test"), [(0.05, 0.1), (0.3, 0.0), (0.0, 0.5), (0.0, 0.0)])
def test_shares_are_as_asked_for(valid: float, test: float) -> None:
    rule = SplitRule(valid=valid, test=test)
    counts = Counter(rule.assign(f"p{i}", key) for i, key in enumerate(DIGESTS))
    for code, share in ((TRAIN, 1 - valid - test), (VALID, valid), (TEST, test), (OOD, 0)):
        assert counts[code] / len(DIGESTS) == pytest.approx(share, abs=0.01)


def test_growing_the_data_moves_no_protein() -> None:
    rule, later = SplitRule(), SplitRule(clusters={"new": "other"})
    assert [rule.assign("p", key) for key in DIGESTS[:500]] == [later.assign("p", key) for key in DIGESTS[:500]]


def test_clusters_stay_whole_and_get_their_shares() -> None:
    clusters = {f"p{i}": f"c{i // 4}" for i in range(len(DIGESTS))}
    rule = SplitRule(valid=0.2, test=0.2, clusters=clusters)
    codes = [rule.assign(f"p{i}", key) for i, key in enumerate(DIGESTS)]
    assert all(len(set(codes[start : start + 4])) == 1 for start in range(0, len(codes), 4))
    assert codes.count(TEST) / len(codes) == pytest.approx(0.2, abs=0.02)


def test_clusters_are_divided_when_asked() -> None:
    rule = SplitRule(valid=0.2, test=0.2, clusters=dict.fromkeys(map(str, range(100)), "c"), whole_clusters=False)
    assert {rule.assign(str(i), DIGESTS[i]) for i in range(100)} == {TRAIN, VALID, TEST}


@pytest.mark.parametrize("whole", [True, False])
def test_held_out_by_protein_and_by_cluster(whole: bool) -> None:
    clusters = {"a": "family", "b": "family", "c": "other"}
    rule = SplitRule(clusters=clusters, whole_clusters=whole, held_out=frozenset({"family", "alone"}))
    held_out = {name: rule.assign(name, 2**64 - 1) == OOD for name in ("a", "b", "c", "alone", "free")}
    assert held_out == {"a": True, "b": True, "c": False, "alone": True, "free": False}


@pytest.mark.parametrize(
    ("valid", "test"), [(-0.1, 0.1), (0.1, -0.1), (0.5, 0.5), (0.0, 1.0), (float("nan"), 0.1), (0.1, float("nan"))]
)
def test_shares_that_leave_nothing_to_train_are_refused(valid: float, test: float) -> None:
    with pytest.raises(UserError, match="expected numbers from 0"):
        SplitRule(valid=valid, test=test)


@given(st.data(), st.integers(1, 40))
def test_identical_sequences_never_straddle(data: st.DataObject, count: int) -> None:
    before = data.draw(arrays(np.uint8, count, elements=st.integers(0, 3)))
    keys = data.draw(arrays(np.uint64, count, elements=st.integers(0, 6)))
    codes = before.copy()
    moved = unite(codes, keys)
    assert moved == (codes != before).sum()
    for key in np.unique(keys):
        asked, got = before[keys == key], codes[keys == key]
        assert set(got) == {OOD if OOD in asked else asked[0]}


def test_identical_sequences_never_straddle_in_a_corpus(tmp_path: Path, write_fasta) -> None:
    # each sequence three times: in two clusters and in one that is held out for every fifth
    sequences = [f"MKT{'ACDEFGHIKL'[i % 10]}{'MNPQRSTVWY'[i // 10 % 10]}{'LAGV'[i // 100]}" for i in range(400)]
    names = [f"{copy}{i}" for copy in "abc" for i in range(400)]
    clusters = {name: f"cluster of {name}" for name in names}
    held_out = frozenset(f"cluster of c{i}" for i in range(0, 400, 5))
    fasta = write_fasta(zip(names, sequences * 3, strict=True))
    summary = prepare_corpus([fasta], tmp_path / "c.h5", SplitRule(0.2, 0.2, clusters, True, held_out))
    splits = Corpus(tmp_path / "c.h5").split.reshape(3, 400)
    assert (splits == splits[0]).all()
    assert ((splits[0] == OOD) == (np.arange(400) % 5 == 0)).all()
    assert summary.moved_to_identical > 100
    assert min(summary.proteins_by_split.values()) > 0


def test_the_demo_holds_its_families_out_whole(corpus_path: Path, sample: Path) -> None:
    corpus = Corpus(corpus_path)
    clusters = read_clusters(sample.with_name("families.clusters.tsv"))
    families = np.array([clusters[name] for name in corpus.ids()])
    held_out = read_ids(sample.with_name("families.ood.txt"))
    assert set(families[corpus.members("ood")]) == held_out
    for split in ("train", "valid", "test"):
        assert held_out.isdisjoint(families[corpus.members(split)])
        assert len(corpus.members(split))


def test_split_codes_are_those_of_the_file_format() -> None:
    assert [SPLITS[code] for code in (TRAIN, VALID, TEST, OOD)] == ["train", "valid", "test", "ood"]


def test_a_cluster_table_is_read(tmp_path: Path) -> None:
    path = tmp_path / "clusters.tsv"
    path.write_bytes(gzip.compress(b"a\ta\r\na\tb\n\nc\tc\n"))
    assert read_clusters(path) == {"a": "a", "b": "a", "c": "c"}


@pytest.mark.parametrize("line", ["a b", "a", "a\tb\tc", "\tb", "a\t "])
def test_a_malformed_cluster_table_names_the_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "clusters.tsv"
    path.write_text(f"a\ta\n\n{line}\nc\tc\n")
    with pytest.raises(UserError, match=r"clusters\.tsv, line 3: .*expected representative, tab, member"):
        read_clusters(path)


def test_lists_of_ids_may_have_comments(tmp_path: Path) -> None:
    path = tmp_path / "ids.txt"
    path.write_bytes(b"\xef\xbb\xbfQ1 # with a byte order mark\n# only a comment\n\n  Q2  \r\nQ3\n")
    assert read_ids(path) == {"Q1", "Q2", "Q3"}


@pytest.mark.parametrize("read", [read_clusters, read_ids])
def test_lists_that_cannot_be_read_are_named(tmp_path: Path, read) -> None:
    cut = tmp_path / "cut.gz"
    cut.write_bytes(gzip.compress(b"a\ta\n" * 1_000)[:-10])
    for path in (tmp_path / "absent", tmp_path, cut):
        with pytest.raises(UserError, match="cannot be read") as caught:
            read(path)
        assert str(path) in str(caught.value)
