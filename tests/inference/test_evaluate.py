import dataclasses
import math
import random
from collections import Counter
from pathlib import Path

import pytest
import torch

from protlm.inference.evaluate import evaluate
from protlm.performer import Performer
from protlm.sequence.alphabet import INDEX, STANDARD
from protlm.sequence.corpus import Corpus
from protlm.sequence.prepare import prepare_corpus
from protlm.sequence.splits import SplitRule


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
    """Unigram accuracy and perplexity over all residues of a split, counted the plain way."""
    train, asked = residues(corpus, "train"), residues(corpus, split)
    total = sum(train.values()) + 22
    best = max(train, key=lambda token: train[token])
    log = sum(count * math.log((train[token] + 1) / total) for token, count in asked.items())
    return asked[best] / asked.total(), math.exp(-log / asked.total())


def test_the_baseline_equals_a_calculation_by_hand(tiny_model: Performer, corpus: Corpus) -> None:
    results = evaluate(tiny_model, corpus, max_length=100, share=1)
    assert set(results) == {"train", "valid", "test", "ood"}
    for split, row in results.items():
        assert (row["unigram_accuracy"], row["unigram_perplexity"]) == pytest.approx(baseline(corpus, split))


def test_a_causal_model_is_asked_for_every_residue(causal_model: Performer, corpus: Corpus) -> None:
    # <cls> comes first, so that each residue is a target once
    for split, row in evaluate(causal_model, corpus, max_length=100).items():
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
def test_the_same_seed_asks_the_same_whatever_the_budget(request, model: str, corpus: Corpus) -> None:
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


def test_what_is_scored_cannot_be_copied(tiny_model: Performer, corpus: Corpus) -> None:
    """A model that repeats its input is never right, since every selected residue is masked."""

    class Copy(torch.nn.Module):
        config = tiny_model.config

        def __init__(self) -> None:
            super().__init__()
            self.scale = torch.nn.Parameter(torch.tensor(9.0))

        def forward(self, tokens: torch.Tensor, key_mask: torch.Tensor) -> torch.Tensor:
            return self.scale * torch.nn.functional.one_hot(tokens, 33)

    assert {row["accuracy"] for row in evaluate(Copy(), corpus).values()} == {0}


def test_empty_splits_are_left_out_and_progress_reaches_the_end(tiny_model: Performer, write_fasta, tmp_path) -> None:
    prepare_corpus([write_fasta([("a", "MKTAYIAK")])], tmp_path / "c.h5", SplitRule(0, 0))
    steps = []
    results = evaluate(tiny_model, Corpus(tmp_path / "c.h5"), progress=lambda *step: steps.append(step))
    assert set(results) == {"train"}
    assert steps == [(1, 1)]
