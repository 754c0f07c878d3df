import gzip
import multiprocessing
import os
import pickle
import shutil
from collections.abc import Callable
from contextlib import suppress
from itertools import chain
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protlm.corpus.ingest import Selection
from protlm.corpus.prepare import prepare_corpus
from protlm.corpus.reader import Corpora, Corpus
from protlm.corpus.splits import SPLITS, SplitRule
from protlm.corpus.unigram import Unigram
from protlm.errors import UserError
from protlm.sequence.alphabet import INDEX, LETTERS, SCORED, TOKENS, decode
from protlm.sequence.fasta import FastaFile


@settings(max_examples=50)
@given(st.lists(st.text(LETTERS, min_size=1), min_size=1))
def test_sequences_and_ids_round_trip(fresh: Callable[[], Path], sequences: list[str]) -> None:
    folder = fresh()
    fasta = folder / "a.fasta"
    fasta.write_text("".join(f">id/{i} text\n{sequence}\n" for i, sequence in enumerate(sequences)))
    summary = prepare_corpus([fasta], folder / "a.h5", selection=Selection(allow_nucleotides=True))
    corpus = Corpus(folder / "a.h5")
    assert [decode(corpus[i]) for i in range(len(corpus))] == sequences
    assert corpus.ids() == [f"id/{i}" for i in range(len(sequences))]
    assert (summary.proteins, summary.residues) == (len(sequences), sum(map(len, sequences)))


def test_the_sample_round_trips_through_its_corpus(corpus_path: Path, sample: Path) -> None:
    corpus, records = Corpus(corpus_path), list(FastaFile(sample))
    assert corpus.ids() == [record.id for record in records]
    assert [decode(corpus[i]) for i in range(len(corpus))] == [record.sequence for record in records]
    assert corpus.lengths.tolist() == [len(record.sequence) for record in records]
    some = np.array([5, 0, 5, len(corpus) - 1])
    assert corpus.lengths_of(some).tolist() == corpus.lengths[some].tolist()
    assert sorted(index for split in SPLITS for index in corpus.members(split)) == list(range(len(records)))


@given(st.integers(-3, 12), st.none() | st.integers(-3, 12))
def test_ids_can_be_read_as_a_slice(tmp_path_factory: pytest.TempPathFactory, start: int, stop: int | None) -> None:
    path = tmp_path_factory.getbasetemp() / "ten.h5"
    if not path.exists():
        path.with_suffix(".fasta").write_text("".join(f">p{i}\u00e9\nMKT\n" for i in range(10)))
        prepare_corpus([path.with_suffix(".fasta")], path)
    every = [f"p{i}\u00e9" for i in range(10)]
    if start >= 0 and (stop is None or stop >= 0):
        assert Corpus(path).ids(start, stop) == every[start:stop]
    assert Corpus(path).ids() == every


@pytest.mark.parametrize("length", [1, 40, 41, 1_000])
def test_identifiers_of_any_length_round_trip(tmp_path: Path, write_fasta, length: int) -> None:
    names = ["a", "\u00e9" * (length // 2) + "b" * (length % 2), "c"]
    fasta = write_fasta((name, "MKT" + "W" * i) for i, name in enumerate(names))
    prepare_corpus([fasta, shutil.copy(fasta, tmp_path / "again.fasta")], tmp_path / "c.h5", deduplicate=True)
    corpus = Corpus(tmp_path / "c.h5")
    assert corpus.ids() == names
    assert corpus.merged() == {name: i for i, name in enumerate(names)}


def test_the_counts_of_residues_equal_a_recount(corpus_path: Path) -> None:
    corpus = Corpus(corpus_path)
    with h5py.File(corpus_path) as file:
        counts = file["residue_counts"][:]
    assert (counts == corpus.residue_counts).all()
    for code, split in enumerate(SPLITS):
        recount = np.bincount(np.concatenate([corpus[i] for i in corpus.members(split)]), minlength=33)
        assert (counts[code] == recount).all()


def test_plain_h5py_reads_it(corpus_path: Path, sample: Path) -> None:
    records = list(FastaFile(sample))
    with h5py.File(corpus_path) as file:
        letters = file.attrs["alphabet"]
        tokens, offsets = file["tokens"], file["offsets"]
        for i in (0, 1, len(records) - 1):
            assert "".join(letters[token] for token in tokens[offsets[i] : offsets[i + 1]]) == records[i].sequence
            assert file["ids"][i].decode() == records[i].id
        assert offsets[0] == 0
        assert offsets[-1] == len(tokens)
        assert tokens.dtype == np.uint8
        assert h5py.check_enum_dtype(file["split"].dtype) == {name: code for code, name in enumerate(SPLITS)}
        assert len(file["split"]) == len(offsets) - 1 == len(file["ids"]) == len(file["clusters"]) == len(records)
        assert file.attrs["format"] == "protlm corpus"


@pytest.mark.parametrize("residues", [1, 2, 4_095, 4_096, 4_097, 20_000])
def test_tokens_are_contiguous_after_the_file_head(tmp_path: Path, write_fasta, residues: int) -> None:
    fasta = write_fasta([("a", "M" * (residues // 2)), ("b", "W" * (residues - residues // 2))])
    prepare_corpus([fasta], tmp_path / "c.h5")
    with h5py.File(tmp_path / "c.h5") as file:
        tokens = file["tokens"]
        assert tokens.chunks is None
        start = tokens.id.get_offset()
        assert decode(tokens[:]) == "M" * (residues // 2) + "W" * (residues - residues // 2)
    assert (start == 4_096) or residues < 4_096
    assert (tmp_path / "c.h5").read_bytes()[start : start + residues] == bytes([20]) * (residues // 2) + bytes([22]) * (
        residues - residues // 2
    )


def test_tokens_can_be_read_but_not_changed(corpus_path: Path) -> None:
    with pytest.raises(ValueError, match="read-only"):
        Corpus(corpus_path)[0][0] = 1


def test_a_corpus_has_the_permissions_of_any_new_file(tmp_path: Path, write_fasta) -> None:
    for sequence in ("MKT", "MKT" * 2_000):
        prepare_corpus([write_fasta([("a", sequence)])], tmp_path / "c.h5")
        (tmp_path / "any").touch()
        assert (tmp_path / "c.h5").stat().st_mode == (tmp_path / "any").stat().st_mode


def test_a_corpus_can_be_pickled_before_and_after_reading(corpus_path: Path) -> None:
    corpus = Corpus(corpus_path)
    fresh = pickle.loads(pickle.dumps(corpus))
    first = corpus[0].tobytes()
    content = pickle.dumps(corpus)
    assert len(content) < 1_000  # the tokens are not pickled
    assert fresh[0].tobytes() == pickle.loads(content)[0].tobytes() == first
    assert fresh.ids(0, 2) == corpus.ids(0, 2)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_another_process_can_read_it(corpus_path: Path, method: str) -> None:
    corpus = Corpus(corpus_path)
    lengths = [len(corpus[i]) for i in range(5)]
    with multiprocessing.get_context(method).Pool(1) as pool:
        assert [len(tokens) for tokens in pool.map(corpus.__getitem__, range(5))] == lengths


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_can_read_it(corpus_path: Path) -> None:
    corpus = Corpus(corpus_path)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.write(writer, corpus[3].tobytes()[:100] + corpus.ids(3, 4)[0].encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        assert answer.read() == corpus[3].tobytes()[:100] + corpus.ids(3, 4)[0].encode()


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        Corpus(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_a_file_that_is_not_a_corpus_is_refused(tmp_path: Path, sample: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["tokens"] = [1, 2]
    (tmp_path / "empty.h5").touch()
    for path, words in [
        (tmp_path / "absent.h5", "protlm prepare FASTA -o"),
        (tmp_path / "other.h5", "not a corpus"),
        (tmp_path / "empty.h5", "not a corpus"),
        (tmp_path, "not a corpus"),
        (sample, "not a corpus"),
    ]:
        assert words in refusal(path)


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.01, 0.5, 0.9, 0.99, 0.9999])
def test_a_truncated_corpus_is_refused(tmp_path: Path, corpus_path: Path, kept: float) -> None:
    content = corpus_path.read_bytes()
    (tmp_path / "cut.h5").write_bytes(content[: int(kept * len(content))])
    assert "damaged" in refusal(tmp_path / "cut.h5")


def pack(file: h5py.File) -> None:
    tokens = file["tokens"][:]
    del file["tokens"]
    file.create_dataset("tokens", data=tokens, compression="gzip")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda file: file.attrs.update(alphabet=list(reversed(TOKENS))), "a different alphabet"),
        (lambda file: file.attrs.update(alphabet=list(TOKENS[:-1])), "a different alphabet"),
        (lambda file: file.attrs.update(version=1), "version 1, expected 2"),
        (lambda file: file.attrs.update(version=3), "version 3, expected 2"),
        (lambda file: file.attrs.update(format="corpus"), "not a corpus"),
        (lambda file: file.attrs.pop("version"), "damaged"),
        (lambda file: file.attrs.pop("alphabet"), "damaged"),
        (lambda file: file.attrs.pop("sources"), "damaged"),
        (lambda file: file.attrs.update(changes="{"), "damaged"),
        *((lambda file, name=name: file.pop(name), "damaged") for name in ("tokens", "offsets", "split", "members")),
        (lambda file: file.pop("residue_counts"), "damaged"),
        (lambda file: (file.pop("tokens"), file.create_group("tokens")), "damaged"),
        (pack, "damaged"),
    ],
)
def test_a_changed_corpus_is_refused(
    tmp_path: Path, corpus_path: Path, change: Callable[[h5py.File], object], words: str
) -> None:
    path = tmp_path / "changed.h5"
    shutil.copy(corpus_path, path)
    Corpus(path)
    with h5py.File(path, "a") as file:
        change(file)
    message = refusal(path)
    assert words in message
    assert len(message.splitlines()) == 1


@given(st.integers(0, 4_095), st.integers(1, 255))
def test_a_wrong_byte_in_the_file_head_is_refused_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, corpus_path: Path, place: int, change: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "wrong.h5"
    content = bytearray(corpus_path.read_bytes())
    content[place] ^= change
    path.write_bytes(content)
    opened = None
    with suppress(UserError):
        opened = Corpus(path)
    if opened is None:
        assert "wrong.h5" in refusal(path)
    else:
        assert len(opened) == len(opened.split)


def test_a_corpus_records_its_sources(tmp_path: Path, corpus_path: Path, sample: Path) -> None:
    corpus = Corpus(corpus_path)
    corpus.check_sources([sample])
    corpus.check_sources([])
    moved = tmp_path / sample.name
    shutil.copy(sample, moved)
    corpus.check_sources([moved])
    moved.write_bytes(moved.read_bytes() + b"\0")
    renamed = tmp_path / "other.gz"
    shutil.copy(sample, renamed)
    for others in ([moved], [renamed], [sample, sample]):
        with pytest.raises(UserError, match=r"made from families\.fasta\.gz .*, not from"):
            corpus.check_sources(others)
    with pytest.raises(UserError, match="no such file"):
        corpus.check_sources([tmp_path / "absent.fasta"])


def test_the_order_of_sources_matters(tmp_path: Path, write_fasta) -> None:
    files = [write_fasta([("a", "MKT")], "one"), write_fasta([("b", "MKTW")], "two")]
    prepare_corpus(files, tmp_path / "c.h5")
    Corpus(tmp_path / "c.h5").check_sources(files)
    with pytest.raises(UserError, match="made from one .*, two "):
        Corpus(tmp_path / "c.h5").check_sources(files[::-1])


@settings(max_examples=25)
@given(st.lists(st.lists(st.text("MKTW", min_size=1, max_size=5), min_size=1, max_size=4), min_size=1, max_size=3))
def test_corpora_are_concatenated_in_order(fresh: Callable[[], Path], shards: list[list[str]]) -> None:
    folder = fresh()
    opened = []
    for number, sequences in enumerate(shards):
        (folder / "a.fasta").write_text("".join(f">p{i}\n{letters}\n" for i, letters in enumerate(sequences)))
        prepare_corpus([folder / "a.fasta"], folder / f"{number}.h5", SplitRule(0.3, 0.3))
        opened.append(Corpus(folder / f"{number}.h5"))
    corpora, together = Corpora(opened), list(chain.from_iterable(shards))
    assert [decode(corpora[i]) for i in range(len(corpora))] == together
    order = np.array([*range(len(together) - 1, -1, -1), 0])
    assert corpora.lengths_of(order).tolist() == [len(together[i]) for i in order]
    train = [decode(corpus[i]) for corpus in opened for i in corpus.members("train")]
    assert corpora.count("train") == (len(train), sum(map(len, train)))
    counts = np.bincount([INDEX[letter] for letters in train for letter in letters], minlength=33)
    assert (corpora.unigram().probabilities == Unigram(counts).probabilities).all()


def test_the_unigram_baseline_equals_a_calculation_by_hand() -> None:
    train, targets = np.zeros(33, dtype=np.int64), np.zeros(33, dtype=np.int64)
    for letter, count in {"L": 7, "A": 3, "X": 100}.items():
        train[INDEX[letter]] = count
    for letter, count in {"L": 2, "A": 1, "W": 1}.items():
        targets[INDEX[letter]] = count
    unigram = Unigram(train)
    # one added to each of 22, and X is not among them: 10 + 22
    assert unigram.probabilities[INDEX["L"]] == pytest.approx(8 / 32)
    assert unigram.probabilities[~SCORED].sum() == 0
    assert unigram.probabilities.sum() == pytest.approx(1)
    assert unigram.accuracy(targets) == 0.5
    assert unigram.perplexity(targets) == pytest.approx(((8 / 32) ** 2 * (4 / 32) * (1 / 32)) ** (-1 / 4))


def test_the_unigram_baseline_uses_only_the_training_split(tmp_path: Path, write_fasta) -> None:
    fasta = write_fasta([("a", "LLLA"), ("out", "WWWWWWW")])
    prepare_corpus([fasta], tmp_path / "c.h5", SplitRule(0, 0, held_out=frozenset({"out"})))
    probabilities = Corpus(tmp_path / "c.h5").unigram().probabilities
    assert probabilities[INDEX["L"]] == pytest.approx(4 / 26)
    assert probabilities[INDEX["W"]] == pytest.approx(1 / 26)


def test_the_same_input_gives_the_same_corpus(tmp_path: Path, sample: Path) -> None:
    for path, fasta in ((tmp_path / "1.h5", sample), (tmp_path / "2.h5", tmp_path / "plain.fasta")):
        if fasta != sample:
            fasta.write_bytes(gzip.decompress(sample.read_bytes()))
        prepare_corpus([fasta], path)
    first, second = Corpus(tmp_path / "1.h5"), Corpus(tmp_path / "2.h5")
    assert (first.split == second.split).all()
    assert (first.offsets == second.offsets).all()
    assert all((first[i] == second[i]).all() for i in range(len(first)))


def test_indices_beyond_the_corpus_are_refused(corpus_path: Path) -> None:
    for corpus in (Corpus(corpus_path), Corpora([Corpus(corpus_path)] * 2)):
        assert sum(1 for _ in corpus) == len(corpus)
        for index in (-1, len(corpus), -len(corpus) - 1):
            with pytest.raises(IndexError, match=str(len(corpus))):
                corpus[index]


def test_other_files_given_as_a_corpus_are_named(tmp_path: Path, model_folder: Path) -> None:
    (tmp_path / "a.fasta").write_text(">a\nMKT\n")
    for path, words in (
        (tmp_path / "a.fasta", "not a corpus but FASTA; make one with: protlm prepare"),
        (model_folder, "not a corpus but a model folder"),
        (model_folder / "model.safetensors", "(found a file of weights (safetensors))"),
    ):
        assert words in refusal(path)


def test_a_corpus_overwritten_in_place_is_refused_and_one_that_is_replaced_or_touched_is_not(
    tmp_path: Path, write_fasta
) -> None:
    path, other = tmp_path / "c.h5", tmp_path / "other.h5"
    prepare_corpus([write_fasta([("a", "MKT" * 3_000), ("b", "MKV")])], path)
    prepare_corpus([write_fasta([("a", "WWT" * 3_000), ("b", "MKV")])], other)
    assert path.stat().st_size == other.stat().st_size
    corpus = Corpus(path)
    first = corpus[0].tobytes()
    for change in (
        lambda: os.utime(path, ns=(1, 1)),
        lambda: os.replace(shutil.copy(other, tmp_path / "new.h5"), path),
        path.unlink,
    ):
        change()
        corpus.check_unchanged()
        assert corpus[0].tobytes() == first
    for content in (other.read_bytes(), b"", b"x" * 20_000):
        prepare_corpus([write_fasta([("a", "MKT" * 3_000), ("b", "MKV")])], path)
        corpus = Corpus(path)
        path.write_bytes(content)  # in place, as `cp` does
        os.utime(path, ns=(1, 1))
        with pytest.raises(UserError, match=r"c\.h5: has changed since it was opened; do not overwrite"):
            corpus.check_unchanged()


def test_another_process_does_not_open_a_corpus_that_was_replaced(tmp_path: Path, write_fasta) -> None:
    prepare_corpus([write_fasta([("a", "MKT")])], tmp_path / "c.h5")
    pickled = pickle.dumps(Corpus(tmp_path / "c.h5"))
    prepare_corpus([write_fasta([("a", "MKV")])], tmp_path / "c.h5")
    with pytest.raises(UserError, match="has changed since it was opened"):
        pickle.loads(pickled)
