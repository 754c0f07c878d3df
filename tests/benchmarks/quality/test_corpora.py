"""The corpora of the comparison."""

from pathlib import Path

import pytest

from benchmarks.quality import corpora
from protlm.corpus.reader import Corpus
from protlm.errors import UserError
from tests.benchmarks.quality.comparison import ALL, call
from tests.conftest import DATA


def test_corpora_depend_only_on_their_inputs(tmp_path: Path, capsys) -> None:
    table = corpora.table_of(ALL.clusters)
    path = corpora.make_corpus("families", corpora.SAMPLE, tmp_path)
    names = {split: corpus_ids(Corpus(path), split) for split in ("train", "valid", "test", "ood")}
    assert {table[name] for name in names["ood"]} == set((DATA / "families.ood.txt").read_text().split())
    trained_on = {table[name] for name in names["train"]}
    assert len(trained_on) == 17
    assert {table[name] for name in names["test"]} == trained_on
    before = path.stat().st_mtime_ns
    corpora.make_corpus("families", corpora.SAMPLE, tmp_path)
    assert path.stat().st_mtime_ns == before

    whole = Corpus(corpora.make_corpus("swissprot", ALL, tmp_path))
    sides = [{table[name] for name in corpus_ids(whole, split)} for split in ("train", "valid", "test", "ood")]
    assert sum(map(len, sides)) == len(set.union(*sides)) == len(set(table.values()))
    assert sides[3] == set((tmp_path / "swissprot.ood.txt").read_text().split())
    assert len(sides[3]) == 2
    other = corpora.Sources(ALL.fasta, ALL.clusters, ood_share=0.2)
    assert Corpus(corpora.make_corpus("swissprot", other, tmp_path)).fingerprint != whole.fingerprint


def test_all_of_swissprot_needs_a_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give FASTA and --clusters TABLE, or --corpora families"):
        call(["train", "--work", tmp_path])
    one = tmp_path / "one.tsv"
    one.write_text("P1\tP1\nP1\tP2\n")
    with pytest.raises(UserError, match="has 1 clusters; expected at least 2"):
        corpora.make_corpus("swissprot", corpora.Sources(ALL.fasta, one), tmp_path)


def corpus_ids(corpus: Corpus, split: str) -> list[str]:
    ids = corpus.ids()
    return [ids[index] for index in corpus.members(split)]
