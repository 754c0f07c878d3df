import dataclasses
import json
import math
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from protlm.corpus.prepare import prepare_corpus
from protlm.corpus.reader import Corpus
from protlm.corpus.splits import SPLITS, SplitRule
from protlm.errors import ProtlmWarning, UserError
from protlm.inference.evaluate import evaluate, format_details, to_json
from protlm.performer import Performer
from protlm.sequence.alphabet import INDEX, STANDARD


@pytest.fixture
def corpus(write_fasta, tmp_path: Path) -> Corpus:
    chance = random.Random(0)
    fasta = write_fasta((f"p{i}", "".join(chance.choices(STANDARD + "LLLLX", k=5 + i))) for i in range(60))
    prepare_corpus([fasta], tmp_path / "c.h5", SplitRule(0.2, 0.2, held_out=frozenset({"p7", "p50"})))
    return Corpus(tmp_path / "c.h5")


@pytest.fixture
def causal_model(tiny_model: Performer) -> Performer:
    torch.manual_seed(1)
    return Performer(dataclasses.replace(tiny_model.config, causal=True)).eval()


def residues(corpus: Corpus, split: str) -> Counter[int]:
    return Counter(int(token) for i in corpus.members(split) for token in corpus[i] if token != INDEX["X"])


def baseline(corpus: Corpus, split: str) -> tuple[float, float]:
    """Unigram accuracy and perplexity over all residues of a split, counted directly."""
    train, scored = residues(corpus, "train"), residues(corpus, split)
    total = sum(train.values()) + 22
    best = max(train, key=lambda token: train[token])
    log = sum(count * math.log((train[token] + 1) / total) for token, count in scored.items())
    return scored[best] / scored.total(), math.exp(-log / scored.total())


def test_the_baseline_equals_a_calculation_by_hand(tiny_model: Performer, corpus: Corpus) -> None:
    results = evaluate(tiny_model, corpus, SPLITS, max_length=100, share=1)
    assert set(results) == {"train", "valid", "test", "ood"}
    for split, row in results.items():
        assert (row["unigram_accuracy"], row["unigram_perplexity"]) == pytest.approx(baseline(corpus, split))


def test_a_causal_model_is_scored_on_every_residue(causal_model: Performer, corpus: Corpus) -> None:
    # <cls> comes first, so that each residue is a target once
    for split, row in evaluate(causal_model, corpus, SPLITS, max_length=100).items():
        assert (row["unigram_accuracy"], row["unigram_perplexity"]) == pytest.approx(baseline(corpus, split))


def test_accuracy_and_perplexity_of_a_causal_model_protein_by_protein(causal_model: Performer, corpus: Corpus) -> None:
    right = count = 0
    log = 0.0
    for i in corpus.members("test"):
        tokens = torch.tensor([0, *corpus[i].tolist()])[None]
        with torch.inference_mode():
            predicted = causal_model(tokens)[0, :-1].double().log_softmax(-1)
        for row, target in zip(predicted, tokens[0, 1:].tolist(), strict=True):
            if target != INDEX["X"]:
                right, count, log = right + (row.argmax() == target).item(), count + 1, log + row[target].item()
    result = evaluate(causal_model, corpus, max_length=100)["test"]
    assert result["accuracy"] == pytest.approx(right / count)
    assert result["perplexity"] == pytest.approx(math.exp(-log / count), rel=1e-4)


@pytest.mark.parametrize("model", ["tiny_model", "causal_model"])
def test_the_same_seed_masks_the_same_residues_at_any_budget(request, model: str, corpus: Corpus) -> None:
    network = request.getfixturevalue(model)
    first = evaluate(network, corpus)
    assert evaluate(network, corpus) == first
    for token_budget in (1, 200):
        again = evaluate(network, corpus, token_budget=token_budget)
        assert again.keys() == first.keys()
        for split, row in again.items():
            assert row["accuracy"] == first[split]["accuracy"]
            assert row == pytest.approx(first[split])


def test_another_seed_masks_other_residues(tiny_model: Performer, corpus: Corpus) -> None:
    assert evaluate(tiny_model, corpus, seed=1) != evaluate(tiny_model, corpus, seed=2)


def test_scored_residues_cannot_be_copied(tiny_model: Performer, corpus: Corpus) -> None:
    """A model that repeats its input is never right, since every selected residue is masked."""

    class Copy(Performer):
        def forward(self, tokens: torch.Tensor, *others: Any) -> torch.Tensor:
            return 9.0 * torch.nn.functional.one_hot(tokens, 33)

    assert {row["accuracy"] for row in evaluate(Copy(tiny_model.config), corpus).values()} == {0}


def test_a_model_in_training_mode_is_evaluated_and_trained_on(tiny_model: Performer, corpus: Corpus) -> None:
    model = Performer(dataclasses.replace(tiny_model.config, dropout=0.5))
    expected = evaluate(model.eval(), corpus)
    assert evaluate(model.train(), corpus) == expected
    assert all(module.training for module in model.modules())


def test_extrapolated_positions_are_warned_of(tiny_model: Performer, corpus: Corpus) -> None:
    model = Performer(dataclasses.replace(tiny_model.config, max_length=20)).eval()
    evaluate(model, corpus)  # crops to the learned positions
    with pytest.warns(ProtlmWarning, match="longer than the 20 positions"):
        evaluate(model, corpus, max_length=40)


class Constant(Performer):
    """Predicts the same at every position: A with probability 1/2, L with 1/4, the others with 1/124 each."""

    def __init__(self, model: Performer, causal: bool = False) -> None:
        super().__init__(dataclasses.replace(model.config, causal=causal, positions="rotary"))
        probabilities = torch.full((33,), 1 / 124)
        probabilities[INDEX["A"]], probabilities[INDEX["L"]] = 1 / 2, 1 / 4
        self.constant = torch.nn.Parameter(probabilities.log())

    def forward(self, tokens: torch.Tensor, *others: Any) -> torch.Tensor:
        return self.constant.expand(*tokens.shape, 33)


@pytest.fixture
def graded(write_fasta, tmp_path: Path) -> Corpus:
    """Proteins of one residue each, at the bounds of bins: A up to 128, L up to 256, U up to 512, W above 16,384."""
    lengths = {"A": (1, 127, 128), "L": (129, 256), "U": (257, 512), "W": (16_385,)}
    fasta = write_fasta((f"{letter}{length}", letter * length) for letter, sizes in lengths.items() for length in sizes)
    prepare_corpus([fasta], tmp_path / "g.h5", SplitRule(0, 0))
    return Corpus(tmp_path / "g.h5")


@pytest.mark.parametrize("causal", [False, True])
def test_the_parts_of_a_split_equal_a_calculation_by_hand(tiny_model: Performer, graded: Corpus, causal: bool) -> None:
    result = evaluate(Constant(tiny_model, causal), graded, ["train"], max_length=20_000, share=1)["train"]
    total = 256 + 385 + 769 + 16_385 + 22
    expected = {
        (1, 128): (3, 256, 1, 2, 0, total / 257),
        (129, 256): (2, 385, 0, 4, 0, total / 386),
        (257, 512): (2, 769, 0, 124, 0, total / 770),
        (16_385, None): (1, 16_385, 0, 124, 1, total / 16_386),
    }
    assert [(row["min"], row["max"]) for row in result.by_length] == list(expected)
    names = ("asked", "accuracy", "perplexity", "unigram_accuracy", "unigram_perplexity")
    for row, letter in zip(result.by_length, "ALUW", strict=True):
        proteins, *numbers = expected[row["min"], row["max"]]
        assert row["proteins"] == proteins
        assert [row[name] for name in names] == pytest.approx(numbers, rel=1e-5)
        by_residue = result.by_residue[letter]
        assert [by_residue[name] for name in names] == pytest.approx(numbers, rel=1e-5)
        assert by_residue["predicted"] == (256 + 385 + 769 + 16_385 if letter == "A" else 0)
    assert list(result.by_residue) == ["A", "L", "W", "U"]
    assert (result.proteins, result.scored) == (8, 256 + 385 + 769 + 16_385)


def test_a_cropped_protein_stays_in_the_bin_of_its_length(tiny_model: Performer, graded: Corpus) -> None:
    rows = evaluate(Constant(tiny_model), graded, ["train"], max_length=10, share=1)["train"].by_length
    assert [(row["min"], row["proteins"]) for row in rows] == [(1, 3), (129, 2), (257, 2), (16_385, 1)]
    assert all(row["asked"] <= 10 * row["proteins"] for row in rows)


@pytest.mark.parametrize(("causal", "positions"), [(False, "learned"), (True, "rotary")])
def test_the_parts_add_up_to_the_split(tiny_model: Performer, corpus_path: Path, causal: bool, positions: str) -> None:
    torch.manual_seed(2)
    model = Performer(dataclasses.replace(tiny_model.config, causal=causal, positions=positions)).eval()
    for split, result in evaluate(model, Corpus(corpus_path), max_length=200).items():
        assert result.proteins == sum(row["proteins"] for row in result.by_length) > 0
        for rows in (result.by_length, list(result.by_residue.values())):
            scored = [row["asked"] for row in rows]
            assert sum(scored) == result.scored > 0
            for name in ("accuracy", "unigram_accuracy"):
                mean = sum(row[name] * count for row, count in zip(rows, scored, strict=True)) / result.scored
                assert mean == pytest.approx(result[name]), split
            for name in ("perplexity", "unigram_perplexity"):
                mean = sum(math.log(row[name]) * count for row, count in zip(rows, scored, strict=True)) / result.scored
                assert math.exp(mean) == pytest.approx(result[name], rel=1e-5), split


def test_a_split_is_the_same_alone_and_among_others(tiny_model: Performer, corpus: Corpus) -> None:
    every = evaluate(tiny_model, corpus, SPLITS)
    assert list(every) == list(SPLITS)
    assert list(evaluate(tiny_model, corpus, ["ood", "test", "ood"])) == ["ood", "test"]
    assert list(evaluate(tiny_model, corpus)) == ["test", "ood"]
    for split, result in every.items():
        alone = evaluate(tiny_model, corpus, [split])[split]
        assert (alone, alone.by_length, alone.by_residue) == (result, result.by_length, result.by_residue)


def test_splits_without_proteins_and_unknown_ones_are_refused(tiny_model, write_fasta, tmp_path: Path) -> None:
    proteins = [(f"p{i}", "MKTAYIAK" + "A" * i) for i in range(5)]
    prepare_corpus([write_fasta(proteins)], tmp_path / "c.h5", SplitRule(0, 0, held_out=frozenset({"p1"})))
    prepare_corpus([write_fasta(proteins)], tmp_path / "t.h5", SplitRule(0, 0))
    both, train = Corpus(tmp_path / "c.h5"), Corpus(tmp_path / "t.h5")
    assert list(evaluate(tiny_model, both)) == ["ood"]
    with pytest.raises(UserError, match=r"c\.h5: no proteins in valid, test; splits with proteins: train, ood"):
        evaluate(tiny_model, both, ["valid", "ood", "test"])
    with pytest.raises(UserError, match="split 'tets': expected one of train, valid, test, ood"):
        evaluate(tiny_model, both, ["tets"])
    with pytest.raises(UserError, match=r"no proteins in test or ood; .*: train$"):
        evaluate(tiny_model, train)


@pytest.mark.parametrize("token_budget", [1, 16_384])
def test_progress_counts_proteins_to_the_end(tiny_model: Performer, corpus: Corpus, token_budget: int) -> None:
    steps = []
    evaluate(tiny_model, corpus, token_budget=token_budget, progress=lambda *step: steps.append(step))
    proteins = len(corpus.members("test")) + len(corpus.members("ood"))
    assert steps == sorted(set(steps))
    assert steps[-1] == (proteins, proteins)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_output_that_is_not_finite_is_refused(tiny_model: Performer, corpus: Corpus, value: float) -> None:
    tiny_model.head.weight.data.fill_(value)
    with pytest.raises(UserError, match="not finite"):
        evaluate(tiny_model, corpus)


def test_json_holds_everything(tiny_model: Performer, corpus: Corpus) -> None:
    options = {"max_length": 64, "seed": 3}
    results = evaluate(tiny_model, corpus, SPLITS, **options)
    content = json.loads(to_json(results, tiny_model, "some/model", corpus, options))
    assert (content["format"], content["version"]) == ("protlm evaluation", 1)
    assert content["model"] == {"path": "some/model", "causal": False}
    assert content["corpus"] == {"path": str(corpus.path), "fingerprint": corpus.fingerprint}
    assert content["options"] == {**options, "device": "cpu"}
    assert list(content["splits"]) == list(SPLITS)
    for split, result in results.items():
        row = content["splits"][split]
        assert row.pop("by_length") == result.by_length
        assert row.pop("by_residue") == result.by_residue
        assert (row.pop("proteins"), row.pop("asked")) == (result.proteins, result.scored)
        assert row == result


def test_nan_is_null_in_json(tiny_model: Performer, write_fasta, tmp_path: Path) -> None:
    rule = SplitRule(0, 0, held_out=frozenset("x"))
    prepare_corpus([write_fasta([("a", "MKT"), ("x", "XXX")])], tmp_path / "c.h5", rule)
    corpus = Corpus(tmp_path / "c.h5")
    results = evaluate(tiny_model, corpus, ["ood"])
    row = json.loads(to_json(results, tiny_model, "m", corpus, {}))["splits"]["ood"]
    nothing = dict.fromkeys(("accuracy", "perplexity", "unigram_accuracy", "unigram_perplexity"))
    assert row.pop("by_length") == [{"min": 1, "max": 128, "proteins": 1, "asked": 0, **nothing}]
    assert row == {"proteins": 1, "asked": 0, "by_residue": {}, **nothing}


def test_the_details_have_a_line_for_each_part(tiny_model: Performer, graded: Corpus) -> None:
    results = evaluate(Constant(tiny_model), graded, ["train"], max_length=20_000, share=1)
    by_length, by_residue = (table.splitlines() for table in format_details(results).split("\n\n"))
    assert by_length[0].split()[:5] == ["train", "by", "length", "proteins", "scored"]
    assert by_length[1].split() == ["1-128", "3", "256", "100.0", "%", "0.0", "%", "2.00", "69.33"]
    assert by_length[-1].split()[:5] == ["16,385", "and", "more", "1", "16,385"]
    assert by_residue[0].split()[:5] == ["train", "by", "residue", "scored", "predicted"]
    assert [line.split()[0] for line in by_residue[1:]] == ["A", "L", "W", "U"]
    assert by_residue[1].split() == ["A", "256", "17,795", "100.0", "%", "2.00", "69.33"]
    for table in (by_length, by_residue):
        assert len({len(line) for line in table}) == 1


def test_a_corpus_overwritten_during_evaluation_is_reported(tiny_model: Performer, write_fasta, tmp_path: Path) -> None:
    path = tmp_path / "c.h5"
    prepare_corpus([write_fasta([(f"p{i}", "MKTAYIAKQR" * 5) for i in range(200)])], path, SplitRule(0, 0))
    batches = []

    def overwrite(done: int, total: int) -> None:
        batches.append(done)
        path.write_bytes(b"")

    with pytest.raises(UserError, match=r"c\.h5: has changed since it was opened"):
        evaluate(tiny_model, Corpus(path), ["train"], max_length=64, token_budget=640, progress=overwrite)
    assert len(batches) == 1
