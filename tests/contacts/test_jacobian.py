"""The categorical Jacobian against the formulas, one substitution at a time in float64."""

import numpy as np
import pytest
import torch

from protlm.contacts import jacobian
from protlm.contacts.jacobian import jacobian_contacts, jacobian_passes
from protlm.errors import UserError
from protlm.inference.engine import Computer
from protlm.performer import Performer
from protlm.sequence.alphabet import INDEX, STANDARD, encode, with_ends

PROTEIN = "MKTAYIXAKQRQISFVKSHFSRQ"


@pytest.fixture
def model(tiny_model: Performer) -> Performer:
    """With weights so large that substitutions matter at other positions."""
    with torch.no_grad():
        for block in tiny_model.blocks:
            block.attention.qkv.weight.mul_(10)
            block.attention.out.weight.mul_(30)
            block.feed_forward[2].weight.mul_(30)
        tiny_model.head.weight.mul_(20)
    return tiny_model


def by_formula(model: Performer, sequence: str) -> np.ndarray:
    letters, length = [INDEX[letter] for letter in STANDARD], len(sequence)
    model = model.double()

    def logits(text: str) -> np.ndarray:
        with torch.no_grad():
            return model(torch.from_numpy(with_ends(encode(text))).long()[None])[0, 1:-1][:, letters].numpy()

    wild = logits(sequence)
    j = np.array(
        [[logits(sequence[:i] + letter + sequence[i + 1 :]) - wild for letter in STANDARD] for i in range(length)]
    )
    for axis in range(4):
        j -= j.mean(axis, keepdims=True)
    norms = np.linalg.norm(
        ((j + j.transpose(2, 3, 0, 1)) / 2).transpose(0, 2, 1, 3).reshape(length, length, -1), axis=2
    )
    np.fill_diagonal(norms, 0)
    scores = norms - norms.sum(0) * norms.sum(1)[:, None] / norms.sum()
    np.fill_diagonal(scores, 0)
    return scores


@pytest.mark.parametrize("budget", [30, 1_000, 100_000])
def test_it_equals_the_formulas(model: Performer, budget: int) -> None:
    found = jacobian_contacts(Computer(model, budget), encode(PROTEIN))
    expected = by_formula(model, PROTEIN)
    assert found.dtype == np.float32
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_blocks_change_nothing(model: Performer, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = jacobian_contacts(Computer(model), encode(PROTEIN))
    monkeypatch.setattr(jacobian, "_TOGETHER", 5)
    np.testing.assert_allclose(jacobian_contacts(Computer(model), encode(PROTEIN)), whole, atol=1e-5)


def test_long_proteins_rank_pairs_alike_in_less_memory(model: Performer, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = jacobian_contacts(Computer(model), encode(PROTEIN))
    monkeypatch.setattr(jacobian, "WHOLE", len(PROTEIN) - 1)
    monkeypatch.setattr(jacobian, "_TOGETHER", 5)
    reduced = jacobian_contacts(Computer(model), encode(PROTEIN))
    np.testing.assert_array_equal(reduced, reduced.T)
    assert not np.allclose(reduced, whole, atol=1e-4)
    pairs = np.triu_indices(len(PROTEIN), 1)
    assert np.corrcoef(whole[pairs], reduced[pairs])[0, 1] > 0.8


def test_passes_are_counted(model: Performer) -> None:
    passes = []
    jacobian_contacts(Computer(model), encode(PROTEIN), passes.append)
    assert sum(passes) == jacobian_passes(encode(PROTEIN)) == 19 * (len(PROTEIN) - 1) + 20 + 1


def test_a_causal_model_is_refused(causal_model: Performer) -> None:
    with pytest.raises(UserError, match="requires a bidirectional model"):
        jacobian_contacts(Computer(causal_model), encode(PROTEIN))


def test_one_residue_has_no_pairs(model: Performer) -> None:
    assert jacobian_contacts(Computer(model), encode("M")).tolist() == [[0]]
