"""Queries get the labels of their family, and others none."""

import random

import pandas
import pytest

import protlm
from protlm.annotation import index
from protlm.annotation.annotate import annotators_of
from protlm.annotation.options import AnnotateOptions
from protlm.annotation.reference import Reference
from protlm.errors import UserError
from protlm.performer import Performer
from tests.annotation.labelled import MEMBERS, families, write
from tests.homology.families import mutated, unrelated


@pytest.fixture
def reference(tmp_path):
    return write(tmp_path, families())


@pytest.fixture
def apart(tmp_path):
    """Clusters of one protein each, so that the reference needs no search."""
    path = tmp_path / "apart.tsv"
    path.write_text("".join(f"{name}\t{name}\n" for name in [*(name for name, _, _ in families()), "new"]))
    return path


def test_relatives_lend_their_labels_and_others_none(reference):
    generator = random.Random(5)
    parents = {name: sequence for name, sequence, _ in families()}
    queries = {"like 3": mutated(parents["f3m0"], 0.2, generator), "other": unrelated(generator, 90)}
    found = protlm.annotate(queries, *reference, by="homology", threads=1)
    own = found[found["query"] == "like 3"]
    assert set(own["label"]) == {"family 3", "odd"}
    assert own["reference"].str.startswith("f3").all()
    assert own["identity"].between(0.4, 1).all()
    assert own["precision"].between(0.5, 1).all()
    (other,) = found[found["query"] == "other"].to_dict("records")
    assert pandas.isna([other["label"], other["reference"], other["identity"]]).all()


def test_what_is_held_out_is_the_whole_cluster(reference, tmp_path):
    """If families are whole clusters, no relative is left without them; with smaller clusters, families are called."""
    clusters = tmp_path / "clusters.tsv"
    clusters.write_text("".join(f"{name[:2]}m0\t{name}\n" for name, _, _ in families()))
    known = Reference.read(*reference)
    (whole,), (smaller,) = (
        annotators_of(known, AnnotateOptions(by="homology", threads=1, clusters=table), None)
        for table in (clusters, None)
    )
    assert len(whole.held_out.score) == 0
    assert "labels are called for 0 % at a precision of 0.9" in whole.described
    right = known.labels["go"].have(smaller.held_out.query, smaller.held_out.label)
    assert right.mean() > 0.9
    assert smaller.held_out.score.mean() == pytest.approx(right.mean(), abs=0.1)


def test_close_relatives_are_called_where_no_remote_ones_are_known(reference, tmp_path):
    clusters = tmp_path / "clusters.tsv"
    clusters.write_text("".join(f"{name[:2]}m0\t{name}\n" for name, _, _ in families()))
    parents = {name: sequence for name, sequence, _ in families()}
    queries = {"like 3": mutated(parents["f3m0"], 0.2, random.Random(5))}
    found = protlm.annotate(queries, *reference, by="homology", threads=1, clusters=clusters)
    assert set(found["label"]) == {"family 3", "odd"}


@pytest.fixture
def columns():
    """Labels in columns: those of families, of every other family, and of all proteins but those of the first two."""
    rows = [(name, labels[0], labels[1], labels[0]) for name, _, labels in families()]
    table = pandas.DataFrame(rows, columns=["id", "family", "parity", "few"])
    table.loc[: 2 * MEMBERS - 1, "few"] = None
    return table


@pytest.mark.parametrize("by", ["embedding", "homology", "both"])
def test_each_column_gets_what_it_gets_alone(reference, columns, tiny_model, apart, by):
    """Also a column that labels fewer proteins: its neighbours are labelled ones, its curve is its own."""
    queries = {name: mutated(sequence, 0.2, random.Random(3)) for name, sequence, _ in families()[::6]}
    options = {"model": tiny_model, "by": by, "precision": 0.1, "threads": 1, "clusters": apart, "neighbours": 5}
    every = protlm.annotate(queries, reference[0], columns, column=["family", "parity", "few"], **options)
    assert list(every["query"]) == sorted(every["query"], key=list(queries).index)
    for column in ("family", "parity", "few"):
        alone = protlm.annotate(queries, reference[0], columns, column=column, **options)
        own = every[every["column"] == column].reset_index(drop=True)
        assert own.round(6).equals(alone.round(6))
        assert set(own["query"]) == set(queries)
    few = every[every["column"] == "few"]
    assert not few["reference"].str.match("f[01]").any()
    assert every[every["column"] == "family"]["reference"].str.match("f[01]").any()


def test_the_reference_is_searched_and_embedded_once(reference, columns, tiny_model, monkeypatch):
    from protlm.annotation import annotate as module

    calls = []
    for name in ("find_relatives", "embedded"):
        done = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *given, done=done, name=name: calls.append(name) or done(*given))
    queries = {"q": families()[0][1]}
    protlm.annotate(queries, reference[0], columns, tiny_model, ["family", "parity", "few"], threads=1)
    assert sorted(calls) == ["embedded"] * 2 + ["find_relatives"] * 2


@pytest.mark.parametrize("by", ["embedding", "both"])
def test_an_index_is_written_once_and_gives_the_same(reference, tiny_model, tmp_path, monkeypatch, by):
    queries = {name: sequence for name, sequence, _ in families()[:6]}
    path = tmp_path / "index.h5"
    options = {"model": tiny_model, "by": by, "precision": 0.2, "threads": 1}
    without = protlm.annotate(queries, *reference, **options)
    first = protlm.annotate(queries, *reference, index=path, **options)
    monkeypatch.setattr(index, "embed_fasta", None)
    monkeypatch.setattr("protlm.annotation.annotate.find_relatives", _only_queries)
    again = protlm.annotate(queries, *reference, index=path, **options)
    assert first.equals(again)
    assert without.round(3).equals(first.round(3))
    assert set(first["query"]) == set(queries)


def _only_queries(queries, targets, *arguments):
    from protlm.homology.relatives import find_relatives

    assert len(queries) == 6, "the reference is searched again"
    return find_relatives(queries, targets, *arguments)


def test_the_nearest_of_a_reference_protein_is_itself(reference, apart, tiny_model):
    name, sequence, _ = families()[7]
    options = {"by": "embedding", "precision": 1, "clusters": apart, "threads": 1}
    found = protlm.annotate({"q": sequence}, *reference, model=tiny_model, **options)
    (row,) = found.to_dict("records")
    assert (row["reference"], row["identity"]) == (name, 1)
    assert row["distance"] == pytest.approx(0, abs=1e-6)


def test_an_index_of_something_else_is_refused(reference, apart, tiny_model, causal_model, tmp_path):
    path, queries = tmp_path / "index.h5", {"q": families()[0][1]}
    options = {"index": path, "by": "embedding", "clusters": apart, "threads": 1}
    protlm.annotate(queries, *reference, model=tiny_model, **options)
    with pytest.raises(UserError, match="embeddings of another model"):
        protlm.annotate(queries, *reference, model=causal_model, **options)
    with pytest.raises(UserError, match=r"embeddings of layer 2; expected"):
        protlm.annotate(queries, *reference, model=tiny_model, layer=1, **options)
    records = families()
    changed = [(name, other, labels) for (name, _, labels), (_, other, _) in zip(records, records[::-1], strict=True)]
    with pytest.raises(UserError, match=r"is not that of its sequence in .*reference.fasta"):
        protlm.annotate(queries, *write(tmp_path, changed), model=tiny_model, **options)
    more = write(tmp_path, [*families(), ("new", "MKTAYIAK", ["even"])])
    with pytest.raises(UserError, match=r"1 of 33 labelled proteins of .* no embedding, such as 'new'"):
        protlm.annotate(queries, *more, model=tiny_model, **options)


def test_arguments_that_cannot_be_used_are_refused(reference, tmp_path):
    queries = {"q": families()[0][1]}
    for options, message in (
        ({"by": "magic"}, "by 'magic': expected one of embedding, homology, both"),
        ({"precision": 2}, "precision 2: expected a number from 0 to 1"),
        ({"neighbours": 0}, "neighbours 0: expected an integer of at least 1"),
        ({"nearest": 3}, "unexpected keyword argument 'nearest'"),
    ):
        with pytest.raises(UserError, match=message):
            protlm.annotate(queries, *reference, **options)
    few = write(tmp_path, families()[:10])
    with pytest.raises(UserError, match="10 proteins with labels in column 'go'; expected at least 20"):
        protlm.annotate(queries, *few, by="homology", threads=1)
    twice = write(tmp_path, [*families(), families()[3]])
    with pytest.raises(UserError, match=r"duplicate identifier 'f0m3' \(records 4 and 33\)"):
        protlm.annotate(queries, *twice, by="homology")


def test_models_stay_in_training(reference, apart, tiny_model: Performer):
    tiny_model.train()
    options = {"by": "embedding", "clusters": apart, "threads": 1}
    protlm.annotate({"q": families()[0][1]}, *reference, model=tiny_model, **options)
    assert tiny_model.training
