import gzip
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xxhash
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from protlm.corpus.prepare import prepare_corpus
from protlm.corpus.reader import Corpus
from protlm.corpus.splits import OOD, SPLITS, TEST, TRAIN, VALID, SplitRule, digests, read_clusters, read_ids
from protlm.errors import UserError
from protlm.sequence.fasta import FastaFile
from protlm.sequence.stream import Source

SEQUENCES = [
    "".join("ACDEFGHIKLMNPQRSTVWY"[number // 20**place % 20] for place in range(4)) for number in range(20_000)
]
HIGH = digests([sequence.encode() for sequence in SEQUENCES])[:, 0]


def by_hand(letters: str, valid: float, test: float) -> int:
    """The split as documented."""
    fraction = int(xxhash.xxh3_128_hexdigest(letters.encode())[:16], 16) / 2**64
    return TEST if fraction < test else VALID if fraction < test + valid else TRAIN


def table_of(path: Path) -> dict[str, str]:
    return {
        member.decode(): representative.decode()
        for block in read_clusters(Source(path))
        for member, representative in zip(*block, strict=True)
    }


def test_the_hash_never_changes() -> None:
    # corpora made long ago must keep their splits
    assert [f"{half:016x}" for half in digests([b"MKT"])[0]] == ["824f4b7216e7f0a0", "9d659fcc2c86db31"]


@given(st.lists(st.binary()))
def test_hashes_are_xxh3_of_128_bits_high_half_first(texts: list[bytes]) -> None:
    found = digests(texts)
    assert (found.shape, found.dtype) == ((len(texts), 2), np.uint64)
    assert [f"{high:016x}{low:016x}" for high, low in found.tolist()] == list(map(xxhash.xxh3_128_hexdigest, texts))


@pytest.mark.parametrize(("valid", "test"), [(0.05, 0.1), (0.3, 0.0), (0.0, 0.5), (0.0, 0.0)])
def test_splits_have_the_requested_shares(valid: float, test: float) -> None:
    codes = SplitRule(valid=valid, test=test).by_hash(HIGH)
    for code, share in ((TRAIN, 1 - valid - test), (VALID, valid), (TEST, test), (OOD, 0)):
        assert (codes == code).mean() == pytest.approx(share, abs=0.01)
        if not share:
            assert code not in codes


@given(st.lists(st.integers(0, 2**64 - 1)), st.floats(0, 0.5), st.floats(0, 0.49))
def test_hashes_below_test_are_test_and_the_next_ones_valid(hashes: list[int], valid: float, test: float) -> None:
    codes = SplitRule(valid=valid, test=test).by_hash(np.array(hashes, dtype=np.uint64))
    assert codes.dtype == np.uint8
    for value, code in zip(hashes, codes, strict=True):
        assert code == (TEST if value / 2**64 < test else VALID if value / 2**64 < test + valid else TRAIN)


def test_a_corpus_is_split_as_documented(tmp_path: Path, write_fasta) -> None:
    fasta = write_fasta((f"p{i}", sequence) for i, sequence in enumerate(SEQUENCES[:2_000]))
    prepare_corpus([fasta], tmp_path / "c.h5", SplitRule(0.2, 0.3))
    assert Corpus(tmp_path / "c.h5").split.tolist() == [by_hand(letters, 0.2, 0.3) for letters in SEQUENCES[:2_000]]


def test_splits_do_not_depend_on_order_or_other_files(tmp_path: Path, write_fasta) -> None:
    records = [(f"p{i}", sequence) for i, sequence in enumerate(SEQUENCES[:1_000])]
    first = write_fasta(records[:500], "first.fasta")
    backwards = write_fasta([*reversed(records[:500])], "backwards.fasta")
    more = write_fasta(records[500:], "more.fasta")
    splits = []
    for fastas in ([first], [backwards], [more, first], [first, more]):
        prepare_corpus(fastas, tmp_path / "c.h5", SplitRule(0.2, 0.2))
        corpus = Corpus(tmp_path / "c.h5")
        splits.append(dict(zip(corpus.ids(), corpus.split.tolist(), strict=True)))
    assert splits[0] == splits[1]
    assert splits[2] == splits[3]
    assert splits[0].items() <= splits[2].items()
    assert len(set(splits[0].values())) == 3


def test_new_rows_of_the_cluster_table_move_only_their_own_proteins(tmp_path: Path, write_fasta) -> None:
    fasta = write_fasta((f"p{i}", sequence) for i, sequence in enumerate(SEQUENCES[:500]))
    (tmp_path / "clusters.tsv").write_text("p0\tp0\n")
    prepare_corpus([fasta], tmp_path / "a.h5", SplitRule())
    summary = prepare_corpus([fasta], tmp_path / "b.h5", SplitRule(clusters=tmp_path / "clusters.tsv"))
    assert (Corpus(tmp_path / "a.h5").split == Corpus(tmp_path / "b.h5").split)[1:].all()
    assert summary.without_cluster == 499


def test_clusters_stay_whole_and_get_their_shares(tmp_path: Path, write_fasta) -> None:
    fasta = write_fasta((f"p{i}", sequence) for i, sequence in enumerate(SEQUENCES))
    table = tmp_path / "clusters.tsv"
    table.write_text("".join(f"c{i // 4}\tp{i}\n" for i in range(len(SEQUENCES))))
    summary = prepare_corpus([fasta], tmp_path / "c.h5", SplitRule(valid=0.2, test=0.2, clusters=table))
    corpus = Corpus(tmp_path / "c.h5")
    codes = corpus.split.reshape(-1, 4)
    assert (codes == codes[:, :1]).all()
    assert codes[:, 0].tolist() == [by_hand(f"c{i}", 0.2, 0.2) for i in range(len(codes))]
    assert (codes == TEST).mean() == pytest.approx(0.2, abs=0.02)
    assert summary.clusters == len(SEQUENCES) // 4
    for name in ("train", "valid", "test"):
        assert set(np.diff(corpus.groups(name))) == {4}


def test_clusters_are_divided_on_request(tmp_path: Path, write_fasta) -> None:
    fasta = write_fasta((str(i), sequence) for i, sequence in enumerate(SEQUENCES[:100]))
    table = tmp_path / "clusters.tsv"
    table.write_text("".join(f"c\t{i}\n" for i in range(100)))
    prepare_corpus([fasta], tmp_path / "c.h5", SplitRule(0.2, 0.2, table, whole_clusters=False))
    corpus = Corpus(tmp_path / "c.h5")
    assert corpus.split.tolist() == [by_hand(letters, 0.2, 0.2) for letters in SEQUENCES[:100]]
    assert set(corpus.split) == {TRAIN, VALID, TEST}
    assert corpus.clusters is not None
    assert len(set(corpus.clusters.tolist())) == 1


@pytest.mark.parametrize("whole", [True, False])
def test_held_out_by_protein_and_by_cluster(tmp_path: Path, write_fasta, whole: bool) -> None:
    fasta = write_fasta((name, SEQUENCES[i]) for i, name in enumerate(["a", "b", "c", "alone", "free"]))
    table = tmp_path / "clusters.tsv"
    table.write_text("family\ta\nfamily\tb\nother\tc\n")
    rule = SplitRule(clusters=table, whole_clusters=whole, held_out=frozenset({"family", "alone", "nobody"}))
    summary = prepare_corpus([fasta], tmp_path / "c.h5", rule)
    assert (Corpus(tmp_path / "c.h5").split == OOD).tolist() == [True, True, False, True, False]
    assert summary.not_found == ["nobody"]
    assert summary.proteins_by_split["ood"] == 3


def test_one_protein_of_a_cluster_can_be_held_out(tmp_path: Path, write_fasta) -> None:
    fasta = write_fasta([("a", SEQUENCES[1]), ("b", SEQUENCES[2])])
    (tmp_path / "clusters.tsv").write_text("family\ta\nfamily\tb\n")
    rule = SplitRule(clusters=tmp_path / "clusters.tsv", held_out=frozenset({"b"}))
    prepare_corpus([fasta], tmp_path / "c.h5", rule)
    assert (Corpus(tmp_path / "c.h5").split == OOD).tolist() == [False, True]


@pytest.mark.parametrize(
    ("valid", "test"), [(-0.1, 0.1), (0.1, -0.1), (0.5, 0.5), (0.0, 1.0), (float("nan"), 0.1), (0.1, float("nan"))]
)
def test_shares_without_training_proteins_are_refused(valid: float, test: float) -> None:
    with pytest.raises(UserError, match="expected fractions of at least 0 with a sum below 1"):
        SplitRule(valid=valid, test=test)


@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from("ABCDEFG"), st.booleans()), min_size=1, max_size=40))
def test_identical_sequences_share_a_split(fresh: Callable[[], Path], records: list[tuple[str, bool]]) -> None:
    folder = fresh()
    (folder / "a.fasta").write_text("".join(f">p{i}\n{copy}W\n" for i, (copy, _) in enumerate(records)))
    (folder / "clusters.tsv").write_text("".join(f"cluster of {i}\tp{i}\n" for i in range(len(records))))
    held_out = frozenset(f"p{i}" for i, (_, held) in enumerate(records) if held)
    rule = SplitRule(0.3, 0.3, folder / "clusters.tsv", True, held_out)
    before = [OOD if held else by_hand(f"cluster of {i}", 0.3, 0.3) for i, (_, held) in enumerate(records)]
    summary = prepare_corpus([folder / "a.fasta"], folder / "c.h5", rule)
    codes = Corpus(folder / "c.h5").split
    assert summary.moved_to_identical == (codes != before).sum()
    for sequence in {sequence for sequence, _ in records}:
        rows = [i for i, (other, _) in enumerate(records) if other == sequence]
        previous = [before[i] for i in rows]
        assert set(codes[rows]) == {OOD if OOD in previous else previous[0]}


def test_identical_sequences_share_a_split_in_a_corpus(tmp_path: Path, write_fasta) -> None:
    # each sequence three times: in two clusters and in one that is held out for every fifth
    sequences = [f"MKT{'ACDEFGHIKL'[i % 10]}{'MNPQRSTVWY'[i // 10 % 10]}{'LAGV'[i // 100]}" for i in range(400)]
    names = [f"{copy}{i}" for copy in "abc" for i in range(400)]
    table = tmp_path / "clusters.tsv"
    table.write_text("".join(f"cluster of {name}\t{name}\n" for name in names))
    held_out = frozenset(f"cluster of c{i}" for i in range(0, 400, 5))
    fasta = write_fasta(zip(names, sequences * 3, strict=True))
    summary = prepare_corpus([fasta], tmp_path / "c.h5", SplitRule(0.2, 0.2, table, True, held_out))
    splits = Corpus(tmp_path / "c.h5").split.reshape(3, 400)
    assert (splits == splits[0]).all()
    assert ((splits[0] == OOD) == (np.arange(400) % 5 == 0)).all()
    assert summary.moved_to_identical > 100
    assert min(summary.proteins_by_split.values()) > 0


def test_the_demo_holds_out_whole_families(corpus_path: Path, sample: Path) -> None:
    corpus = Corpus(corpus_path)
    clusters = table_of(sample.with_name("families.clusters.tsv"))
    families = np.array([clusters[name] for name in corpus.ids()])
    held_out = read_ids(sample.with_name("families.ood.txt"))
    assert set(families[corpus.members("ood")]) == held_out
    for split in ("train", "valid", "test"):
        assert held_out.isdisjoint(families[corpus.members(split)])
        assert len(corpus.members(split))


def test_the_demo_has_one_cluster_per_family(corpus_path: Path, sample: Path) -> None:
    corpus = Corpus(corpus_path)
    clusters = table_of(sample.with_name("families.clusters.tsv"))
    families = [clusters[record.id] for record in FastaFile(sample)]
    assert corpus.clusters is not None
    pairs = Counter(zip(families, corpus.clusters.tolist(), strict=True))
    assert len(pairs) == len(set(families)) == len(set(corpus.clusters.tolist()))


def test_split_codes_are_those_of_the_file_format() -> None:
    assert [SPLITS[code] for code in (TRAIN, VALID, TEST, OOD)] == ["train", "valid", "test", "ood"]


@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstandard.compress])
def test_a_cluster_table_is_read(tmp_path: Path, compress) -> None:
    path = tmp_path / "clusters.tsv"
    path.write_bytes(compress(b"a\ta\r\na\tb\n\nc\tc\n"))
    assert list(read_clusters(Source(path))) == [([b"a", b"b", b"c"], [b"a", b"a", b"c"])]
    assert list(read_clusters(Source(path), rows=2)) == [([b"a", b"b"], [b"a", b"a"]), ([b"c"], [b"c"])]


@pytest.mark.parametrize("line", ["a b", "a", "a\tb\tc", "\tb", "a\t "])
def test_a_malformed_cluster_table_names_the_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "clusters.tsv"
    path.write_text(f"a\ta\n\n{line}\nc\tc\n")
    with pytest.raises(UserError, match=r"clusters\.tsv, line 3: .*expected representative, tab, member"):
        list(read_clusters(Source(path)))


def test_lists_of_ids_may_have_comments(tmp_path: Path) -> None:
    path = tmp_path / "ids.txt"
    path.write_bytes(b"\xef\xbb\xbfQ1 # with a byte order mark\n# only a comment\n\n  Q2  \r\nQ3\n")
    assert read_ids(path) == {"Q1", "Q2", "Q3"}


def test_the_headers_of_a_fasta_file_are_a_list_of_ids(tmp_path: Path) -> None:
    """Not its sequences, of which half could be missing without a word."""
    path = tmp_path / "held_out.fasta"
    path.write_text(">sp|Q1|A_B Protein\nMKT\n>Q2\nMKV\nMKW\n")
    assert read_ids(path) == {">sp|Q1|A_B Protein", ">Q2"}  # compared as Q1 and Q2


def test_a_list_without_identifiers_is_refused(tmp_path: Path) -> None:
    """It would hold nothing out."""
    path = tmp_path / "held_out.txt"
    for text in ("", "\n \n", "# families\n"):
        path.write_text(text)
        with pytest.raises(UserError, match=r"held_out\.txt: no identifiers; expected one protein"):
            read_ids(path)


@pytest.mark.parametrize("read", [lambda path: list(read_clusters(Source(path))), read_ids], ids=["clusters", "ids"])
@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("absent", "no such file"),
        (".", "is a folder"),
        ("cut.gz", "cannot be read"),
        ("utf16.txt", "expected text, found UTF-16 text; save it as UTF-8"),
        ("binary", "found binary data"),
    ],
)
def test_unreadable_lists_are_named(tmp_path: Path, read, name: str, match: str) -> None:
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"a\ta\n" * 1_000)[:-10])
    (tmp_path / "utf16.txt").write_text("a\ta\n", encoding="utf-16")
    (tmp_path / "binary").write_bytes(b"a\0b\n")
    with pytest.raises(UserError, match=match) as caught:
        read(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)
