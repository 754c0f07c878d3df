"""Generation by the kernel for single steps, in Triton's interpreter, and the wiring of its CUDA graph."""

import warnings
from typing import Any

import pytest
import torch

from protlm.errors import ProtlmWarning, UserError
from protlm.inference import steps as steps_module
from protlm.inference.generate import generate
from protlm.inference.steps import StaticSteps, captured
from protlm.performer import FavorAttention, Performer, PerformerConfig, backends

pytest.importorskip("triton", reason="Triton is the optional extra gpu")


def model(attention: str = "relu", **options: Any) -> Performer:
    """With random weights that often end a protein; longer proteins are beyond the learned positions."""
    torch.manual_seed(0)
    options = {"num_features": 12, "positions": "both", "max_length": 12, "dropout": 0.0, **options}
    network = Performer(PerformerConfig(33, 1, 2, 2, 32, 16, attention, True, **options)).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
        network.head.bias[2] += 2
    return network


def generated(network: Performer, backend: str) -> list[tuple[str, float]]:
    network.use_backend(backend)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="a protein is longer")
        return [(one.sequence, one.log_likelihood) for one in generate(network, 7, "MK", max_length=20, batch_size=4)]


@pytest.mark.parametrize("attention", ["relu", "softmax"])
def test_the_same_proteins_as_by_pytorch(attention: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In several batches, the last of them smaller, of proteins that end at different lengths."""
    network, kernel, calls = model(attention), backends.kernels().step, []

    def counted(*arguments: Any) -> torch.Tensor:
        calls.append(len(arguments[0].q))
        return kernel(*arguments)

    monkeypatch.setattr(backends.kernels(), "step", counted)
    expected = generated(network, "eager")
    assert not calls
    found = generated(network, "triton")
    assert set(calls) == {4}  # sequences that have ended stay in the batch
    assert len({len(sequence) for sequence, _ in expected}) > 2
    for (sequence, likelihood), (other, expected_likelihood) in zip(found, expected, strict=True):
        assert sequence == other
        assert likelihood == pytest.approx(expected_likelihood, abs=1e-4)


@pytest.mark.parametrize("kind", ["relu", "softmax", "exp"])
@pytest.mark.parametrize("local_heads", [0, 1])
def test_the_prefix_is_computed_by_the_kernels(kind: str, local_heads: int, monkeypatch) -> None:
    """Once in each layer; PyTorch operations continue from their state, and from an empty prefix."""
    network, kernel, calls = model(kind, local_heads=local_heads), backends.kernels().attention, []

    def counted(*arguments: Any) -> tuple[torch.Tensor, ...]:
        calls.append(arguments[0].q.shape[2])
        return kernel(*arguments)

    monkeypatch.setattr(backends.kernels(), "attention", counted)
    tokens = torch.tensor([[0, 20, 5, 6, 7, 9, 4, 4]])
    network.use_backend("eager")
    first, before = network.step(tokens[:, :6])
    second, after = network.step(tokens[:, 6:], before)
    assert not calls
    network.use_backend("triton")
    found, state = network.step(tokens[:, :6])
    assert calls == [6, 6]
    torch.testing.assert_close(found, first, rtol=1e-4, atol=1e-4)
    continued, state = network.step(tokens[:, 6:], state)
    torch.testing.assert_close(continued, second, rtol=1e-4, atol=1e-4)
    layer = getattr(state.layers[0], "rest", state.layers[0])
    assert layer.shift.dtype == getattr(after.layers[0], "rest", after.layers[0]).shift.dtype
    attention = network.blocks[0].attention.attention
    out, _ = getattr(attention, "rest", attention).step(*torch.zeros(3, 1, 2, 0, 16))
    assert (out.shape, calls) == ((1, 2, 0, 16), [6, 6])


def test_a_prefix_that_the_requested_backend_cannot_compute_is_refused() -> None:
    attention = FavorAttention(16, 12, "trig", causal=True)
    attention.backend = "triton"
    with pytest.raises(ValueError, match="attention_backend 'triton'"):
        attention.step(*torch.ones(3, 1, 1, 4, 16))


@pytest.mark.parametrize("fault", ["differs", "fails"])
def test_a_kernel_that_differs_or_fails_is_not_used(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """ "auto", which takes the kernels on a CUDA device only, warns; a request of "triton" ends with an error."""
    network, kernel = model(), backends.kernels().step
    expected = generated(network, "eager")

    def broken(*arguments: Any) -> torch.Tensor:
        if fault == "fails":
            raise RuntimeError("no kernel image is available\nmore")
        return kernel(*arguments) + 1

    monkeypatch.setattr(backends.kernels(), "step", broken)
    reason = "single steps differs from PyTorch by" if fault == "differs" else "no kernel image is"
    with pytest.raises(UserError, match=f"^attention_backend 'triton': the kernel for .*{reason}"):
        generated(network, "triton")
    monkeypatch.setattr(FavorAttention, "has_step_kernel", True)
    with pytest.warns(ProtlmWarning, match=reason):
        assert generated(network, "auto") == expected


@pytest.mark.parametrize("options", [{"attention": "exact"}, {"local_heads": 1}])
def test_other_attention_takes_ordinary_steps(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    network = model(**options)
    monkeypatch.setattr(steps_module, "StaticSteps", None)
    if "attention" in options:
        assert not network.has_step_kernel
        assert generated(network, "auto")
    else:
        assert generated(network, "triton")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_graph_repeats_the_step() -> None:
    network = model().cuda()
    with torch.inference_mode():
        _, state = network.step(torch.tensor([[0, 20]], device="cuda"))
        steps = StaticSteps(network, state, 3)
        tokens = torch.tensor([5, 6, 7], device="cuda")
        eager = steps_module.Steps(network, state)
        for each in (steps, eager):
            each.start(3)
        for _ in range(5):
            torch.testing.assert_close(steps(tokens), eager(tokens), rtol=1e-3, atol=1e-4)
    assert captured(lambda: None) is not None
