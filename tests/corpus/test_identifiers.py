"""Cluster tables and lists of held-out identifiers are matched with the records, or refused."""

import shutil
from pathlib import Path

import pytest

from protlm.corpus.identifiers import keys
from protlm.corpus.ingest import Selection
from protlm.corpus.prepare import prepare_corpus
from protlm.corpus.reader import Corpus
from protlm.corpus.splits import SplitRule
from protlm.errors import UserError
from protlm.training.datamodule import TremblDataModule
from tests.command import assert_refused

NAMES = [f"P{number:05d}" for number in range(1, 9)]
SEQUENCES = [f"MKTAYIAKQ{letter}" for letter in "ACDEFGHI"]
FORMS = {
    "accession": "{}",
    "UniProt": "sp|{}|NAME_ORG",
    "TrEMBL": "tr|{}|NAME_ORG",
    "quoted": '"{}"',
    "quoted UniProt": "'sp|{}|NAME_ORG'",
    "description": "sp|{}|NAME_ORG Some protein OS=x",
    "plain with description": "{} some protein",
    "header": ">sp|{}|NAME_ORG Some protein",
}


@pytest.fixture
def fasta(write_fasta) -> Path:
    return write_fasta((f"sp|{n}|NAME_ORG Some protein", s) for n, s in zip(NAMES, SEQUENCES, strict=True))


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("identifier", ["accession", "word", "header"])
def test_tables_and_lists_match_in_every_form(tmp_path: Path, fasta: Path, form: str, identifier: str) -> None:
    if identifier == "header" and form == FORMS["plain with description"]:
        form = FORMS["accession"]  # where identifiers have spaces, a description is part of them
    table = tmp_path / "clusters.tsv"
    names = [form.format(name) for name in NAMES]
    table.write_text("".join(f"{names[4 * (i // 4)]}\t{name}\n" for i, name in enumerate(names)))
    rule = SplitRule(0, 0, table, held_out=frozenset({names[1]}))
    summary = prepare_corpus([fasta], tmp_path / "c.h5", rule, Selection(identifier=identifier))
    corpus = Corpus(tmp_path / "c.h5")
    assert corpus.clusters is not None
    assert len(set(corpus.clusters[:4].tolist())) == len(set(corpus.clusters[4:].tolist())) == 1
    assert corpus.split.tolist() == [0, 3, 0, 0, 0, 0, 0, 0]
    assert (summary.clusters, summary.without_cluster, summary.not_found) == (2, 0, [])


def test_the_form_of_the_table_does_not_change_the_splits(tmp_path: Path, fasta: Path) -> None:
    splits = []
    for form in ("{}", "sp|{}|NAME_ORG"):
        names = [form.format(name) for name in NAMES]
        (tmp_path / "clusters.tsv").write_text("".join(f"{names[i // 2 * 2]}\t{n}\n" for i, n in enumerate(names)))
        prepare_corpus([fasta], tmp_path / "c.h5", SplitRule(0.3, 0.3, tmp_path / "clusters.tsv"))
        splits.append(Corpus(tmp_path / "c.h5").split.tolist())
    assert splits[0] == splits[1]
    assert len(set(splits[0])) > 1


def test_names_of_clusters_keep_their_spaces(tmp_path: Path, fasta: Path) -> None:
    table = tmp_path / "clusters.tsv"
    table.write_text("".join(f"family {i // 2}\t{name}\n" for i, name in enumerate(NAMES)))
    rule = SplitRule(0, 0, table, held_out=frozenset({"family 1"}))
    assert prepare_corpus([fasta], tmp_path / "c.h5", rule).clusters == 4
    assert Corpus(tmp_path / "c.h5").split.tolist() == [0, 0, 3, 3, 0, 0, 0, 0]


def test_headers_are_compared_whole(tmp_path: Path, write_fasta) -> None:
    fasta = write_fasta((f"protein {i}", sequence) for i, sequence in enumerate(SEQUENCES))
    (tmp_path / "clusters.tsv").write_text("".join(f"{i // 2}\tprotein {i}\n" for i in range(8)))
    rule = SplitRule(0, 0, tmp_path / "clusters.tsv", held_out=frozenset({"protein 3"}))
    summary = prepare_corpus([fasta], tmp_path / "c.h5", rule, Selection(identifier="header"))
    assert (summary.clusters, summary.without_cluster) == (4, 0)
    assert Corpus(tmp_path / "c.h5").split.tolist() == [0, 0, 0, 3, 0, 0, 0, 0]


@pytest.mark.parametrize("found", [0, 3, 4])
def test_half_of_the_table_has_to_match(protlm, tmp_path: Path, fasta: Path, found: int) -> None:
    names = [*NAMES[:found], *(f"UniRef50_{name}" for name in NAMES[found:])]
    (tmp_path / "clusters.tsv").write_text("".join(f"{names[0]}\t{name}\n" for name in names))
    outcome = protlm("prepare", fasta, "-o", tmp_path / "c.h5", "--clusters", tmp_path / "clusters.tsv")
    if found == 4:
        assert outcome.code == 0
        assert "4 records: not in the cluster table" in outcome.err
        return
    looks = f"{names[0]!r}, {names[1]!r}, {names[2]!r}, ... there and 'P00001', 'P00002', 'P00003', ... in the files"
    assert_refused(outcome, f"clusters.tsv: only {found} of 8 identifiers occur in the FASTA files", looks)
    assert not (tmp_path / "c.h5").exists()


def test_a_table_of_more_or_fewer_proteins_is_accepted(tmp_path: Path, fasta: Path) -> None:
    for names in (NAMES[:2], [*NAMES, *(f"Q{number}" for number in range(90))]):
        (tmp_path / "clusters.tsv").write_text("".join(f"{names[0]}\t{name}\n" for name in names))
        summary = prepare_corpus([fasta], tmp_path / "c.h5", SplitRule(clusters=tmp_path / "clusters.tsv"))
        assert summary.without_cluster == 8 - len(set(names) & set(NAMES))


@pytest.mark.parametrize("clusters", [False, True])
def test_half_of_the_held_out_list_has_to_match(protlm, tmp_path: Path, fasta: Path, clusters: bool) -> None:
    (tmp_path / "ood.txt").write_text("P00001\nQ1\nQ2\n")
    (tmp_path / "clusters.tsv").write_text("".join(f"{name}\t{name}\n" for name in NAMES))
    more = ("--clusters", tmp_path / "clusters.tsv") if clusters else ()
    command = ("prepare", fasta, "-o", tmp_path / "c.h5", "--ood", tmp_path / "ood.txt", *more)
    looks = "these are 'Q1', 'Q2' there and 'P00001', 'P00002', 'P00003', ... in the files"
    assert_refused(protlm(*command), "--ood: only 1 of 3 identifiers occur in the FASTA files", looks)
    (tmp_path / "ood.txt").write_text("P00001\nP00002\nQ2\n")
    outcome = protlm(*command)
    assert outcome.code == 0
    assert "warning: 1 identifier to hold out not in the files: Q2" in outcome.err


def test_records_left_out_may_be_on_the_list(tmp_path: Path, fasta: Path) -> None:
    with fasta.open("a") as file:
        file.write(">short\nMKT\n")
    rule, selection = SplitRule(held_out=frozenset({"short"})), Selection(min_length=4)
    assert prepare_corpus([fasta], tmp_path / "c.h5", rule, selection).not_found == ["short"]


def test_training_refuses_what_prepare_refuses(tmp_path: Path, fasta: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ids.txt").write_text("Q1\n")
    (tmp_path / "clusters.tsv").write_text("Q1\tQ1\nQ1\tQ2\n")
    with pytest.raises(UserError, match="only 0 of 1") as caught:
        TremblDataModule(fasta=str(fasta), held_out="ids.txt").prepare_data()
    assert caught.value.renamed("data.{}".format).startswith("data.held_out: only 0 of 1 identifiers")
    with pytest.raises(UserError, match=r"clusters\.tsv: only 0 of 2 identifiers"):
        TremblDataModule(fasta=str(fasta), clusters="clusters.tsv", split_by="cluster").prepare_data()


def test_duplicate_identifiers_are_kept_and_reported(protlm, write_fasta, tmp_path: Path) -> None:
    fasta = write_fasta([("a", "MKT"), ("sp|a|X_Y", "MKV"), ("b", "MKW"), ("a", "MKT")])
    again = shutil.copy(fasta, tmp_path / "again.fasta")
    outcome = protlm("prepare", fasta, again, "-o", tmp_path / "c.h5", "--workers", 2)
    assert "6 records: identifier of an earlier record; all are kept" in outcome.err
    assert len(Corpus(tmp_path / "c.h5")) == 8
    outcome = protlm("prepare", fasta, "-o", tmp_path / "c.h5", "--id", "header", "--deduplicate")
    assert "1 record: identifier of an earlier record; all are kept, apart from identical sequences" in outcome.err


def test_keys_of_odd_names() -> None:
    names = [b"\xff|x", b"''", b'"', b">", b"gi|1|x", b"sp||x", b"a|b|c|d"]
    assert list(keys(names)) == list(keys(names, whole=True)) == names
