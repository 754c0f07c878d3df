"""Exact attention of packed batches by PyTorch's `varlen_attn`, which runs on GPUs only.

On the CPU a loop over sequences takes its place, and fake tensors show that the real one accepts the call.
"""

import inspect
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention.varlen import varlen_attn
from torch.utils._python_dispatch import TorchDispatchMode

from protlm.inference import packing
from protlm.inference.packing import packs
from protlm.performer import Performer, PerformerConfig, baselines, model, varlen
from protlm.performer.baselines import ExactAttention
from protlm.performer.segments import Packed, accepts_packed
from protlm.training.packing import packed_by_default

LENGTHS = [5, 0, 1, 17, 0, 33, 1]
BOTH = pytest.mark.parametrize("causal", [False, True])


def one_by_one(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cu_seq_q: Tensor,
    cu_seq_k: Tensor | None,
    max_q: int,
    max_k: int,
    *,
    return_aux: Any = None,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
    enable_gqa: bool = False,
    seqused_k: Tensor | None = None,
    block_table: Tensor | None = None,
    num_splits: int | None = None,
) -> Tensor:
    """`varlen_attn`, sequence by sequence."""
    assert cu_seq_k is not None
    assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
    sizes = cu_seq_q.diff().tolist()
    assert sum(sizes) == len(query) == len(key) == len(value)
    assert max_q == max_k == max(sizes)
    causal = {(-1, -1): False, (-1, 0): True}[window_size]
    parts = zip(*(x.transpose(0, 1).split(sizes, 1) for x in (query, key, value)), strict=True)
    whole = [F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale) for q, k, v in parts if q.shape[1]]
    return torch.cat(whole, 1).transpose(0, 1)


def boundaries(lengths: list[int], device: str = "cpu") -> Packed:
    return Packed(torch.tensor([0, *lengths]).cumsum(0).int().to(device), max(lengths))


def network(causal: bool = False, attention: str = "exact", **options: Any) -> Performer:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = PerformerConfig(33, 1, 2, 2, 32, 32, attention, causal, positions="rotary", dropout=0.0, **options)
        return Performer(config)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every device counts as a GPU with flash attention."""
    monkeypatch.setattr(varlen, "capable", lambda device: True)


@pytest.fixture
def calls(gpu: None, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of queries that the loop is called with."""
    shapes: list[tuple[int, ...]] = []

    def spied(*arguments: Any, **options: Any) -> Tensor:
        shapes.append(tuple(arguments[0].shape))
        return one_by_one(*arguments, **options)

    monkeypatch.setattr(varlen, "kernel", lambda: spied)
    return shapes


def test_the_loop_has_the_arguments_of_the_kernel_which_is_found() -> None:
    def parts(function: Any) -> list[tuple[Any, ...]]:
        return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]

    assert parts(one_by_one) == parts(varlen_attn)
    assert varlen.kernel() is varlen_attn


def test_a_version_without_the_kernel_or_with_other_arguments_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (SimpleNamespace(varlen_attn=lambda query, is_causal: None), None):

        def found(name: str, module: Any = module) -> Any:
            if module is None:
                raise ModuleNotFoundError(name)
            return module

        monkeypatch.setattr(varlen, "importlib", SimpleNamespace(import_module=found))
        assert varlen.kernel.__wrapped__() is None


@BOTH
def test_packed_sequences_are_attended_to_as_if_each_were_alone(causal: bool, calls: list[Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(3, 1, 2, sum(LENGTHS), 16, generator=generator, dtype=torch.float64)
    one, other = ([x.clone().requires_grad_() for x in drawn] for _ in range(2))
    attention = ExactAttention(causal)
    short = drawn[0].bfloat16()
    assert accepts_packed(attention, short, short)
    mask = torch.ones(1, sum(LENGTHS), dtype=torch.bool)
    found = attention(*one, mask, boundaries(LENGTHS))
    assert calls == [(sum(LENGTHS), 2, 16)]
    alone = [attention(*parts) for parts in zip(*(x.split(LENGTHS, 2) for x in other), strict=True)]
    expected = torch.cat(alone, 2)
    torch.testing.assert_close(found, expected)
    found.square().sum().backward()
    expected.square().sum().backward()
    for x, y in zip(one, other, strict=True):
        torch.testing.assert_close(x.grad, y.grad)


@BOTH
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("local_heads", [0, 1])
def test_a_model_computes_packed_batches_without_taking_them_apart(
    causal: bool, autocast: bool, local_heads: int, calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float64, which the loop computes, too; weights in float32 are no obstacle under autocast."""
    lengths = [length for length in LENGTHS if length]
    one = network(causal, local_heads=local_heads, local_window=8)
    if not autocast:
        one = one.double()
        monkeypatch.setattr(baselines, "fits", lambda q, v: True)
    proteins = torch.randint(4, 24, (sum(lengths),), generator=torch.Generator().manual_seed(0)).split(lengths)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        alone = torch.cat([one.hidden(protein[None])[0] for protein in proteins])
        monkeypatch.setattr(model, "plan_of", None)
        together = one.hidden(torch.cat(proteins)[None], segments=boundaries(lengths))[0]
    assert calls == [(sum(lengths), 2 - local_heads, 16)] * 2
    if autocast:
        assert (together - alone).norm() < 0.02 * alone.norm()
        return
    torch.testing.assert_close(together, alone)
    parameters = [*one.blocks.parameters()]
    found, expected = (torch.autograd.grad(hidden.square().sum(), parameters) for hidden in (together, alone))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("dtype", "widths", "taken"),
    [
        (torch.bfloat16, (64, 64), True),
        (torch.float16, (192, 192), True),
        (torch.float32, (64, 64), False),
        (torch.bfloat16, (20, 20), False),
        (torch.bfloat16, (256, 256), False),
        (torch.bfloat16, (64, 32), False),
    ],
)
def test_what_the_kernel_takes(dtype: torch.dtype, widths: tuple[int, int], taken: bool, gpu: None) -> None:
    q, v = (torch.empty(1, 1, 1, width, dtype=dtype) for width in widths)
    assert ExactAttention().accepts_packed(q, v) == taken


def test_the_cpu_takes_no_packed_sequences() -> None:
    q = torch.zeros(1, 1, 3, 16, dtype=torch.bfloat16)
    attention = ExactAttention()
    assert not attention.accepts_packed(q, q)
    with pytest.raises(ValueError, match="packed sequences: expected a GPU with flash attention"):
        attention(q, q, q, None, boundaries([3]))


@BOTH
def test_the_kernel_accepts_the_call_on_cuda(causal: bool, gpu: None) -> None:
    with FakeTensorMode(), torch.device("cuda"):
        rows = torch.empty(3, 1, sum(LENGTHS), 2, 16, dtype=torch.bfloat16)
        q, k, v = rows.transpose(2, 3).unbind()
        packed = Packed(torch.empty(len(LENGTHS) + 1, dtype=torch.int32), max(LENGTHS))
        attention = ExactAttention(causal)
        assert attention.accepts_packed(q, v)
        out = attention(q, k, v, None, packed)
    assert (str(out.device), out.dtype, out.shape) == ("cuda:0", torch.bfloat16, (1, 2, sum(LENGTHS), 16))


class Calls(TorchDispatchMode):
    """Counts the calls of the kernel by operator."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        if operation.namespace == "torch_attn":
            self.counts[operation.name()] += 1
        return operation(*arguments, **(options or {}))


@BOTH
@pytest.mark.parametrize("checkpointing", [False, True, "selective"])
def test_a_model_asks_for_no_value_of_a_packed_batch(causal: bool, checkpointing: bool | str, gpu: None) -> None:
    """For which the host would wait: there are none on this device. Selective checkpointing keeps the results."""
    with torch.device("meta"), Calls() as calls:
        one = network(causal).bfloat16()
        one.activation_checkpointing = checkpointing
        packed = Packed(torch.empty(len(LENGTHS) + 1, dtype=torch.int32), max(LENGTHS))
        hidden = one.hidden(torch.empty(1, sum(LENGTHS), dtype=torch.long), segments=packed)
        gradients = torch.autograd.grad(hidden.sum(), [*one.blocks.parameters()])
    forward = 4 if checkpointing is True else 2
    assert calls.counts == {"torch_attn::_varlen_attn": forward, "torch_attn::_varlen_attn_backward": 2}
    assert [x.shape for x in gradients] == [x.shape for x in one.blocks.parameters()]


@pytest.mark.parametrize("local_heads", [0, 1])
def test_training_and_inference_on_cuda_pack_by_default_in_16_bits(
    local_heads: int, gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trainer(precision: str) -> Any:
        return SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cuda")), precision=precision)

    with FakeTensorMode():
        one = network(local_heads=local_heads)
        assert packed_by_default(one, trainer("bf16-mixed"))
        assert not packed_by_default(one, trainer("32-true"))
        monkeypatch.setattr(packing, "gains", lambda device: True)
        assert packs(one, "bfloat16")
        assert not packs(one)


@pytest.mark.slow  # the import of TorchDynamo
@BOTH
def test_compiled_blocks_call_the_kernel_in_one_graph(causal: bool, gpu: None) -> None:
    """On tensors without values, and with gradients."""
    with torch.device("meta"):
        one = network(causal).bfloat16()
        assert one.takes_packed()
        packed = Packed(torch.zeros(len(LENGTHS) + 1, dtype=torch.int32), max(LENGTHS))
        x = torch.zeros(1, sum(LENGTHS), 32, dtype=torch.bfloat16, requires_grad=True)
    out = torch.compile(one.blocks[0], backend="eager", fullgraph=True)(x, None, packed, None)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert gradient.shape == x.shape == out.shape


@pytest.mark.slow  # the import of TorchDynamo
def test_a_compiled_layer_asks_again_on_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen, "capable", lambda device: device.type == "meta")
    attention, q = ExactAttention(), torch.zeros(1, 2, 3, 8, dtype=torch.bfloat16)
    assert not attention.accepts_packed(q, q)
    compiled = torch.compile(attention.accepts_packed, backend="eager")
    assert compiled(q.to("meta"), q.to("meta"))
