from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from protlm.errors import UserError
from protlm.interpret.attention_maps import attention_matrices, chosen_blocks, watched
from protlm.performer import FavorAttention, Performer, PerformerConfig
from protlm.performer.features import FEATURE_MAPS
from protlm.performer.kinds import ATTENTION
from protlm.performer.reference import attention_matrix
from protlm.sequence.alphabet import encode, with_ends

PROTEIN = "MKTAYIAKQRQISFVKSHFSRQ"
SIGNED = {"trig", "gelu", "tanh", "cos", "identity"}
CONFIG = PerformerConfig(
    33, 1, layers=2, heads=2, width=16, feed_forward=16, max_length=64, num_features=16, dropout=0.0
)


def model_with(attention: str, causal: bool = False) -> Performer:
    """A model with random weights whose queries and keys are large enough for non-uniform attention."""
    try:
        config = replace(CONFIG, attention=attention, causal=causal)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = Performer(config).eval()
    except ValueError:
        pytest.skip(f"{attention} is not defined for this direction")
    with torch.no_grad():
        for block in model.blocks:
            block.attention.qkv.weight.mul_(15)
    return model


def seen(model: Performer) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Queries, keys, values and the output of attention in each layer."""
    found = []

    def keep(module: torch.nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        found.append((*inputs[:3], output))

    handles = [block.attention.attention.register_forward_hook(keep) for block in model.blocks]
    with torch.no_grad():
        model(torch.from_numpy(with_ends(encode(PROTEIN))).long()[None])
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", ATTENTION)
def test_the_matrix_times_the_values_equals_the_output_of_the_model(kind: str, causal: bool) -> None:
    model = model_with(kind, causal)
    found = torch.from_numpy(attention_matrices(model, PROTEIN))
    assert found.shape == (2, 2, len(PROTEIN) + 2, len(PROTEIN) + 2)
    for matrix, (_, _, v, output) in zip(found, seen(model), strict=True):
        size = float((matrix.abs() @ v[0].abs()).max())
        torch.testing.assert_close(matrix @ v[0], output[0], atol=1e-5 * size, rtol=1e-4)
    if causal:
        assert not found.triu(1).any()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", ["exact", *FEATURE_MAPS])
def test_it_is_the_matrix_of_the_reference(kind: str, causal: bool) -> None:
    model = model_with(kind, causal)
    for block, matrix, (q, k, _, _) in zip(model.blocks, attention_matrices(model, PROTEIN), seen(model), strict=True):
        attention = block.attention.attention
        if kind == "exact":
            logits = (q @ k.transpose(2, 3)).double() / q.shape[-1] ** 0.5
            future = torch.ones_like(logits, dtype=torch.bool).triu(1) & causal
            expected = logits.masked_fill(future, -torch.inf).softmax(-1)
        else:
            assert isinstance(attention, FavorAttention)
            bias = attention.bias if attention.feature_map.adaptive else None
            k = attention.centred(q, k)
            expected = attention_matrix(q, k, attention.feature_map, attention.directions, bias, causal=causal)
        scale = float(expected.abs().max().clamp(min=1))
        np.testing.assert_allclose(matrix, expected[0], atol=2e-5 * scale, rtol=1e-3)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("kind", [kind for kind in ATTENTION if kind != "linformer"])
def test_rows_sum_to_one(kind: str, causal: bool) -> None:
    found = attention_matrices(model_with(kind, causal), PROTEIN)
    np.testing.assert_allclose(found.sum(-1), 1, atol=1e-5 * max(1, np.abs(found).sum(-1).max()))
    if kind not in SIGNED:
        assert found.min() >= 0
    if kind == "opt":
        np.testing.assert_array_equal(found, np.broadcast_to(np.eye(len(PROTEIN) + 2), found.shape))


def test_the_test_models_do_not_attend_uniformly() -> None:
    """Otherwise the other tests would show little."""
    assert np.ptp(attention_matrices(model_with("relu"), PROTEIN)) * len(PROTEIN) > 1


@pytest.mark.parametrize("columns", [1, 5, 24, 100])
def test_blocks_of_columns_change_nothing(columns: int) -> None:
    model = model_with("softmax")
    whole, parts = attention_matrices(model, PROTEIN), attention_matrices(model, PROTEIN, columns=columns)
    np.testing.assert_allclose(parts, whole, atol=1e-6)


def test_layers_are_chosen_and_counted_from_either_end() -> None:
    model = model_with("relu")
    both = attention_matrices(model, PROTEIN)
    np.testing.assert_array_equal(attention_matrices(model, PROTEIN, layers=[-1, 1]), both[::-1])
    assert chosen_blocks(model, None) == (1, 2)
    for layers, message in (
        ([0], "layer 0: expected 1"),
        ([3], "layer 3"),
        ([], "none"),
        ([2, -1], "duplicates"),
    ):
        with pytest.raises(UserError, match=message):
            attention_matrices(model, PROTEIN, layers)


def test_hooks_change_nothing_and_are_removed() -> None:
    model = model_with("relu")
    tokens = torch.from_numpy(with_ends(encode(PROTEIN))).long()[None]
    calls = []
    with torch.no_grad():
        before = model(tokens)
        with watched(model, [2], lambda layer, attend: calls.append((layer, attend(torch.ones(1, 2, 24, 1))))):
            torch.testing.assert_close(model(tokens), before, atol=0, rtol=0)
        with pytest.raises(KeyError), watched(model, [1], lambda layer, _: {}[layer]):
            model(tokens)
        model(tokens)
    ((layer, sums),) = calls
    assert layer == 2
    torch.testing.assert_close(sums, torch.ones(1, 2, 24, 1))


@pytest.mark.parametrize("sequence", ["", "MK1"])
def test_invalid_sequences_are_refused(sequence: str) -> None:
    with pytest.raises(UserError, match="sequence 1"):
        attention_matrices(model_with("relu"), sequence)
