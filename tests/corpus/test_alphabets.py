"""Corpora of DNA, RNA and bytes."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest

from protlm.corpus.ingest import Selection
from protlm.corpus.prepare import prepare_corpus
from protlm.corpus.reader import Corpora, Corpus
from protlm.corpus.splits import SPLITS, SplitRule
from protlm.corpus.statistics import describe, format_description
from protlm.errors import UserError
from protlm.sequence.alphabets import ALPHABETS, PROTEIN

TEXT = b"To be, or not to be\n\x00\xff"
ALL_TRAIN = SplitRule(valid=0, test=0)


def made(tmp_path: Path, content: bytes, alphabet: str, **options) -> Corpus:
    source, out = tmp_path / "source", tmp_path / f"{alphabet}.h5"
    source.write_bytes(content)
    prepare_corpus([source], out, ALL_TRAIN, Selection(alphabet=ALPHABETS[alphabet], **options))
    return Corpus(out)


def test_a_corpus_keeps_its_alphabet(tmp_path) -> None:
    corpus = made(tmp_path, b">a\nACGTN\n>b\nRYAA\n", "dna")
    assert corpus.alphabet == ALPHABETS["dna"]
    assert [corpus.alphabet.decode(corpus[i]) for i in range(2)] == ["ACGTN", "RYAA"]
    assert corpus.residue_counts.shape == (4, 20)
    assert corpus.residue_counts.sum() == 9
    figures = describe(corpus)
    assert figures["alphabet"] == "dna"
    shown = format_description(figures)
    assert "lengths in bases" in shown
    assert "residue" not in shown


def test_every_byte_comes_back(tmp_path) -> None:
    corpus = made(tmp_path, TEXT + bytes(range(256)), "bytes")
    assert corpus[0].tobytes() == TEXT + bytes(range(256))
    assert corpus.ids() == ["source"]
    unigram = corpus.unigram()
    assert len(unigram.probabilities) == 260
    assert not unigram.probabilities[256:].any()


def test_the_unigram_baseline_is_of_the_bases_that_are_scored(tmp_path) -> None:
    corpus = made(tmp_path, b">a\nAAAAAACCNNNNNNNN\n", "dna")
    probabilities = dict(zip(corpus.alphabet.tokens, corpus.unigram().probabilities, strict=True))
    assert {letter: p for letter, p in probabilities.items() if p} == pytest.approx(
        {"A": 7 / 12, "C": 3 / 12, "G": 1 / 12, "T": 1 / 12}
    )


def test_a_corpus_of_proteins_says_nothing_new(tmp_path) -> None:
    corpus = made(tmp_path, b">a\nMKTAYIAK\n", "protein")
    assert corpus.alphabet == PROTEIN
    with h5py.File(corpus.path) as file:
        assert set(file.attrs) == {"format", "version", "alphabet", "sources", "changes", "options"}
        assert not {"alphabet", "layout", "cut"} & set(json.loads(str(file.attrs["options"])))


def test_options_select_by_the_words_of_the_alphabet(tmp_path) -> None:
    corpus = made(tmp_path, b">a\nACGTN\n>b\nACGT\n>c\nAC\n", "dna", min_length=3, nonstandard="drop")
    assert corpus.ids() == ["b"]
    assert set(corpus.attributes["changes"]) == {"left out, shorter than 3 bases", "left out, ambiguous bases"}


def test_nothing_to_predict_is_refused(tmp_path) -> None:
    with pytest.raises(UserError, match="none of the bases that are predicted, ACGT"):
        made(tmp_path, b">a\nNNNN\n", "dna")


def test_pieces_of_a_record_are_in_one_split(tmp_path) -> None:
    letters = "".join(np.random.default_rng(1).choice(list("ACGT"), 20_000))
    source, held = tmp_path / "genome.fa", frozenset({"chr7"})
    source.write_text("".join(f">chr{i}\n{letters[i * 1000 : i * 1000 + 50 * i + 30]}\n" for i in range(20)))
    selection = Selection(alphabet=ALPHABETS["dna"], cut=100)
    for whole in (False, True):
        rule = SplitRule(0.2, 0.3, None, whole, held if whole else frozenset(), whole)
        prepare_corpus([source], tmp_path / "c.h5", rule, selection)
        corpus = Corpus(tmp_path / "c.h5")
        splits: dict[str, set[str]] = {}
        for name, code in zip(corpus.ids(), corpus.split, strict=True):
            splits.setdefault(name.partition(":")[0], set()).add(SPLITS[code])
        assert len(splits) == 20
        assert all(len(found) == 1 for found in splits.values()) == whole
    assert splits["chr7"] == {"ood"}
    assert set.union(*splits.values()) == set(SPLITS)


def test_corpora_of_two_alphabets_cannot_be_joined(tmp_path) -> None:
    dna, rna = (made(tmp_path, b">a\nACGT\n", name) for name in ("dna", "rna"))
    with pytest.raises(UserError, match=r"rna.h5 is of rna, and .*dna.h5 of dna"):
        Corpora([dna, rna])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alphabet": ALPHABETS["dna"], "invalid": "skip"}, "invalid is only for proteins"),
        ({"layout": "line"}, "layout: requires another alphabet than protein"),
        ({"cut": 5}, "cut: requires another alphabet than protein"),
    ],
)
def test_options_without_effect_are_refused(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Selection(**options)


def test_documents_of_several_files_in_several_processes(tmp_path) -> None:
    paths = [tmp_path / f"{number}.txt" for number in range(3)]
    for path in paths:
        path.write_bytes(path.name.encode() * 5)
    out = tmp_path / "text.h5"
    summary = prepare_corpus(paths, out, ALL_TRAIN, Selection(alphabet=ALPHABETS["bytes"]), workers=2)
    corpus = Corpus(out)
    assert corpus.ids() == ["0.txt", "1.txt", "2.txt"]
    assert np.array_equal(corpus[1], np.frombuffer(b"1.txt" * 5, np.uint8))
    assert summary.describe("out")[0] == "out: 3 documents, 75 bytes (train 3, valid 0, test 0, ood 0)"


@pytest.mark.parametrize("layout", ["file", "line"])
def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path, layout: str) -> None:
    paths = [tmp_path / name for name in ("a/x.txt", "b/x.txt", "b/y.txt")]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"text of {path}")
    selection = Selection(alphabet=ALPHABETS["bytes"], layout=layout)
    held = frozenset({"b/x.txt" if layout == "file" else "b/x.txt:1"})
    prepare_corpus(paths, tmp_path / "c.h5", SplitRule(0, 0, held_out=held), selection)
    corpus = Corpus(tmp_path / "c.h5")
    names = ["a/x.txt", "b/x.txt", "y.txt"]
    assert corpus.ids() == (names if layout == "file" else [f"{name}:1" for name in names])
    assert [SPLITS[code] for code in corpus.split] == ["train", "ood", "train"]
