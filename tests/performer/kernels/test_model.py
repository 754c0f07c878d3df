"""A whole model with the kernels, in Triton's interpreter."""

import pytest
import torch

from protlm.performer import Performer, PerformerConfig
from protlm.performer.segments import Packed

pytest.importorskip("triton", reason="Triton is the optional extra gpu")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kind", ["relu", "softmax"])
@pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])
def test_a_step_under_autocast_has_the_gradients_of_float32(kind: str, causal: bool, packed: bool) -> None:
    """Kernels get bfloat16, weights and their gradients stay float32; within the limit of 16-bit arithmetic."""
    torch.manual_seed(0)
    config = PerformerConfig(33, 1, 1, 2, 64, 64, kind, causal, num_features=32, dropout=0.0, positions="rotary")
    model, tokens = Performer(config), torch.randint(4, 24, (1, 40))
    segments = Packed(torch.tensor([0, 12, 40], dtype=torch.int32), 28) if packed else None
    seen, results = [], []
    model.blocks[0].attention.attention.register_forward_hook(lambda module, args, out: seen.append(args[0].dtype))
    for backend, short in (("eager", False), ("triton", True)):
        model.use_backend(backend)
        with torch.autocast("cpu", torch.bfloat16, enabled=short):
            logits = model(tokens, segments=segments)
        loss = model.loss(logits, tokens)
        results.append(
            [logits.float(), *torch.autograd.grad(loss, [model.embedding.weight, *model.blocks.parameters()])]
        )
        assert {x.dtype for x in results[-1]} == {torch.float32}
    assert seen[-1] == torch.bfloat16
    for found, expected in zip(results[1], results[0], strict=True):
        assert (found - expected).norm() < 5e-2 * expected.norm() + 1e-4
