"""Generation by the kernel for single steps, in Triton's interpreter, and the wiring of its CUDA graph."""

import warnings
from typing import Any

import pytest
import torch

from protlm.errors import ProtlmWarning
from protlm.inference import steps as steps_module
from protlm.inference.generate import generate
from protlm.inference.steps import StaticSteps, captured
from protlm.performer import Performer, PerformerConfig, backends

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


@pytest.mark.parametrize("fault", ["differs", "fails"])
def test_a_kernel_that_differs_or_fails_is_not_used(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network, kernel = model(), backends.kernels().step
    expected = generated(network, "eager")

    def broken(*arguments: Any) -> torch.Tensor:
        if fault == "fails":
            raise RuntimeError("no kernel image is available\nmore")
        return kernel(*arguments) + 1

    monkeypatch.setattr(backends.kernels(), "step", broken)
    with pytest.warns(ProtlmWarning, match="differs from PyTorch by" if fault == "differs" else "no kernel image is"):
        assert generated(network, "triton") == expected


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
