import dataclasses

import numpy as np
import pytest
import torch

from protlm.errors import UserError
from protlm.inference.engine import Computer
from protlm.inference.fill import predict_masked, predict_proteins, probabilities
from protlm.performer import Performer
from protlm.sequence.alphabet import INDEX, STANDARD, with_ends
from protlm.sequence.alphabets import PROTEIN
from protlm.sequence.masked_records import TokenRecord


def encode_masked(text: str) -> np.ndarray:
    return PROTEIN.encode_masked(text.encode())


def test_all_twenty_form_a_distribution_most_probable_first(tiny_model: Performer) -> None:
    for prediction in predict_masked(tiny_model, "MK<mask>LLI<mask>", top=20):
        assert set(prediction.residues) == set(STANDARD)
        assert list(prediction.probabilities) == sorted(prediction.probabilities, reverse=True)
        assert min(prediction.probabilities) > 0
        assert sum(prediction.probabilities) == pytest.approx(1, abs=1e-9)


def test_positions_count_residues_from_one(tiny_model: Performer) -> None:
    text = "<mask>K<mask>LLI<mask>"
    assert [prediction.position for prediction in predict_masked(tiny_model, text)] == [1, 3, 7]


def test_probabilities_are_those_of_the_model_at_the_mask(tiny_model: Performer) -> None:
    (prediction,) = predict_masked(tiny_model, "MK<mask>LLI", top=3)
    with torch.inference_mode():
        logits = tiny_model(torch.from_numpy(with_ends(encode_masked("MK<mask>LLI"))).long()[None])[0, 3]
    twenty = torch.stack([logits[INDEX[letter]] for letter in STANDARD]).double().softmax(0)
    best = twenty.topk(3)
    assert prediction.probabilities == pytest.approx(best.values.tolist())
    assert prediction.residues == tuple(STANDARD[i] for i in best.indices)


def test_top_returns_the_first_of_all_twenty(tiny_model: Performer) -> None:
    (few,), (every,) = predict_masked(tiny_model, "M<mask>K", top=4), predict_masked(tiny_model, "M<mask>K", top=20)
    assert (few.residues, few.probabilities) == (every.residues[:4], every.probabilities[:4])


def test_the_sequence_around_the_mask_matters(tiny_model: Performer) -> None:
    assert predict_masked(tiny_model, "MK<mask>LLI") != predict_masked(tiny_model, "MW<mask>LLI")


def test_lower_case_and_line_breaks_do_not_matter(tiny_model: Performer) -> None:
    assert predict_masked(tiny_model, "mk<mask>\n ll i") == predict_masked(tiny_model, "MK<mask>LLI")


@pytest.mark.parametrize("text", ["MKX<mask>BZUO", "<mask>", "MKT" * 50 + "<mask>"])
def test_ambiguous_letters_lone_masks_and_long_proteins_are_accepted(tiny_model: Performer, text: str) -> None:
    assert len(predict_masked(tiny_model, text)) == 1


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("MKT", "no <mask>"),
        ("", "empty"),
        ("MK<mask>1", "'1' at position 4 is not a residue"),
        ("MK<mask>é", "'é' at position 4"),
        ("MK<masked>", "'<masked>' at position 3"),
        ("<cls>MK<mask>", "'<cls>' at position 1 is not a residue: expected [^<]* and <mask>$"),
        ("MK<mask><eos>", "'<eos>' at position 4 is not a residue: expected [^<]* and <mask>$"),
        ("MK<pad><mask>", "'<pad>' at position 3 is not a residue: expected [^<]* and <mask>$"),
    ],
)
def test_anything_else_is_refused(tiny_model: Performer, text: str, match: str) -> None:
    with pytest.raises(UserError, match=match):
        predict_masked(tiny_model, text)


@pytest.mark.parametrize("top", [0, -1, 21])
def test_top_is_one_to_twenty(tiny_model: Performer, top: int) -> None:
    with pytest.raises(UserError, match="expected 1 to 20"):
        predict_masked(tiny_model, "M<mask>K", top=top)


def test_a_causal_model_is_refused(tiny_model: Performer) -> None:
    causal = Performer(dataclasses.replace(tiny_model.config, causal=True)).eval()
    for function in (predict_masked, probabilities):
        with pytest.raises(UserError, match="bidirectional model.*use generate or score"):
            function(causal, "M<mask>K")


def test_probabilities_mask_each_position_in_turn(tiny_model: Performer) -> None:
    text, pieces = "MK<mask>LX<mask>A", ["M", "K", "<mask>", "L", "X", "<mask>", "A"]
    rows = probabilities(tiny_model, text)
    assert rows.shape == (7, 20)
    for position in range(1, 8):
        now_masked = "".join("<mask>" if i == position else piece for i, piece in enumerate(pieces, 1))
        (found,) = (one for one in predict_masked(tiny_model, now_masked, top=20) if one.position == position)
        expected = dict(zip(found.residues, found.probabilities, strict=True))
        assert rows[position - 1] == pytest.approx([expected[letter] for letter in STANDARD], rel=1e-5)


def test_one_pass_masks_no_additional_position(tiny_model: Performer) -> None:
    text = "MK<mask>LLIW"
    rows, fast = probabilities(tiny_model, text), probabilities(tiny_model, text, one_pass=True)
    with torch.inference_mode():
        logits = tiny_model(torch.from_numpy(with_ends(encode_masked(text))).long()[None])[0, 1:-1]
    expected = logits[:, [INDEX[letter] for letter in STANDARD]].double().softmax(-1).numpy()
    np.testing.assert_allclose(fast, expected, rtol=1e-5)
    np.testing.assert_allclose(fast[2], rows[2], rtol=1e-5)
    assert not np.allclose(np.delete(fast, 2, 0), np.delete(rows, 2, 0), rtol=1e-3)
    np.testing.assert_allclose(fast.sum(1), 1)


def test_small_batches_and_16_bits_change_little(tiny_model: Performer) -> None:
    text = "MKTAYIAK<mask>RQ"
    rows = probabilities(tiny_model, text)
    np.testing.assert_allclose(probabilities(tiny_model, text, token_budget=1), rows, rtol=1e-5)
    np.testing.assert_allclose(probabilities(tiny_model, text, precision="bfloat16"), rows, rtol=0.05)


@pytest.mark.parametrize(("text", "match"), [("", "empty"), ("MK1", "'1' at position 3")])
def test_probabilities_of_invalid_sequences_are_refused(tiny_model: Performer, text: str, match: str) -> None:
    with pytest.raises(UserError, match=match):
        probabilities(tiny_model, text)


def test_many_proteins_are_filled_as_if_each_were_alone(tiny_model: Performer, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["<mask>" + "MKT" * (i % 5) + "<mask>L" * (i % 3) for i in range(12)]
    proteins = [TokenRecord(str(i), encode_masked(text)) for i, text in enumerate(texts)]
    monkeypatch.setattr("protlm.inference.engine.WINDOW_RESIDUES", 20)
    found = list(predict_proteins(Computer(tiny_model, token_budget=40), iter(proteins), top=20))
    assert [protein.name for protein, _ in found] == [protein.name for protein in proteins]
    for (_, predictions), text in zip(found, texts, strict=True):
        for one, expected in zip(predictions, predict_masked(tiny_model, text, top=20), strict=True):
            assert (one.position, one.residues) == (expected.position, expected.residues)
            assert one.probabilities == pytest.approx(expected.probabilities, rel=1e-4)


def test_a_protein_without_mask_is_named(tiny_model: Performer) -> None:
    proteins = [TokenRecord("a", encode_masked("M<mask>")), TokenRecord("b", encode_masked("MK"))]
    with pytest.raises(UserError, match="in.fasta, protein 'b': no <mask>"):
        list(predict_proteins(Computer(tiny_model), proteins, source="in.fasta"))


def test_a_model_that_is_not_finite_is_refused(tiny_model: Performer) -> None:
    with torch.no_grad():
        tiny_model.head.bias[7] = torch.nan
    for function in (predict_masked, probabilities):
        with pytest.raises(UserError, match="not finite"):
            function(tiny_model, "M<mask>K")
