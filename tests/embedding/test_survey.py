from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protlm.embedding import survey as module
from protlm.embedding.survey import Survey, survey
from protlm.errors import UserError
from protlm.sequence.fasta_files import FastaFiles


def surveyed(path: Path, duplicates: str = "error", identifier: str = "accession") -> Survey:
    return survey(FastaFiles([path], identifier=identifier), path.parent, duplicates)


def names(found: Survey) -> list[str]:
    return [found.names[index].decode() for index in range(len(found.names))]


def of_lengths(lengths: list[int]) -> Survey:
    every = np.array(lengths, dtype=np.int64)
    return Survey(np.ones(len(every), dtype=bool), None, every, np.zeros((len(every), 2), np.uint64), {})  # type: ignore[arg-type]


def test_the_content_of_a_file(write_fasta, tmp_path: Path) -> None:
    path = write_fasta([("sp|P1|A_B", "MkT"), ("none", ""), ("a/b", "MKTA"), ("c", "MKT")])
    before = sorted(tmp_path.iterdir())
    found = surveyed(path)
    assert names(found) == ["P1", "a_b", "c"]
    assert found.names.original(1) == b"a/b"
    assert found.names.changed() == 1
    assert found.lengths.tolist() == [3, 4, 3]
    assert found.proteins(0, 3).first.tolist() == [0, 1, 0]
    assert found.proteins(1, 3).first.tolist() == [0, 1]
    assert found.source["bytes"] == path.stat().st_size
    assert found.tally.records["left out, no sequence"] == 1
    assert sorted(tmp_path.iterdir()) == before
    assert names(surveyed(path, identifier="header"))[0] == "sp|P1|A_B"


@pytest.mark.parametrize(
    ("records", "words"),
    [
        (
            [("a", "MKT"), ("none", ""), ("sp|b|X_Y", "MK"), ("b", "MKV")],
            r"duplicate identifier 'b' \(records 3 and 4\)",
        ),
        ([("a/b", "MKT"), ("c", "MK"), ("a_b", "MK")], r"'a/b' and 'a_b' become the same \(records 1 and 3\)"),
    ],
)
def test_both_records_of_an_identifier_are_named(write_fasta, records, words: str) -> None:
    with pytest.raises(UserError, match=words):
        surveyed(write_fasta(records))


def test_suffixes_never_collide_with_an_existing_identifier(write_fasta) -> None:
    ids = ["X", "X_3", "X", "Y", "X", "X_2", "X", "Y", "a/b", "a_b", "X_2"]
    found = surveyed(write_fasta((name, "MKT") for name in ids), "suffix")
    assert names(found) == ["X", "X_3", "X_4", "Y", "X_5", "X_2", "X_6", "Y_2", "a_b", "a_b_2", "X_2_2"]
    assert found.keep.all()
    assert [found.names.original(index).decode() for index in range(len(ids))] == ids
    part = found.names.select(2, 9)
    assert [part[index].decode() for index in range(7)] == names(found)[2:9]


def test_only_the_first_duplicate_is_kept_on_request(write_fasta) -> None:
    path = write_fasta([("X", "MKT"), ("Y", "MK"), ("X", "MKV"), ("Z", "M"), ("Y", "MKT")])
    found = surveyed(path, "first")
    assert names(found) == ["X", "Y", "Z"]
    assert found.keep.tolist() == [True, True, False, True, False]
    assert found.lengths.tolist() == [3, 2, 1]
    other = write_fasta([("q/r", "MKT"), ("q_r", "MKL")], "other.fasta")
    with pytest.raises(UserError, match="'q/r' and 'q_r' become the same.*set duplicates to 'suffix'$"):
        surveyed(other, "first")


@pytest.mark.parametrize("policy", ["suffix", "first", "error"])
def test_equal_hashes_are_not_taken_for_equal_names(write_fasta, monkeypatch, policy: str) -> None:
    monkeypatch.setattr(module.xxhash, "xxh3_64_intdigest", lambda name: len(name))
    ids = ["a", "b", "cc", "dd", "e"]
    assert names(surveyed(write_fasta((name, "MKT") for name in ids), policy)) == ids
    twice = write_fasta((name, "MKT") for name in [*ids, "b"])
    if policy == "error":
        with pytest.raises(UserError, match=r"duplicate identifier 'b' \(records 2 and 6\)"):
            surveyed(twice, policy)
    else:
        assert len(set(names(surveyed(twice, policy)))) == 5 + (policy == "suffix")


@given(st.lists(st.integers(1, 900), min_size=1, max_size=80), st.integers(1, 9))
def test_shards_are_consecutive_and_of_about_equal_size(lengths: list[int], parts: int) -> None:
    found = of_lengths(lengths)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "WINDOW_TOKENS", 1_000)
        shards = [found.shard(part, parts).tolist() for part in range(1, parts + 1)]
    tokens = np.array(lengths) + 2
    for edges in shards:
        assert abs(tokens[edges[0] : edges[-1]].sum() - tokens.sum() / parts) <= tokens.max()
        for begin, end in pairwise(edges):
            assert end > begin
            assert tokens[begin:end].sum() <= 1_000 or end == begin + 1
            assert end == edges[-1] or tokens[begin : end + 1].sum() > 1_000
    assert shards[0][0] == 0
    assert shards[-1][-1] == len(lengths)
    for shard, after in pairwise(shards):
        assert shard[-1] == after[0]


def test_a_refused_name_is_reported_with_its_record(write_fasta) -> None:
    path = write_fasta([("a", "MKT"), ("none", ""), ("bad", "MK")])
    for invalid in ("error", "skip"):
        file = FastaFiles([path], invalid=invalid)
        file.refuse(lambda name: "not this one" if name == b"bad" else None)
        if invalid == "error":
            with pytest.raises(UserError, match=r"record 3 \(bad\), line 5: not this one"):
                survey(file, path.parent)
        else:
            found = survey(file, path.parent)
            assert [found.names[i] for i in range(len(found.names))] == [b"a"]
            assert found.tally.skipped == [f"skipped: {path}, record 3 (bad), line 5: not this one"]
            assert sum(len(chunk.sequences) for chunk in file.again().chunks()) == 1
