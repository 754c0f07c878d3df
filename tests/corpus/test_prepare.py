import bz2
import gzip
import lzma
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import xxhash
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from protlm.corpus.ingest import Selection
from protlm.corpus.prepare import prepare_corpus
from protlm.corpus.reader import Corpus
from protlm.corpus.splits import OOD, SPLITS, TEST, TRAIN, VALID, SplitRule
from protlm.errors import UserError
from protlm.sequence.alphabet import decode
from protlm.sequence.fasta import FastaFile

COMPRESSIONS = {
    "plain": bytes,
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstandard.compress,
}


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def sequences_of(corpus: Corpus) -> list[str]:
    return [decode(corpus[i]) for i in range(len(corpus))]


def content_of(path: Path) -> dict[str, Any]:
    """All datasets of a corpus, and all attributes except the sources."""
    with h5py.File(path) as file:
        datasets = {name: (str(dataset.dtype), dataset[:].tolist()) for name, dataset in file.items()}
        attributes = {name: np.asarray(value).tolist() for name, value in file.attrs.items() if name != "sources"}
    return {**datasets, "attributes": attributes}


def in_blocks_of(patch: pytest.MonkeyPatch, rows: int) -> None:
    """As if only this many rows fitted in memory."""
    patch.setattr("protlm.corpus.external_sort._ROWS", rows)
    patch.setattr("protlm.corpus.assignment.ROWS", rows)
    patch.setattr("protlm.corpus.writer.ROWS", rows)
    patch.setattr("protlm.corpus.layout.ROWS", rows)
    patch.setattr("protlm.corpus.writer._TOKENS", 3 * rows)


names = st.sampled_from([f"p{i}" for i in range(12)])
records_in_files = st.lists(
    st.lists(st.tuples(names, st.sampled_from(["MKT", "MKV", "WW", "GGA", "M" * 30, "C"])), max_size=12),
    min_size=1,
    max_size=3,
).filter(lambda files: any(files))


@settings(max_examples=80)
@given(
    files=records_in_files,
    clusters=st.none() | st.dictionaries(names, st.sampled_from(["c0", "c1", "c2", "p0", "p1"]), min_size=1),
    held_out=st.frozensets(names | st.sampled_from(["c0", "c1", "nobody"]), max_size=4),
    whole=st.booleans(),
    deduplicate=st.booleans(),
    rows=st.sampled_from([1, 2, 5, 1 << 16]),
    parts=st.sampled_from([1, 3]),
)
def test_a_corpus_equals_a_plain_implementation_with_dictionaries(
    fresh: Callable[[], Path],
    files: list[list[tuple[str, str]]],
    clusters: dict[str, str] | None,
    held_out: frozenset[str],
    whole: bool,
    deduplicate: bool,
    rows: int,
    parts: int,
) -> None:
    folder = fresh()
    paths = [folder / f"{number}.fasta" for number, file in enumerate(files) if file]
    for path in paths:
        path.write_text("".join(f">{name}\n{letters}\n" for name, letters in files[int(path.stem)]))
    table = folder / "table.tsv" if clusters is not None else None
    if table is not None:
        table.write_text("".join(f"{cluster}\t{name}\n" for name, cluster in (clusters or {}).items()))
    with pytest.MonkeyPatch.context() as patch:
        in_blocks_of(patch, rows)
        patch.setattr("protlm.corpus.workers.Workers.__enter__", lambda self: self)  # all parts in this process
        rule, selection = SplitRule(0.3, 0.3, table, whole, held_out), Selection(allow_nucleotides=True)
        records = list(chain.from_iterable(files))
        present, rows_of_table = {name for name, _ in records}, clusters or {}
        found = present | {rows_of_table.get(name, name) for name, _ in records}
        outside = sum(name not in rows_of_table for name, _ in records)
        if (clusters and 2 * len(present & clusters.keys()) < len(clusters) and 2 * outside > len(records)) or (
            2 * len(held_out & found) < len(held_out)
        ):
            with pytest.raises(UserError, match="expected the same identifiers"):
                prepare_corpus(paths, folder / "c.h5", rule, selection, deduplicate, parts)
            assert not (folder / "c.h5").exists()
            return
        summary = prepare_corpus(paths, folder / "c.h5", rule, selection, deduplicate, parts)
    corpus = Corpus(folder / "c.h5")

    cluster_of = [(clusters or {}).get(name, name) for name, _ in records]
    own: list[int] = []
    for (name, letters), cluster in zip(records, cluster_of, strict=True):
        text = cluster if whole and name in (clusters or {}) else letters
        fraction = int(xxhash.xxh3_128_hexdigest(text.encode())[:16], 16) / 2**64
        held = name in held_out or (clusters is not None and cluster in held_out)
        own.append(OOD if held else TEST if fraction < 0.3 else VALID if fraction < 0.6 else TRAIN)
    united: dict[str, int] = {}
    for (_, letters), code in zip(records, own, strict=True):
        united[letters] = OOD if code == OOD else united.get(letters, code)
    first: dict[str, int] = {}
    kept, merged = [], {}
    for number, (name, letters) in enumerate(records):
        if deduplicate and letters in first:
            merged[name] = first[letters]
        else:
            first.setdefault(letters, len(kept))
            kept.append(number)

    assert corpus.ids() == [records[i][0] for i in kept]
    assert sequences_of(corpus) == [records[i][1] for i in kept]
    assert corpus.split.tolist() == [united[records[i][1]] for i in kept]
    assert corpus.merged() == merged
    assert corpus.offsets.tolist() == np.cumsum([0, *(len(records[i][1]) for i in kept)]).tolist()
    assert (summary.proteins, summary.residues) == (len(kept), int(corpus.offsets[-1]))
    assert summary.merged == len(records) - len(kept)
    assert summary.duplicates == len(records) - len(present)
    assert summary.not_found == sorted(held_out - found)
    if not deduplicate:
        moved = sum(code != united[letters] for (_, letters), code in zip(records, own, strict=True))
        assert summary.moved_to_identical == moved
        assert summary.without_cluster == (sum(name not in clusters for name, _ in records) if clusters else 0)
        assert summary.clusters == (len(set(cluster_of)) if clusters is not None else 0)

    if clusters is None:
        assert corpus.clusters is None
    else:
        assert corpus.clusters is not None
        pairs = {(cluster_of[i], int(number)) for i, number in zip(kept, corpus.clusters, strict=True)}
        assert len(pairs) == len({cluster_of[i] for i in kept}) == len(set(corpus.clusters.tolist()))
    for code, split in enumerate(SPLITS):
        proteins = np.flatnonzero(corpus.split == code)
        tokens = np.concatenate([np.zeros(0, np.uint8), *(corpus[i] for i in proteins)])
        assert corpus.residue_counts[code].tolist() == np.bincount(tokens, minlength=33).tolist()
        assert summary.proteins_by_split[split] == len(proteins)
        if corpus.clusters is None:
            assert corpus.members(split).tolist() == proteins.tolist()
            with pytest.raises(UserError, match="has no clusters"):
                corpus.groups(split)
        else:
            order = sorted(proteins.tolist(), key=lambda i: (corpus.clusters[i], i))
            assert corpus.members(split).tolist() == order
            numbers = corpus.clusters[order]
            starts = [i for i in range(len(order)) if not i or numbers[i] != numbers[i - 1]]
            assert corpus.groups(split).tolist() == [*starts, len(order)]


def test_many_partitions_and_blocks_give_the_same_corpus_as_one(tmp_path: Path, sample: Path, monkeypatch) -> None:
    halves = [tmp_path / "first.fasta", tmp_path / "second.fasta"]
    records = list(FastaFile(sample))
    records = [*records[:150], *records[100:200], *records[-50:]]
    middle = len(records) // 3
    for path, some in zip(halves, (records[:middle], records[middle:]), strict=True):
        path.write_text("".join(f">{record.id}\n{record.sequence}\n" for record in some))
    held_out = frozenset({records[0].id, records[-1].id})
    rule = SplitRule(0.1, 0.1, sample.with_name("families.clusters.tsv"), True, held_out)
    prepare_corpus(halves, tmp_path / "whole.h5", rule, deduplicate=True)
    whole = content_of(tmp_path / "whole.h5")
    in_blocks_of(monkeypatch, 5)
    monkeypatch.setattr("protlm.corpus.workers.Workers.__enter__", lambda self: self)  # all parts in this process
    for parts in (1, 2):
        prepare_corpus(halves, tmp_path / "blocks.h5", rule, None, True, parts)
        assert content_of(tmp_path / "blocks.h5") == whole


def test_a_member_is_in_one_cluster(tmp_path: Path, write_fasta) -> None:
    """Otherwise, as if the columns were swapped, its cluster would be anyone's guess; equal rows are harmless."""
    fasta, table = write_fasta([("a", "MKT"), ("b", "MKV"), ("c", "MKW")]), tmp_path / "table.tsv"
    for text, number, example in (
        ("one\ta\none\tb\ntwo\tc\ntwo\ta\n", "1 identifier", "a"),
        ("a\ta\nb\ta\nb\tb\nc\tb\n", "2 identifiers", "[ab]"),  # member, representative
    ):
        table.write_text(text)
        words = rf"table\.tsv: {number} in more than one cluster, such as '{example}'; expected representative, tab,"
        with pytest.raises(UserError, match=words):
            prepare_corpus([fasta], tmp_path / "c.h5", SplitRule(0, 0, table))
    assert not (tmp_path / "c.h5").exists()
    table.write_text("one\ta\none\tb\ntwo\tc\none\ta\n")
    prepare_corpus([fasta], tmp_path / "c.h5", SplitRule(0, 0, table))
    clusters = Corpus(tmp_path / "c.h5").clusters
    assert clusters is not None
    assert clusters[0] == clusters[1] != clusters[2]


def test_a_file_given_twice_is_refused(tmp_path: Path, write_fasta, monkeypatch) -> None:
    fasta = write_fasta([("a", "MKT")])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=f"{fasta.name}: is given twice"):
        prepare_corpus([fasta, fasta.name], tmp_path / "c.h5")


def test_counts_before_merging_cover_all_records(tmp_path: Path, write_fasta) -> None:
    fasta = write_fasta([("a", "MKT"), ("b", "MKT"), ("c", "MKT"), ("d", "MKW")])
    (tmp_path / "table.tsv").write_text("family\ta\nother\tb\nthird\td\n")
    rule = SplitRule(0, 0, tmp_path / "table.tsv", held_out=frozenset({"b"}))
    summary = prepare_corpus([fasta], tmp_path / "c.h5", rule, deduplicate=True)
    assert Corpus(tmp_path / "c.h5").ids() == ["a", "d"]
    # a and c move to ood, where b is; c is in no cluster; merged records count, too
    assert (summary.merged, summary.moved_to_identical, summary.without_cluster, summary.clusters) == (2, 2, 1, 4)


# whole files


def test_findings_in_files_are_counted_and_recorded(tmp_path: Path) -> None:
    content = (
        b">sp|P1|A_B x (Fragment)\r\nMKT\r\n>b\r\nmK-T*\r\n>b\r\n\r\n>long\r\nMKTMKTMKT\r\n>o\r\nMKU\r\n>s\r\nM*K\r\n"
    )
    (tmp_path / "some.fasta").write_bytes(content)
    (tmp_path / "more.fasta.gz").write_bytes(gzip.compress(b">b\nMJV\n"))
    selection = Selection(min_length=3, max_length=5, fragments=False, nonstandard="drop", identifier="word")
    rule = SplitRule(0.25, 0.5, held_out=frozenset({"b", "none"}))
    paths = [tmp_path / "some.fasta", tmp_path / "more.fasta.gz"]
    summary = prepare_corpus(paths, tmp_path / "c.h5", rule, selection, True)
    corpus = Corpus(tmp_path / "c.h5")
    assert (corpus.ids(), sequences_of(corpus)) == (["b"], ["MKT"])
    changes = {
        "lower case made upper case": {"records": 1, "residues": 1},
        "gap removed": {"records": 1, "residues": 1},
        "final stop removed": {"records": 1, "residues": 1},
        "inner stop replaced by X": {"records": 1, "residues": 1},
        "J replaced by X": {"records": 1, "residues": 1},
        "left out, no sequence": {"records": 1, "residues": 0},
        "left out, fragment": {"records": 1, "residues": 3},
        "left out, longer than 5 residues": {"records": 1, "residues": 9},
        "left out, residues that are none of the twenty": {"records": 3, "residues": 9},
    }
    assert summary.tally.to_dict() == corpus.attributes["changes"] == changes
    assert corpus.attributes["sources"] == [
        {"name": path.name, "bytes": path.stat().st_size, "xxh3_128": xxhash.xxh3_128_hexdigest(path.read_bytes())}
        for path in paths
    ]
    options = {"min_length": 3, "max_length": 5, "fragments": False, "nonstandard": "drop", "identifier": "word"}
    rest = {"valid": 0.25, "test": 0.5, "clusters": None, "whole_clusters": False, "deduplicate": True}
    held_out = {"ids": 2, "xxh3_128": xxhash.xxh3_128_hexdigest(b"b\nnone")}
    assert corpus.attributes["options"] == {**options, **rest, "allow_nucleotides": False, "held_out": held_out}
    text = "\n".join(summary.describe("c.h5"))
    for line in summary.tally.describe():
        assert line in text
    assert text.startswith("c.h5: 1 protein, 3 residues (train 0, valid 0, test 0, ood 1)")
    assert "warning: 1 identifier to hold out not in the files: none" in text


def test_the_cluster_table_is_recorded_by_name(tmp_path: Path, write_fasta) -> None:
    (tmp_path / "table.tsv").write_text("a\ta\n")
    fasta = write_fasta([("a", "MKT"), ("b", "MKT")])
    summary = prepare_corpus([fasta], tmp_path / "c.h5", SplitRule(clusters=tmp_path / "table.tsv"))
    options = Corpus(tmp_path / "c.h5").attributes["options"]
    assert (options["clusters"]["name"], options["whole_clusters"]) == ("table.tsv", True)
    assert "1 record: not in the cluster table; each is a cluster of its own" in summary.describe("c.h5")


@pytest.mark.parametrize(
    ("identifier", "expected"),
    [
        ("accession", ["P1", "Q1", "UniRef50_P1", "UPI0000000001", "plain", "gi|1|x"]),
        ("word", ["sp|P1|A_B", "tr|Q1|C_D", "UniRef50_P1", "UPI0000000001", "plain", "gi|1|x"]),
    ],
)
def test_proteins_are_identified_as_requested(
    tmp_path: Path, write_fasta, identifier: str, expected: list[str]
) -> None:
    words = ["sp|P1|A_B", "tr|Q1|C_D", "UniRef50_P1", "UPI0000000001", "plain", "gi|1|x"]
    fasta = write_fasta((f"{word} some text", "MKT") for word in words)
    prepare_corpus([fasta], tmp_path / "c.h5", selection=Selection(identifier=identifier))
    assert Corpus(tmp_path / "c.h5").ids() == expected


@pytest.mark.parametrize("length", [35_213, 4_095, 4_096, 4_097])
@pytest.mark.parametrize("compress", COMPRESSIONS.values(), ids=COMPRESSIONS)
def test_long_proteins_round_trip(tmp_path: Path, length: int, compress: Callable[[bytes], bytes]) -> None:
    letters = "".join("ACDEFGHIKLMNPQRSTVWY"[i * i % 20] for i in range(length))
    (tmp_path / "a").write_bytes(compress(f">a\n{letters}\n>b\nMKT\n".encode()))
    prepare_corpus([tmp_path / "a"], tmp_path / "c.h5")
    assert sequences_of(Corpus(tmp_path / "c.h5")) == [letters, "MKT"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "no such file"),
        (b"", "is empty"),
        (b"\n \r\n", "is empty"),
        (b"ID   P1\nSQ   MKT\n", "expected FASTA, found UniProt's text format"),
        (b"\n\n;comment\n>a\nMKT\n", "line 3: not FASTA"),
        (b">a\nMKT\n>b\nMK1\n", "record 2 (b), line 4: '1'"),
        (b">a\nMKT\n>b\nM\0T\n", "record 2 (b), line 4"),
        (b">a\nMKT\n>\0b\nMKT\n", "record 2, line 3: NUL"),
        (b">a\nMKT\n>\nMKT\n", "record 2, line 3: no identifier"),
        (b">a\n" + b"ACGTN" * 10, "nucleotides"),
        (b">a\nMKT\n>b\n" + b"M" * 1_200_000, "record 2: longer than 1,000,000 characters"),
        (gzip.compress(b">a\nMKT\n" * 99, mtime=0)[:-9], "damaged or cut short"),
        (b">a\n>b\n*\n", "left out, no sequence"),
    ],
)
def test_an_unusable_file_is_named_and_nothing_changes(
    tmp_path: Path, sample: Path, content: bytes | None, words: str
) -> None:
    path, out = tmp_path / "bad.fasta", tmp_path / "out.h5"
    if content is not None:
        path.write_bytes(content)
    for before in (None, b"precious"):
        if before:
            out.write_bytes(before)
        names = listing(tmp_path)
        for fastas in ([path], [sample, path]):
            if words == "left out, no sequence" and len(fastas) > 1:
                continue
            with pytest.raises(UserError, match=r"bad\.fasta") as caught:
                prepare_corpus(fastas, out)
            assert words in str(caught.value)
            assert len(str(caught.value).splitlines()) == 1
            assert listing(tmp_path) == names
            assert (out.read_bytes() if before else None) == before


def test_records_without_sequences_are_refused(write_fasta, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no record is left; .*2 records: left out, no sequence"):
        prepare_corpus([write_fasta([("a", ""), ("b", "*")])], tmp_path / "out.h5")
    with pytest.raises(UserError, match="no record is left; 1 record: left out, shorter than 9 residues"):
        prepare_corpus([write_fasta([("a", "MKT")])], tmp_path / "out.h5", selection=Selection(min_length=9))
    assert listing(tmp_path) == ["proteins.fasta"]


def test_a_file_without_selected_records_is_accepted_among_others(tmp_path: Path, write_fasta) -> None:
    files = [write_fasta(records, str(i)) for i, records in enumerate([[("a", "M")], [("b", "MKT")], [("c", "*")]])]
    prepare_corpus(files, tmp_path / "c.h5", selection=Selection(min_length=2))
    assert Corpus(tmp_path / "c.h5").ids() == ["b"]
    assert len(Corpus(tmp_path / "c.h5").attributes["sources"]) == 3


def test_unwritable_outputs_are_refused(write_fasta, tmp_path: Path) -> None:
    fasta = write_fasta([("a", "MKT")])
    table = tmp_path / "table.tsv"
    table.write_text("a\ta\n")
    text = fasta.read_text()
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(fasta)
    for out in (tmp_path / "absent" / "c.h5", tmp_path / "folder", fasta, tmp_path / "link", table):
        with pytest.raises(UserError) as caught:
            prepare_corpus([fasta], out, SplitRule(clusters=table))
        assert str(out) in str(caught.value)
    assert (fasta.read_text(), table.read_text()) == (text, "a\ta\n")
    assert listing(tmp_path) == ["folder", "link", "proteins.fasta", "table.tsv"]


@pytest.mark.parametrize("workers", [0, -1])
def test_at_least_one_worker_is_required(write_fasta, tmp_path: Path, workers: int) -> None:
    with pytest.raises(UserError, match=f"workers {workers}"):
        prepare_corpus([write_fasta([("a", "MKT")])], tmp_path / "c.h5", workers=workers)


def test_standard_input_can_be_given_only_once(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="only once"):
        prepare_corpus(["-", Path("-")], tmp_path / "c.h5")


pieces = st.sampled_from(
    [b">", b"\n", b"\r\n", b"MKT", b"\n>a\nMKT", b">b x\nMKV\n", b" ", b"*", b"1", b"\0", b"\xff", b"sp|a|b", b"-"]
)
plain = st.binary(max_size=60) | st.lists(pieces, max_size=9).map(b"".join)
magics = st.sampled_from(
    [b"\x1f\x8b\x08", b"BZh9", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd", b"\xef\xbb\xbf", b">a\nMKT\n"]
)
packed = st.builds(
    lambda compress, content, place, byte: (
        lambda whole: whole[: place % len(whole)] + byte + whole[place % len(whole) + len(byte) :] if whole else whole
    )(compress(b">p\nMKT\n" + content)),
    st.sampled_from([gzip.compress, bz2.compress, lzma.compress, zstandard.compress]),
    plain,
    st.integers(0, 10_000),
    st.binary(max_size=2),
)


@settings(max_examples=200)
@given(plain | st.builds(bytes.__add__, magics, plain) | packed)
def test_any_bytes_give_a_corpus_or_one_clear_error(fresh: Callable[[], Path], content: bytes) -> None:
    folder = fresh()
    path = folder / "any.fasta"
    path.write_bytes(content)
    message = ""
    try:
        prepare_corpus([path], folder / "c.h5")
    except UserError as error:
        message = str(error)
    if message:
        assert str(path) in message
        assert len(message.splitlines()) == 1
        assert listing(folder) == ["any.fasta"]
    else:
        records = list(FastaFile(path))
        corpus = Corpus(folder / "c.h5")
        assert corpus.ids() == [record.id for record in records]
        assert sequences_of(corpus) == [record.sequence for record in records]
        assert listing(folder) == ["any.fasta", "c.h5"]


# several processes


@pytest.fixture(scope="module")
def three_files(tmp_path_factory: pytest.TempPathFactory, sample: Path) -> list[Path]:
    """The sample in three files, plain and compressed, the largest first; some sequences are in two of them."""
    folder = tmp_path_factory.mktemp("three")
    records = list(FastaFile(sample))
    paths = [folder / name for name in ("b.fasta", "a.fasta.gz", "c.fasta.zst")]
    for path, some in zip(paths, (records[300:], records[200:310], records[:220]), strict=True):
        text = "".join(f">{record.id} some\n{record.sequence}\n" for record in some).encode()
        path.write_bytes(COMPRESSIONS.get(path.suffix[1:], bytes)(text))
    return paths


@pytest.mark.slow
@pytest.mark.parametrize("deduplicate", [False, True])
def test_several_processes_make_the_same_corpus_as_one(
    tmp_path: Path, three_files: list[Path], sample: Path, deduplicate: bool
) -> None:
    rule = SplitRule(0.1, 0.2, sample.with_name("families.clusters.tsv"))
    joined = tmp_path / "joined.fasta"
    with joined.open("w") as file:
        for path in three_files:
            file.writelines(f">{record.id} some\n{record.sequence}\n" for record in FastaFile(path))
    steps: list[tuple[int, int]] = []
    for name, files, workers in (("one", three_files, 1), ("three", three_files, 3), ("joined", [joined], 3)):
        prepare_corpus(
            *(files, tmp_path / f"{name}.h5", rule, None, deduplicate, workers),
            progress=(lambda done, total: steps.append((done, total))) if workers == 3 and len(files) == 3 else None,
        )
    one, three, whole = (content_of(tmp_path / f"{name}.h5") for name in ("one", "three", "joined"))
    assert one == three == whole
    first, second = Corpus(tmp_path / "one.h5"), Corpus(tmp_path / "three.h5")
    assert first.attributes["sources"] == second.attributes["sources"]
    assert [source["name"] for source in first.attributes["sources"]] == [path.name for path in three_files]
    size = sum(path.stat().st_size for path in three_files)
    assert steps == sorted(steps)
    assert {total for _, total in steps} == {size}
    assert all(done <= size for done, _ in steps)
    assert not multiprocessing.active_children()


def test_several_files_are_one_corpus_and_progress_ends_with_all_bytes(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_text(f">{name}1\nmK-T\n>{name}2\n\n>{name}3\nMJ*\n")
    steps = []
    summary = prepare_corpus(
        [tmp_path / "a", tmp_path / "b"], tmp_path / "c.h5", progress=lambda done, total: steps.append((done, total))
    )
    assert Corpus(tmp_path / "c.h5").ids() == ["a1", "a3", "b1", "b3"]
    assert summary.tally.records["gap removed"] == summary.tally.residues["gap removed"] == 2
    assert summary.tally.records["left out, no sequence"] == 2
    size = (tmp_path / "a").stat().st_size
    assert steps == sorted(steps)
    assert steps[-1] == (2 * size, 2 * size)


@pytest.mark.slow
def test_an_error_in_a_worker_is_reported_and_leaves_nothing(tmp_path: Path, three_files: list[Path]) -> None:
    bad = tmp_path / "bad.fasta"
    bad.write_text(">a\nMKT\n>b\nM1\n")
    with pytest.raises(UserError, match=r"bad\.fasta, record 2 \(b\), line 4") as caught:
        prepare_corpus([*three_files, bad], tmp_path / "c.h5", workers=2)
    assert len(str(caught.value).splitlines()) == 1
    assert listing(tmp_path) == ["bad.fasta"]
    assert not multiprocessing.active_children()


@pytest.mark.slow
def test_a_killed_worker_is_reported_and_leaves_nothing(tmp_path: Path, write_fasta) -> None:
    small, pipe = write_fasta([("a", "MKT")]), tmp_path / "pipe.fasta"
    os.mkfifo(pipe)

    def kill() -> None:
        with pipe.open("w"):  # waits until a worker reads it
            for process in multiprocessing.active_children():
                process.kill()

    thread = threading.Thread(target=kill)
    thread.start()
    with pytest.raises(UserError, match="a worker was killed"):
        prepare_corpus([small, pipe], tmp_path / "c.h5", workers=2)
    thread.join()
    assert listing(tmp_path) == ["pipe.fasta", "proteins.fasta"]


# stopped processes and full disks


SMALL = "".join(f">p{i}\nMKTAYIAKQR{'W' * i}\n" for i in range(400))
RUN = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\nimport sys\n"
STOPPED = RUN + (
    "import time\nfrom importlib import import_module\nmodule, name = sys.argv.pop(1), sys.argv.pop(1)\n"
    "from protlm.cli import main\nowner = import_module(module)\nfunction = getattr(owner, name)\n"
    "def stop(*arguments, **options):\n"
    "    before = name == 'replace'\n    result = None if before else function(*arguments, **options)\n"
    "    print('started', flush=True)\n    time.sleep(60)\n    return result\n"
    "setattr(owner, name, stop)\nmain()"
)


def command(script: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", script, *map(str, arguments)]


def started(script: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command(script, *arguments), **pipes, **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("protlm.corpus.prepare", "read_parts"),
        ("protlm.corpus.prepare", "assign"),
        ("protlm.corpus.prepare", "write_corpus"),
        ("os", "replace"),
    ],
    ids=["read", "assigned", "written", "about to be renamed"],
)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_stopped_prepare_leaves_no_output(tmp_path: Path, module: str, name: str, number: signal.Signals) -> None:
    fasta, out = tmp_path / "small.fasta", tmp_path / "out.h5"
    fasta.write_text(SMALL)
    if number == signal.SIGTERM:
        out.write_bytes(b"precious")
    names = listing(tmp_path)
    with started(STOPPED, module, name, "prepare", fasta, "-o", out) as process:
        assert process.stdout
        assert process.stdout.readline() == "started\n"
        assert listing(tmp_path) == [".out.h5.partial", *names]
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[number]
    assert "Traceback" not in errors
    if number != signal.SIGKILL:
        assert listing(tmp_path) == names
    if number == signal.SIGTERM:
        assert out.read_bytes() == b"precious"
    else:
        assert not out.exists()
    prepare_corpus([fasta], out)
    assert len(Corpus(out)) == 400
    assert listing(tmp_path) == ["out.h5", "small.fasta"]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_no_worker_outlives_its_parent(tmp_path: Path, number: signal.Signals, code: int) -> None:
    small, pipe, out = tmp_path / "small.fasta", tmp_path / "pipe.fasta", tmp_path / "out.h5"
    small.write_text(SMALL)
    os.mkfifo(pipe)
    script = RUN + "from protlm.cli import main\nmain()"
    with started(script, "prepare", small, pipe, "-o", out, "--workers", 2, start_new_session=True) as process:
        try:
            with pipe.open("w") as writer:  # waits until a worker reads it; the other one is done soon
                writer.write(SMALL)
                writer.flush()
                time.sleep(0.5)
                process.send_signal(number)
                time.sleep(0.2)
                while process.poll() is None:
                    try:
                        writer.write(SMALL)
                        writer.flush()
                    except BrokenPipeError:
                        break
            # the pipes end when the last process that holds them has exited
            _, errors = process.communicate(timeout=5)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == code
    assert "Traceback" not in errors
    if number != signal.SIGKILL:
        assert listing(tmp_path) == ["pipe.fasta", "small.fasta"]
    assert not out.exists()


LIMITED = (
    "import resource, sys\nlimit = int(sys.argv.pop(1))\n"
    "from protlm.cli import main\nresource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))\nmain()"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("share", "workers"), [(0, 1), (0.05, 1), (0.5, 1), (0.8, 1), (0.9, 1), (0.999, 1), (0, 2), (0.9, 2)]
)
def test_a_full_disk_leaves_nothing_and_keeps_the_previous_output(tmp_path: Path, share: float, workers: int) -> None:
    table, out = tmp_path / "table.tsv", tmp_path / "out.h5"
    fastas = [tmp_path / f"small_{number}.fasta" for number in range(workers)]
    for fasta in fastas:
        fasta.write_text(SMALL)
    table.write_text("".join(f"p{i // 2 * 2}\tp{i}\n" for i in range(400)))
    prepare_corpus(fastas, out, SplitRule(clusters=table))
    size = out.stat().st_size
    out.write_bytes(b"precious")
    names = listing(tmp_path)
    arguments = ["prepare", *fastas, "-o", out, "--clusters", table, "--workers", workers]
    done = subprocess.run(command(LIMITED, int(share * size), *arguments), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: {out}: cannot be written")
    assert listing(tmp_path) == names
    assert out.read_bytes() == b"precious"


def fed(script: str, block: bytes, start: bytes, limit: int, *arguments: object) -> tuple[int, int, str, float]:
    """Exit code, bytes taken from standard input, standard error and seconds of a command fed until it ends."""
    begin, taken = time.monotonic(), 0
    with subprocess.Popen(
        command(script, *arguments), stdin=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    ) as process:
        assert process.stdin
        assert process.stderr
        with suppress(BrokenPipeError):
            process.stdin.write(start)
            while taken < limit:
                taken += process.stdin.write(block)
        with suppress(BrokenPipeError):
            process.stdin.close()
        errors = process.stderr.read().decode()
    return process.returncode, taken, errors, time.monotonic() - begin


# little more memory than the program needs
FRUGAL = (
    "import resource\nimport protlm.corpus.prepare\nfrom protlm.cli import main\n"
    "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
    "resource.setrlimit(resource.RLIMIT_AS, (used + (100 << 20),) * 2)\nmain()"
)
linux = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits the memory as Linux does")


@pytest.mark.slow
@linux
@pytest.mark.parametrize("start", [b">a\nMKT\n>b\n", b">a\nMKT\n>b "])
def test_a_gigabyte_in_one_line_is_refused_at_once(tmp_path: Path, start: bytes) -> None:
    out = tmp_path / "out.h5"
    code, taken, errors, seconds = fed(FRUGAL, b"MKTAYIAKQR" * 6_553, start, 10**9, "prepare", "-", "-o", out)
    assert code == 2
    assert errors.startswith("error: standard input, record 2: longer than 1,000,000 characters")
    assert errors.count("\n") == 1
    assert taken < 10_000_000
    assert seconds < 20
    assert not listing(tmp_path)


@pytest.mark.slow
@linux
def test_endless_blank_lines_take_little_memory(tmp_path: Path) -> None:
    code, _, errors, _ = fed(FRUGAL, b"\n" * 65_536, b"\n", 150_000_000, "prepare", "-", "-o", tmp_path / "out.h5")
    assert (code, errors.count("\n")) == (2, 1)
    assert "standard input" in errors
    assert not listing(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("compress", COMPRESSIONS.values(), ids=COMPRESSIONS)
def test_standard_input_is_read_like_a_file(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    content, fasta = compress(SMALL.encode()), tmp_path / "more.fasta"
    fasta.write_text(">last\nMKT\n")
    script = "from protlm.cli import main\nmain()"
    arguments = ["prepare", "-", fasta, "-o", tmp_path / "out.h5"]
    done = subprocess.run(command(script, *arguments), input=content, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b"")
    corpus = Corpus(tmp_path / "out.h5")
    assert corpus.ids() == [*(f"p{i}" for i in range(400)), "last"]
    checksum = xxhash.xxh3_128_hexdigest(content)
    assert corpus.attributes["sources"][0] == {"name": "-", "bytes": len(content), "xxh3_128": checksum}
    corpus.check_sources(["-"])


@pytest.mark.slow
def test_standard_input_reaches_the_worker_that_reads_it(tmp_path: Path) -> None:
    fasta = tmp_path / "more.fasta"
    fasta.write_text(">last\nMKT\n")
    script = "from protlm.cli import main\nmain()"
    arguments = ["prepare", "-", fasta, "-o", tmp_path / "out.h5", "--workers", 2]
    done = subprocess.run(command(script, *arguments), input=SMALL, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert Corpus(tmp_path / "out.h5").ids()[-2:] == ["p399", "last"]


@pytest.mark.slow
def test_closed_standard_input_is_reported(tmp_path: Path) -> None:
    script = "from protlm.cli import main\nmain()"
    closed = ["sh", "-c", '"$@" <&-', "sh", *command(script, "prepare", "-", "-o", tmp_path / "out.h5")]
    done = subprocess.run(closed, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert not listing(tmp_path)


@linux
def test_no_file_stays_open(tmp_path: Path, sample: Path) -> None:
    table = sample.with_name("families.clusters.tsv")
    prepare_corpus([sample], tmp_path / "c.h5", SplitRule(clusters=table), deduplicate=True)
    before = len(os.listdir("/proc/self/fd"))
    prepare_corpus([sample], tmp_path / "c.h5", SplitRule(clusters=table), deduplicate=True)
    with pytest.raises(UserError):
        prepare_corpus([sample, table], tmp_path / "c.h5")
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_empty_cluster_table_is_refused(sample: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.tsv").touch()
    with pytest.raises(UserError, match=r"empty\.tsv: no clusters"):
        prepare_corpus([sample], tmp_path / "corpus.h5", SplitRule(clusters=tmp_path / "empty.tsv"))
    assert not (tmp_path / "corpus.h5").exists()


@pytest.mark.parametrize("sequence", ["XXXXXXXX", "BZX"])
def test_a_train_split_of_unknown_residues_is_refused(write_fasta, tmp_path: Path, sequence: str) -> None:
    fasta = write_fasta([("a", sequence), ("b", sequence * 2)])
    for rule in (SplitRule(0, 0), SplitRule(0, 0, held_out=frozenset("ab"))):
        with pytest.raises(
            UserError, match=r"proteins\.fasta: the train split has only unknown and ambiguous residues"
        ):
            prepare_corpus([fasta], tmp_path / "c.h5", rule)
        assert [path.name for path in tmp_path.iterdir()] == ["proteins.fasta"]
    fasta = write_fasta([("a", sequence), ("b", sequence + "M")])
    assert prepare_corpus([fasta], tmp_path / "c.h5", SplitRule(0, 0)).proteins == 2
