"""Masked letters and perplexities with models of DNA and bytes."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch

from protlm.errors import UserError
from protlm.inference.fill import predict_masked, probabilities
from protlm.inference.perplexity import pseudo_perplexity
from protlm.performer import Performer
from protlm.sequence.alphabets import ALPHABETS
from tests.test_alphabets import model_of

DNA, BYTES = ALPHABETS["dna"], ALPHABETS["bytes"]


def softmax_at(model: Performer, tokens: list[int], position: int) -> np.ndarray:
    """Over all tokens, at a position from 0 among tokens without ends."""
    alphabet = ALPHABETS[str(model.config.alphabet)]
    with torch.inference_mode():
        row = torch.tensor([[alphabet.cls, *tokens, alphabet.eos]])
        return model(row)[0, position + 1].double().softmax(-1).numpy()


@pytest.mark.parametrize("text", ["AC<mask>GT", "ac <mask>-gu", b"AC<mask>GT"])
def test_bases_at_a_mask_are_those_of_the_model(text: str | bytes) -> None:
    model = model_of("dna")
    ((found,),) = [predict_masked(model, text)]
    p = softmax_at(model, [4, 5, DNA.mask, 6, 7], 2)[4:8]
    assert found.position == 3
    assert found.probabilities == pytest.approx(sorted(p / p.sum(), reverse=True), rel=1e-5)
    assert "".join(found.residues) == "".join("ACGT"[i] for i in np.argsort(-p))
    assert sum(found.probabilities) == pytest.approx(1)


def test_a_byte_that_cannot_be_printed_has_a_notation() -> None:
    (found,) = predict_masked(model_of("bytes"), "\u00e9<mask>", top=256)
    assert found.position == 3  # after the two bytes of the letter
    assert set(found.residues) == set(BYTES.tokens[:256])
    assert {"<0x0A>", "<0xFF>", " "} <= set(found.residues)
    p = softmax_at(model_of("bytes"), [0xC3, 0xA9, BYTES.mask], 2)[:256]
    assert found.probabilities == pytest.approx(sorted(p / p.sum(), reverse=True), rel=1e-4)


@pytest.mark.parametrize(("name", "letters"), [("dna", 4), ("rna", 4), ("bytes", 256)])
def test_the_number_of_letters_is_that_of_the_alphabet(name: str, letters: int) -> None:
    model = model_of(name)
    assert len(predict_masked(model, "A<mask>")[0].residues) == min(5, letters)
    assert probabilities(model, "AC<mask>").shape == (3, letters)
    with pytest.raises(UserError, match=f"top {letters + 1}: expected 1 to {letters}$"):
        predict_masked(model, "A<mask>", top=letters + 1)


def test_each_position_is_masked_in_turn() -> None:
    model = model_of("dna")
    rows = probabilities(model, "ACN<mask>")
    for position, now in enumerate(("<mask>CN<mask>", "A<mask>N<mask>", "AC<mask><mask>", "ACN<mask>"), start=1):
        (found,) = (one for one in predict_masked(model, now) if one.position == position)
        expected = dict(zip(found.residues, found.probabilities, strict=True))
        assert rows[position - 1] == pytest.approx([expected[letter] for letter in "ACGT"], rel=1e-5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ACGT", "no <mask>; put one in place of each base to predict"),
        ("", "is empty; expected at least one base"),
        ("AC<mask>LA", "'L' at position 4 is not a base: expected one of ACGT[A-Z]*, or <mask>$"),
        (3, "expected one sequence or a list of them, got int"),
        (["A<mask>", 3], "sequence 2: expected a string, bytes, Bio.Seq or SeqRecord, got int"),
    ],
)
def test_messages_speak_of_bases(text: object, words: str) -> None:
    with pytest.raises(UserError, match=words):
        predict_masked(model_of("dna"), text)


def test_results_have_the_form_of_the_container() -> None:
    pandas = pytest.importorskip("pandas")
    model = model_of("dna")
    alone = predict_masked(model, "AC<mask>")[0].probabilities
    assert predict_masked(model, {"x": "AC<mask>"})["x"][0].probabilities == pytest.approx(alone)
    series = pseudo_perplexity(model, pandas.Series(["ACGT", "GG"], index=["a", "b"]))
    assert list(series.index) == ["a", "b"]


def causal(name: str) -> Performer:
    model = model_of(name)
    torch.manual_seed(1)
    return Performer(dataclasses.replace(model.config, causal=True)).eval()


def test_a_causal_model_of_bases_says_so() -> None:
    with pytest.raises(UserError, match="cannot see bases after a mask"):
        predict_masked(causal("dna"), "A<mask>")


def test_pseudo_perplexity_counts_definite_bases() -> None:
    model, tokens = model_of("dna"), [4, 5, DNA.index["N"], 7]
    own = [softmax_at(model, [*tokens[:i], DNA.mask, *tokens[i + 1 :]], i)[tokens[i]] for i in (0, 1, 3)]
    assert pseudo_perplexity(model, "ACNT") == pytest.approx(np.exp(-np.mean(np.log(own))), rel=1e-5)
    assert np.isnan(pseudo_perplexity(model, "NN"))


@pytest.mark.parametrize("make", [model_of, causal])
def test_perplexity_of_bytes(make: Callable[[str], Performer]) -> None:
    model = make("bytes")
    (found,) = pseudo_perplexity(model, ["a\n"])
    first, second = ([BYTES.mask, 10], [97, BYTES.mask]) if make is model_of else ([97, 10], [97, 10])
    shift = 0 if make is model_of else 1  # a causal model predicts from the position before
    own = softmax_at(model, first, -shift)[97], softmax_at(model, second, 1 - shift)[10]
    assert found == pytest.approx(np.exp(-np.mean(np.log(own))), rel=1e-5)
