import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from protlm.corpus.prepare import prepare_corpus
from protlm.corpus.reader import Corpus
from protlm.corpus.splits import SPLITS, SplitRule
from protlm.corpus.statistics import describe, describe_lengths, draw_lengths, format_description, length_counts
from protlm.sequence.alphabet import SCORED

# valid and test have no share, so all proteins that are not held out are for training
RECORDS = {"a": "LLLA", "b": "LWX", "c": "mLLLL*", "d": "WWWWWWWWWW", "e": "LL"}
CLUSTERS = {"a": "a", "b": "a", "c": "c", "d": "d", "e": "d"}


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    (tmp_path / "small.fasta").write_text("".join(f">{name}\n{letters}\n" for name, letters in RECORDS.items()))
    (tmp_path / "table.tsv").write_text("".join(f"{cluster}\t{name}\n" for name, cluster in CLUSTERS.items()))
    rule = SplitRule(0, 0, tmp_path / "table.tsv", held_out=frozenset({"d"}))
    prepare_corpus([tmp_path / "small.fasta"], tmp_path / "small.h5", rule)
    return Corpus(tmp_path / "small.h5")


@given(st.dictionaries(st.integers(1, 40_000), st.integers(1, 50), min_size=1))
def test_length_statistics_equal_those_of_numpy(histogram: dict[int, int]) -> None:
    values = np.array(sorted(histogram))
    counts = np.array([histogram[value] for value in sorted(histogram)])
    every = np.repeat(values, counts)
    found = describe_lengths(values, counts)
    assert (found["count"], found["min"], found["max"]) == (len(every), every.min(), every.max())
    assert found["median"] == np.median(every)
    assert found["mean"] == pytest.approx(every.mean())
    assert found["std"] == pytest.approx(every.std(), abs=1e-6)


@pytest.mark.parametrize("rows", [1, 7, 1 << 20])
def test_length_counts_are_those_of_each_split(corpus_path: Path, monkeypatch, rows: int) -> None:
    monkeypatch.setattr("protlm.corpus.statistics._ROWS", rows)
    corpus = Corpus(corpus_path)
    found = length_counts(corpus)
    assert list(found) == list(SPLITS)
    for split, (lengths, counts) in found.items():
        expected = Counter(corpus.lengths[corpus.members(split)].tolist())
        assert dict(zip(lengths.tolist(), counts.tolist(), strict=True)) == expected
        assert (np.diff(lengths) > 0).all()


def test_the_figures_equal_those_computed_protein_by_protein(corpus_path: Path) -> None:
    corpus = Corpus(corpus_path)
    figures = describe(corpus)
    assert set(figures["splits"]) == {*SPLITS, "all"}
    train = np.bincount(np.concatenate([corpus[i] for i in corpus.members("train")]), minlength=33)
    smoothed = np.where(SCORED, train + 1, 0)
    probabilities = smoothed / smoothed.sum()
    assert corpus.clusters is not None
    for split, row in figures["splits"].items():
        proteins = np.arange(len(corpus)) if split == "all" else corpus.members(split)
        tokens = np.concatenate([corpus[i] for i in proteins])
        lengths = corpus.lengths[proteins]
        assert (row["count"], row["residues"]) == (len(proteins), len(tokens))
        assert (row["min"], row["max"], row["median"]) == (lengths.min(), lengths.max(), np.median(lengths))
        assert (row["mean"], row["std"]) == pytest.approx((lengths.mean(), lengths.std()))
        scored = tokens[SCORED[tokens]]
        assert row["unigram_accuracy"] == pytest.approx((scored == train.argmax()).mean())
        assert row["unigram_perplexity"] == pytest.approx(np.exp(-np.log(probabilities[scored]).mean()))
        assert sum(figures["frequencies"][split].values()) == pytest.approx(1)
        if split != "all":
            assert row["clusters"] == len(set(corpus.clusters[proteins].tolist()))
    assert figures["splits"]["all"]["clusters"] == figures["clusters"]["count"]


def test_the_figures_of_a_tiny_corpus_equal_a_count_by_hand(corpus: Corpus) -> None:
    figures = describe(corpus)
    assert json.loads(json.dumps(figures)) == figures
    # training holds LLLA, LWX and MLLLL: 8 L, M, A and W once; one is added to each of 22, X is not scored
    train, ood, whole = (figures["splits"][name] for name in ("train", "ood", "all"))
    assert list(figures["splits"]) == ["train", "ood", "all"]
    assert train == {
        "count": 3,
        "min": 3,
        "max": 5,
        "mean": 4.0,
        "std": pytest.approx((2 / 3) ** 0.5),
        "median": 4.0,
        "residues": 12,
        "clusters": 2,
        "unigram_accuracy": pytest.approx(8 / 11),
        "unigram_perplexity": pytest.approx(((9 / 33) ** 8 * (2 / 33) ** 3) ** (-1 / 11)),
    }
    assert (ood["count"], ood["residues"], ood["clusters"], ood["median"]) == (2, 12, 1, 6.0)
    assert ood["unigram_accuracy"] == pytest.approx(2 / 12)
    assert ood["unigram_perplexity"] == pytest.approx(((2 / 33) ** 10 * (9 / 33) ** 2) ** (-1 / 12))
    assert (whole["count"], whole["residues"], whole["clusters"]) == (5, 24, 3)
    assert figures["frequencies"]["train"] == pytest.approx(
        {"L": 8 / 12, "A": 1 / 12, "W": 1 / 12, "X": 1 / 12, "M": 1 / 12}
    )
    assert figures["clusters"] == {"count": 3, "largest": 2, "singletons": 1, "median": 2.0}
    assert figures["changes"]["final stop removed"] == {"records": 1, "residues": 1}
    assert figures["options"]["clusters"]["name"] == "table.tsv"


def test_the_text_for_a_tiny_corpus(corpus: Corpus, tmp_path: Path) -> None:
    content = (tmp_path / "small.fasta").read_bytes()
    # perplexity of train: exp((8 ln(33/9) + 3 ln(33/2)) / 11) = 5.53
    assert format_description(describe(corpus)).splitlines() == [
        f"made from small.fasta ({len(content)} bytes, XXH3-128 {xxhash.xxh3_128_hexdigest(content)})",
        "1 record: lower case made upper case (1 residue)",
        "1 record: final stop removed (1 residue)",
        "",
        "split  proteins  residues  min  max  mean  std  median  clusters  accuracy  perplexity",
        "train         3        12    3    5   4.0  0.8     4.0         2   72.73 %        5.53",
        "ood           2        12    2   10   6.0  4.0     6.0         1   16.67 %       12.84",
        "all           5        24    2   10   4.8  2.8     4.0         3   43.48 %        8.58",
        "",
        "lengths in residues; accuracy and perplexity of the unigram baseline (training frequencies, Laplace-smoothed)",
        "clusters: 3, largest 2, median 2, singletons 1",
        "",
        "residue frequencies in percent:",
        "W 45.83   L 41.67   A  4.17   M  4.17   X  4.17",
    ]


def test_without_clusters_there_are_no_figures_of_them(tmp_path: Path, write_fasta) -> None:
    prepare_corpus([write_fasta([("a", "MKT")])], tmp_path / "c.h5", SplitRule(0, 0))
    figures = describe(Corpus(tmp_path / "c.h5"))
    assert figures["clusters"] is None
    assert figures["splits"]["train"]["clusters"] is None
    text = format_description(figures)
    assert "clusters:" not in text
    assert text.splitlines()[3].split()[:3] == ["train", "1", "3"]


def test_without_training_proteins_the_baseline_is_uniform(tmp_path: Path, write_fasta) -> None:
    fasta = write_fasta([("a", "MKT")])
    prepare_corpus([fasta], tmp_path / "c.h5", SplitRule(held_out=frozenset({"a"})))
    figures = describe(Corpus(tmp_path / "c.h5"))
    assert list(figures["splits"]) == ["ood", "all"]
    assert figures["splits"]["ood"]["unigram_perplexity"] == pytest.approx(22)
    assert format_description(figures)


@pytest.mark.parametrize(("ending", "start"), [("png", b"\x89PNG\r\n\x1a\n"), ("pdf", b"%PDF-"), ("svg", b"<?xml")])
def test_lengths_are_drawn(corpus: Corpus, tmp_path: Path, ending: str, start: bytes) -> None:
    draw_lengths(corpus, tmp_path / f"lengths.{ending}")
    assert (tmp_path / f"lengths.{ending}").read_bytes().startswith(start)


@pytest.mark.parametrize("sequences", [["M"], ["MKT", "MKT"], ["M", "M" * 40_000]])
def test_few_lengths_are_drawn_too(tmp_path: Path, write_fasta, sequences: list[str]) -> None:
    fasta = write_fasta((f"p{i}", sequence) for i, sequence in enumerate(sequences))
    prepare_corpus([fasta], tmp_path / "c.h5")
    draw_lengths(Corpus(tmp_path / "c.h5"), tmp_path / "lengths.png")
    assert (tmp_path / "lengths.png").stat().st_size > 1_000


def test_a_cluster_in_two_splits_is_one_cluster(corpus_path: Path) -> None:
    corpus = Corpus(corpus_path)
    figures = describe(corpus)
    sizes = np.unique(corpus.clusters, return_counts=True)[1]
    assert figures["splits"]["all"]["clusters"] == figures["clusters"]["count"] == len(sizes) == 20
    assert (figures["clusters"]["largest"], figures["clusters"]["median"]) == (sizes.max(), np.median(sizes))
    assert figures["splits"]["train"]["clusters"] + figures["splits"]["test"]["clusters"] > len(sizes)
