import dataclasses

import pytest
import torch

from protlm.errors import UserError
from protlm.inference.fill import fill
from protlm.performer import Performer
from protlm.sequence.alphabet import INDEX, STANDARD, encode_with_special, with_ends


def test_all_twenty_are_a_distribution_likeliest_first(tiny_model: Performer) -> None:
    for prediction in fill(tiny_model, "MK<mask>LLI<mask>", top=20):
        assert set(prediction.residues) == set(STANDARD)
        assert list(prediction.probabilities) == sorted(prediction.probabilities, reverse=True)
        assert min(prediction.probabilities) > 0
        assert sum(prediction.probabilities) == pytest.approx(1, abs=1e-9)


def test_positions_count_residues_from_one(tiny_model: Performer) -> None:
    text = "<mask>K<mask>LLI<mask>"
    assert [prediction.position for prediction in fill(tiny_model, text)] == [1, 3, 7]


def test_probabilities_are_those_of_the_model_at_the_mask(tiny_model: Performer) -> None:
    (prediction,) = fill(tiny_model, "MK<mask>LLI", top=3)
    with torch.inference_mode():
        logits = tiny_model(torch.from_numpy(with_ends(encode_with_special("MK<mask>LLI"))).long()[None])[0, 3]
    twenty = torch.stack([logits[INDEX[letter]] for letter in STANDARD]).double().softmax(0)
    best = twenty.topk(3)
    assert prediction.probabilities == pytest.approx(best.values.tolist())
    assert prediction.residues == tuple(STANDARD[i] for i in best.indices)


def test_fewer_are_the_first_of_all(tiny_model: Performer) -> None:
    (few,), (every,) = fill(tiny_model, "M<mask>K", top=4), fill(tiny_model, "M<mask>K", top=20)
    assert (few.residues, few.probabilities) == (every.residues[:4], every.probabilities[:4])


def test_the_sequence_around_the_mask_matters(tiny_model: Performer) -> None:
    assert fill(tiny_model, "MK<mask>LLI") != fill(tiny_model, "MW<mask>LLI")


def test_lower_case_and_line_breaks_do_not_matter(tiny_model: Performer) -> None:
    assert fill(tiny_model, "mk<mask>\n ll i") == fill(tiny_model, "MK<mask>LLI")


@pytest.mark.parametrize("text", ["MKX<mask>BZUO", "<mask>", "MKT" * 50 + "<mask>"])
def test_ambiguous_letters_lone_masks_and_long_proteins_are_taken(tiny_model: Performer, text: str) -> None:
    assert len(fill(tiny_model, text)) == 1


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("MKT", "no <mask>"),
        ("", "no <mask>"),
        ("MK<mask>1", "'1' is not in the alphabet"),
        ("MK<mask>é", "not in the alphabet"),
        ("MK<mask>*", "not in the alphabet"),
        ("MK<masked>", "'<masked>' is not in the alphabet"),
        ("<cls>MK<mask>", "residues and <mask> only"),
        ("MK<mask><eos>", "residues and <mask> only"),
        ("MK<pad><mask>", "residues and <mask> only"),
        ("MK-<mask>", "residues and <mask> only"),
    ],
)
def test_anything_else_is_refused(tiny_model: Performer, text: str, match: str) -> None:
    with pytest.raises(UserError, match=match):
        fill(tiny_model, text)


@pytest.mark.parametrize("top", [0, -1, 21])
def test_there_are_one_to_twenty_residues(tiny_model: Performer, top: int) -> None:
    with pytest.raises(UserError, match="expected 1 to 20"):
        fill(tiny_model, "M<mask>K", top=top)


def test_a_unidirectional_model_is_refused(tiny_model: Performer) -> None:
    causal = Performer(dataclasses.replace(tiny_model.config, causal=True)).eval()
    with pytest.raises(UserError, match="unidirectional"):
        fill(causal, "M<mask>K")
