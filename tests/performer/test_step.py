from collections.abc import Iterable

import pytest
import torch
from torch import Tensor

from protlm.performer import Performer, PerformerConfig
from protlm.performer.positions import extrapolated, sinusoids
from protlm.performer.recurrent import PerformerState

ATTENTION = ["exact", "opt", "window", "softmax", "sderf", "exp", "trig", "relu", "relu_unprojected", "cos"]


def causal_model(attention: str = "relu", dtype: torch.dtype = torch.float32, **options: object) -> Performer:
    sizes = {"layers": 3, "heads": 2, "width": 16, "feed_forward": 24, "num_features": 12, "max_length": 16}
    config = PerformerConfig(33, 1, **{**sizes, "attention": attention, "causal": True, "dropout": 0.1, **options})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Performer(config).eval()
        for parameter in model.parameters():  # larger than at initialisation, so that attention matters
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model.to(dtype)


def tokens(rows: int, length: int) -> Tensor:
    return torch.randint(4, 24, (rows, length), generator=torch.Generator().manual_seed(1))


def stepped(model: Performer, inputs: Tensor, sizes: Iterable[int]) -> tuple[Tensor, PerformerState | None]:
    parts, state = [], None
    for part in inputs.split(list(sizes), 1):
        logits, state = model.step(part, state)
        parts.append(logits)
    return torch.cat(parts, 1), state


@pytest.mark.parametrize("positions", ["learned", "rotary"])
@pytest.mark.parametrize("attention", ATTENTION)
def test_steps_equal_the_parallel_forward(attention: str, positions: str) -> None:
    model, inputs = causal_model(attention, torch.float64, positions=positions), tokens(3, 40)
    whole = model(inputs).detach()
    assert whole.std() > 0.1
    for sizes in ([1] * 40, [7, 1, 1, 20, 11], [40]):
        logits, state = stepped(model, inputs, sizes)
        torch.testing.assert_close(logits, whole, atol=1e-10, rtol=1e-10)
        assert state is not None
        assert state.position == 40


@pytest.mark.parametrize("attention", ATTENTION)
def test_float32_steps_are_about_as_accurate_as_the_parallel_forward(attention: str) -> None:
    inputs = tokens(3, 40)
    exact, model = causal_model(attention, torch.float64)(inputs).detach(), causal_model(attention)
    logits, _ = stepped(model, inputs, [7, *[1] * 33])
    whole = (model(inputs).detach() - exact).abs().max()
    assert (logits - exact).abs().max() < 5 * whole + 1e-5  # features that may be negative have small denominators


@pytest.mark.parametrize("attention", ["relu", "softmax", "exact", "opt"])
def test_rows_of_a_state_can_be_left_out_reordered_and_repeated(attention: str) -> None:
    model, inputs = causal_model(attention, torch.float64), tokens(4, 20)
    rows = torch.tensor([3, 1, 1])
    _, state = model.step(inputs[:, :9])
    for position in range(9, 12):
        _, state = model.step(inputs[:, position : position + 1], state)
    logits, after = model.step(inputs[rows, 12:], state.select(rows))
    torch.testing.assert_close(logits, model(inputs[rows])[:, 12:])
    assert after.position == 20


@pytest.mark.parametrize("attention", ["relu", "softmax"])
def test_the_state_of_features_does_not_grow(attention: str) -> None:
    model = causal_model(attention)

    def size(length: int) -> int:
        _, state = model.step(tokens(2, length))
        _, state = model.step(tokens(2, 1), state)
        return sum(x.numel() for layer in state.layers for x in layer)

    assert size(5) == size(300)


def test_positions_after_the_learned_ones_are_computed_separately() -> None:
    torch.testing.assert_close(sinusoids(3, 8, 100), sinusoids(103, 8)[100:], atol=0, rtol=0)
    model = causal_model()
    for first, stop in ((0, 5), (14, 20), (16, 17), (40, 43)):
        expected = extrapolated(model.position, 0, stop)[first:]
        for start in (first, torch.tensor(first)):
            found = extrapolated(model.position, start, stop - first)
            torch.testing.assert_close(found, expected, atol=0, rtol=0)


@pytest.mark.parametrize("options", [{"causal": False}, {"zeroed_id": 32}, {"attention": "reformer"}])
def test_unsuitable_models_are_refused(options: dict) -> None:
    with pytest.raises(ValueError, match="step by step"):
        causal_model(**options).step(tokens(1, 3))
