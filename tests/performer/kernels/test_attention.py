"""`FavorAttention` and the model with the kernels, in Triton's interpreter, against PyTorch operations."""

import importlib
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from protlm.performer import FavorAttention, Performer, PerformerConfig, backends
from protlm.performer.segments import Packed, within_segments

pytest.importorskip("triton", reason="Triton is the optional extra gpu")

import triton.runtime.interpreter as interpreter

BOTH = pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])
EDGES = [0, 20, 20, 21, 40]


def tensors(*shape: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator).requires_grad_(i < 3) for i in range(4)]


def error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).detach().norm() / expected.detach().norm())


@BOTH
@pytest.mark.parametrize("kernel", ["softmax", "sderf", "relu", "relu_unprojected", "exp"])
def test_a_padded_batch_and_a_packed_one_equal_eager(kernel, causal):
    attention = FavorAttention(16, 24, kernel, causal=causal).eval()
    q, k, v, grad = tensors(2, 2, 40, 16)
    mask = torch.ones(2, 40, dtype=torch.bool)
    mask[1, 30:] = False
    real = mask[:, None, :, None]
    results = {}
    for name in ("eager", "triton"):
        attention.backend = name
        out = attention(q, k, v, mask)
        results[name] = [out * real, *torch.autograd.grad(out, (q, k, v), grad * real)]
    assert max(map(error, results["triton"], results["eager"])) < 1e-5
    packed = Packed(torch.tensor(EDGES, dtype=torch.int32), 20)
    q, k, v, grad = tensors(1, 2, 40, 16)
    attention.backend = "eager"
    out = within_segments(attention, q, k, v, None, packed.numbers(40))
    expected = [out, *torch.autograd.grad(out, (q, k, v), grad)]
    attention.backend = "triton"
    out = attention(q, k, v, None, packed)
    found = [out, *torch.autograd.grad(out, (q, k, v), grad)]
    assert max(map(error, found, expected)) < 1e-5


@BOTH
def test_a_protein_alone_packed_and_padded_has_the_same_representation(causal):
    torch.manual_seed(0)
    model = Performer(PerformerConfig(33, 1, 2, 2, 32, 32, attention="softmax", causal=causal, num_features=24)).eval()
    model.use_backend("triton")
    parts = [torch.randint(4, 24, (length,)) for length in (1, 17, 30)]
    edges = torch.tensor([0, 1, 18, 48], dtype=torch.int32)
    padded = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=1)
    with torch.no_grad():
        alone = torch.cat([model.hidden(part[None])[0] for part in parts])
        packed = model.hidden(torch.cat(parts)[None], segments=Packed(edges, 30))[0]
        rows = model.hidden(padded)
    assert error(packed, alone) < 1e-5
    assert error(torch.cat([row[: len(part)] for row, part in zip(rows, parts, strict=True)]), alone) < 1e-5


def test_an_adaptive_kernel_in_training_and_a_window_take_packed_sequences_one_by_one():
    torch.manual_seed(0)
    packed = Packed(torch.tensor(EDGES, dtype=torch.int32), 20)
    tokens = torch.randint(4, 24, (1, 40))
    for kind in ("sderf", "window", "exact"):
        model = Performer(PerformerConfig(33, 1, 1, 2, 16, 16, attention=kind, dropout=0.0)).train()
        if kind == "sderf":
            model.use_backend("triton")
        with torch.no_grad():
            expected = model.hidden(tokens, segments=packed.numbers(40))
            assert error(model.hidden(tokens, segments=packed), expected) < 1e-5


def test_there_are_no_second_derivatives():
    attention, (q, k, v, _) = FavorAttention(16, 24), tensors(1, 1, 5, 16)
    attention.backend = "triton"
    (first,) = torch.autograd.grad(attention(q, k, v).sum(), q, create_graph=True)
    with pytest.raises(NotImplementedError, match="no second derivatives"):
        first.sum().backward()


@BOTH
def test_a_redraw_between_forward_and_backward_is_an_error(causal):
    """Gradients with other directions than those of the outputs would be wrong."""
    attention, (q, k, v, _) = FavorAttention(16, 24, causal=causal), tensors(1, 1, 5, 16)
    attention.backend = "triton"
    out = attention(q, k, v)
    attention.redraw(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_no_gradient_in_gives_none_out():
    class Constant(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return None

    attention, (q, k, v, _) = FavorAttention(16, 8), tensors(1, 1, 5, 16)
    attention.backend = "triton"
    out = Constant.apply(attention(q, k, v)).sum()
    assert torch.autograd.grad(out, (q, k, v), allow_unused=True) == (None, None, None)


def test_float64_and_wide_heads_are_refused():
    attention = FavorAttention(16, 24)
    attention.backend = "triton"
    with pytest.raises(ValueError, match="'triton': no kernel for torch.float64"):
        attention(*(x.double() for x in tensors(1, 1, 5, 16)[:3]))
    wide = FavorAttention(130, 24)
    wide.backend = "triton"
    with pytest.raises(ValueError, match="'triton': heads of width 130"):
        wide(*tensors(1, 1, 5, 130)[:3])


@BOTH
@pytest.mark.parametrize("kernel", ["relu", "optimal"])
@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_the_check_at_first_use_finds_a_difference(kernel, causal, packed, monkeypatch):
    attention = FavorAttention(16, 24, kernel, causal=causal)
    options = attention._operands(*tensors(1, 1, 5, 16)[:3], None)[1]
    sizes = torch.device("cpu"), torch.float32, options, 16, 16, 24, packed
    assert backends.agreement(*sizes) < 1e-4
    real = backends.kernels().attention

    def doubled(*arguments):
        out, *rest = real(*arguments)
        return out * 1.1, *rest

    monkeypatch.setattr(backends.kernels(), "attention", doubled)
    assert backends.agreement(*sizes) > backends.TOLERANCE


@BOTH
def test_operators_pass_the_checks_of_pytorch(causal):
    from protlm.performer.kernels.attention import _BACKWARD, _FORWARD

    attention = FavorAttention(16, 24, causal=causal)
    inputs, options = attention._operands(*(x.detach() for x in tensors(1, 2, 5, 16)[:3]), None)
    chosen = options.feature_map, options.scale, causal, not causal, 0
    utilities = ("test_schema", "test_faketensor")
    torch.library.opcheck(_FORWARD, (*inputs, None, *chosen), test_utils=utilities)
    results = _FORWARD(*inputs, None, *chosen)
    torch.library.opcheck(
        _BACKWARD, (torch.ones_like(results[0]), *inputs, None, *results, *chosen), test_utils=utilities
    )


def compiled_block(**sizes):
    """A model whose attention the kernels compute, its block compiled, and a counter of what was compiled."""
    torch.manual_seed(0)
    model = Performer(PerformerConfig(33, 1, 1, 2, 32, 32, **sizes))
    model.use_backend("triton")
    assert model.backend_in_use == "Triton kernels on cpu"
    testing = importlib.import_module("torch._dynamo.testing")  # takes seconds
    counter = testing.CompileCounterWithBackend("aot_eager")
    return model, torch.compile(model.blocks[0], backend=counter, fullgraph=True, dynamic=True), counter


@pytest.mark.slow
@BOTH
@pytest.mark.filterwarnings("ignore:.*should not be instantiated")  # by torch._dynamo itself
def test_a_block_compiles_without_graph_breaks_and_once_for_all_lengths(causal):
    sizes = {"attention": "softmax", "num_features": 16, "dropout": 0.0, "causal": causal}
    model, compiled, counter = compiled_block(**sizes)
    block = model.blocks[0]
    for length in (20, 33, 21):
        x = torch.randn(1, length, 32)
        mask = torch.ones(1, length, dtype=torch.bool)
        found, expected = compiled(x, mask), block(x, mask)
        assert error(found, expected) < 1e-5
        gradients = [torch.autograd.grad(y.square().sum(), list(block.parameters())) for y in (found, expected)]
        assert max(map(error, *gradients)) < 1e-4
    assert counter.frame_count <= 2


@pytest.mark.slow
@pytest.mark.parametrize("asked", [False, True], ids=["not asked", "asked"])
@pytest.mark.filterwarnings("ignore:.*should not be instantiated")  # by torch._dynamo itself
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # likewise
def test_all_layers_of_a_compiled_model_use_the_kernels(asked, monkeypatch):
    """Also if nothing was computed before."""
    torch.manual_seed(0)
    model = Performer(PerformerConfig(33, 1, 3, 2, 32, 32, "relu", num_features=16, dropout=0.0))
    tokens = torch.randint(4, 24, (2, 20))
    expected = model(tokens)
    for block in model.blocks:
        block.attention.attention._chosen = None
    model.use_backend("triton")
    if asked:
        assert model.backend_in_use == "Triton kernels on cpu"
    for block in model.blocks:
        block.compile(dynamic=True, backend="aot_eager")
    launched: list[str] = []
    launch = interpreter.GridExecutor.__call__

    def counted(executor, *arguments, **options):
        launched.append(executor.fn.__name__)
        return launch(executor, *arguments, **options)

    monkeypatch.setattr(interpreter.GridExecutor, "__call__", counted)
    assert error(model(tokens), expected) < 1e-5
    assert launched.count("attend") == 3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*should not be instantiated")  # by torch._dynamo itself
def test_a_block_with_packed_sequences_and_rotary_positions_compiles_once():
    sizes = {"attention": "relu", "num_features": 16, "dropout": 0.0, "positions": "rotary"}
    model, compiled, counter = compiled_block(**sizes)
    block = model.blocks[0]
    for edges in ([0, 9, 20], [0, 5, 16, 33], [0, 30, 44]):
        x, tokens = torch.randn(1, edges[-1], 32), torch.zeros(1, edges[-1], dtype=torch.long)
        packed = Packed(torch.tensor(edges, dtype=torch.int32), max(b - a for a, b in pairwise(edges)))
        rotation = model._rotation(tokens, packed.numbers(edges[-1]))
        found, expected = (function(x, None, packed, rotation) for function in (compiled, block))
        assert error(found, expected) < 1e-5
        gradients = [torch.autograd.grad(y.square().sum(), list(block.parameters())) for y in (found, expected)]
        assert max(map(error, *gradients)) < 1e-4
    assert counter.frame_count <= 2
