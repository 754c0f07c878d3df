import gzip
import multiprocessing
import pickle
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protlm.errors import UserError
from protlm.sequence.alphabet import INDEX, LETTERS, SCORED, TOKENS, decode
from protlm.sequence.corpus import Corpus, Unigram, prepare_corpus
from protlm.sequence.fasta import FastaFile
from protlm.sequence.splits import SPLITS, SplitRule


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@given(st.lists(st.text(LETTERS, min_size=1), min_size=1))
def test_sequences_and_ids_come_back(tmp_path_factory, sequences: list[str]) -> None:
    folder = tmp_path_factory.mktemp("round")
    fasta = folder / "a.fasta"
    fasta.write_text("".join(f">id/{i} text\n{sequence}\n" for i, sequence in enumerate(sequences)))
    summary = prepare_corpus([fasta], folder / "a.h5", allow_nucleotides=True)
    corpus = Corpus(folder / "a.h5")
    assert [decode(corpus[i]) for i in range(len(corpus))] == sequences
    assert corpus.ids() == [f"id/{i}" for i in range(len(sequences))]
    assert (summary.proteins, summary.residues) == (len(sequences), sum(map(len, sequences)))


def test_the_sample_comes_back_from_its_corpus(corpus_path: Path, sample: Path) -> None:
    corpus, records = Corpus(corpus_path), list(FastaFile(sample))
    assert corpus.ids() == [record.id for record in records]
    assert [decode(corpus[i]) for i in range(len(corpus))] == [record.sequence for record in records]
    assert sum(len(corpus.members(split)) for split in SPLITS) == len(corpus) == len(records)


def test_several_files_are_one_corpus_and_changes_are_added_up(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_text(f">{name}1\nmK-T\n>{name}2\n\n>{name}3\nMJ*\n")
    steps = []
    summary = prepare_corpus(
        [tmp_path / "a", tmp_path / "b"], tmp_path / "c.h5", progress=lambda done, total: steps.append((done, total))
    )
    assert Corpus(tmp_path / "c.h5").ids() == ["a1", "a3", "b1", "b3"]
    assert summary.changes["gap removed"] == summary.changed_records["gap removed"] == 2
    assert summary.changes["record without a sequence left out"] == 2
    size = (tmp_path / "a").stat().st_size
    assert steps == sorted(steps)
    assert steps[-1] == (2 * size, 2 * size)


def test_the_counts_of_residues_equal_a_recount(corpus_path: Path, monkeypatch, tmp_path: Path, sample: Path) -> None:
    monkeypatch.setattr("protlm.sequence.corpus._BLOCK", 500)  # longer and shorter proteins than a block
    prepare_corpus([sample], tmp_path / "blocks.h5")
    for path in (corpus_path, tmp_path / "blocks.h5"):
        corpus = Corpus(path)
        with h5py.File(path) as file:
            counts = file["residue_counts"][:]
        for code, split in enumerate(SPLITS):
            tokens = [corpus[i] for i in corpus.members(split)]
            recount = np.bincount(np.concatenate(tokens), minlength=33) if tokens else np.zeros(33)
            assert (counts[code] == recount).all()
    assert [bytes(Corpus(corpus_path)[i]) for i in range(99)] == [bytes(corpus[i]) for i in range(99)]


def test_plain_h5py_reads_it(corpus_path: Path, sample: Path) -> None:
    record = next(iter(FastaFile(sample)))
    with h5py.File(corpus_path) as file:
        letters = file.attrs["alphabet"]
        start, stop = file["offsets"][:2]
        assert "".join(letters[token] for token in file["tokens"][start:stop]) == record.sequence
        assert file["ids"][0].decode() == record.id
        assert h5py.check_enum_dtype(file["split"].dtype) == {name: code for code, name in enumerate(SPLITS)}
        assert len(file["split"]) == len(file["offsets"]) - 1


@pytest.mark.parametrize("bad", ["absent", "empty", "digit", "cut"])
def test_a_failing_prepare_changes_nothing(tmp_path: Path, sample: Path, bad: str) -> None:
    path = tmp_path / "bad.fasta"
    if bad != "absent":
        content = {"empty": b"", "digit": b">a\nM1\n", "cut": sample.read_bytes()[:-9]}
        path.write_bytes(content[bad])
    out = tmp_path / "out.h5"
    for before in (None, b"precious"):
        if before:
            out.write_bytes(before)
        names = listing(tmp_path)
        with pytest.raises(UserError, match=r"bad\.fasta"):
            prepare_corpus([sample, path], out)
        assert listing(tmp_path) == names
        assert (out.read_bytes() if before else None) == before


def test_records_without_any_sequence_make_no_corpus(write_fasta, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no record has a sequence"):
        prepare_corpus([write_fasta([("a", ""), ("b", "*")])], tmp_path / "out.h5")
    assert listing(tmp_path) == ["proteins.fasta"]


def test_outputs_that_cannot_be_written_are_refused(write_fasta, tmp_path: Path) -> None:
    fasta = write_fasta([("a", "MKT")])
    text = fasta.read_text()
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(fasta)
    for out in (tmp_path / "absent" / "c.h5", tmp_path / "folder", fasta, tmp_path / "link"):
        with pytest.raises(UserError) as caught:
            prepare_corpus([fasta], out)
        assert str(out) in str(caught.value)
    assert fasta.read_text() == text
    assert listing(tmp_path) == ["folder", "link", "proteins.fasta"]


def test_killed_while_preparing_nothing_has_the_final_name(tmp_path: Path, sample: Path) -> None:
    out = tmp_path / "out.h5"
    out.write_bytes(b"precious")
    script = (
        "import sys, time\nfrom protlm.sequence.corpus import prepare_corpus\n"
        "prepare_corpus([sys.argv[1]], sys.argv[2], progress=lambda *_: (print('begun', flush=True), time.sleep(99)))"
    )
    command = [sys.executable, "-c", script, str(sample), str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "begun\n"
        process.send_signal(signal.SIGKILL)
    assert out.read_bytes() == b"precious"
    prepare_corpus([sample], out)
    assert len(Corpus(out)) > 100


def test_it_can_be_pickled_whether_read_or_not(corpus_path: Path) -> None:
    corpus = Corpus(corpus_path)
    fresh = pickle.loads(pickle.dumps(corpus))
    first = corpus[0].tobytes()
    content = pickle.dumps(corpus)
    assert len(content) < corpus_path.stat().st_size / 2  # the tokens are not sent along
    assert fresh[0].tobytes() == pickle.loads(content)[0].tobytes() == first


def test_another_process_can_read_it(corpus_path: Path) -> None:
    corpus = Corpus(corpus_path)
    lengths = [len(corpus[i]) for i in range(5)]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert [len(tokens) for tokens in pool.map(corpus.__getitem__, range(5))] == lengths


def test_a_file_that_is_no_corpus_is_refused(tmp_path: Path, corpus_path: Path, sample: Path) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["tokens"] = [1, 2]
    (tmp_path / "empty.h5").touch()
    (tmp_path / "cut.h5").write_bytes(corpus_path.read_bytes()[:-1_000])
    for path, match in [
        (tmp_path / "absent.h5", "protlm prepare FASTA -o"),
        (tmp_path / "other.h5", "not a corpus"),
        (tmp_path / "empty.h5", "not a corpus"),
        (tmp_path / "cut.h5", "damaged"),
        (tmp_path, "not a corpus"),
        (sample, "not a corpus"),
    ]:
        with pytest.raises(UserError, match=match) as caught:
            Corpus(path)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda file: file.attrs.update(alphabet=list(reversed(TOKENS))), "another alphabet"),
        (lambda file: file.attrs.update(alphabet=list(TOKENS[:-1])), "another alphabet"),
        (lambda file: file.attrs.update(version=2), "version 2, expected 1"),
        (lambda file: file.attrs.update(format="corpus"), "not a corpus"),
        (lambda file: file.pop("offsets"), "damaged"),
        (lambda file: file.pop("tokens"), "damaged"),
        (lambda file: file.attrs.pop("sources"), "damaged"),
    ],
)
def test_a_changed_corpus_is_refused(tmp_path: Path, corpus_path: Path, change, match: str) -> None:
    path = tmp_path / "changed.h5"
    shutil.copy(corpus_path, path)
    Corpus(path)
    with h5py.File(path, "a") as file:
        change(file)
    with pytest.raises(UserError, match=match):
        Corpus(path)


def test_it_knows_what_it_was_made_from(tmp_path: Path, corpus_path: Path, sample: Path) -> None:
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


def test_the_unigram_baseline_comes_from_training_alone(tmp_path: Path, write_fasta) -> None:
    fasta = write_fasta([("a", "LLLA"), ("out", "WWWWWWW")])
    prepare_corpus([fasta], tmp_path / "c.h5", SplitRule(0, 0, held_out=frozenset({"out"})))
    probabilities = Corpus(tmp_path / "c.h5").unigram().probabilities
    assert probabilities[INDEX["L"]] == pytest.approx(4 / 26)
    assert probabilities[INDEX["W"]] == pytest.approx(1 / 26)


def test_the_same_input_gives_the_same_corpus(tmp_path: Path, corpus_path: Path, sample: Path) -> None:
    for path, fasta in ((tmp_path / "1.h5", sample), (tmp_path / "2.h5", tmp_path / "plain.fasta")):
        if fasta != sample:
            fasta.write_bytes(gzip.decompress(sample.read_bytes()))
        prepare_corpus([fasta], path)
    first, second = Corpus(tmp_path / "1.h5"), Corpus(tmp_path / "2.h5")
    assert (first.split == second.split).all()
    assert (first.offsets == second.offsets).all()
