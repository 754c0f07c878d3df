"""Muon: its iteration, one matrix after another, in batches of equal shape, and sharded."""

import copy
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.debug import CommDebugMode
from torch.nn.parameter import Parameter
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode

from protlm.training import optimizer as optimizers
from protlm.training.optimizer import Muon
from protlm.training.orthogonal import orthogonalised, orthogonalised_batch


def test_muon_equals_that_of_torch() -> None:
    """Up to the precision of the iteration, which is bfloat16 in torch."""
    generator = torch.Generator().manual_seed(1)
    one = [torch.randn(shape, generator=generator) for shape in ((24, 8), (8, 8), (8, 32))]
    other = [weight.clone() for weight in one]
    before = [weight.clone() for weight in one]
    ours = Muon(one, lr=1e-2, momentum=0.9, weight_decay=0.1)
    peer = torch.optim.Muon(other, lr=1e-2, momentum=0.9, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(3):
        for weight, its in zip(one, other, strict=True):
            weight.grad = torch.randn(weight.shape, generator=generator)
            its.grad = weight.grad.clone()
        ours.step()
        peer.step()
    for weight, its, start in zip(one, other, before, strict=True):
        assert (weight - its).norm() < 0.03 * (weight - start).norm(), weight.shape


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (7, 3), (64, 64), (192, 64)])
def test_an_orthogonalised_matrix_has_singular_values_near_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 1e-4
    singular = torch.linalg.svdvals(orthogonalised(matrix))
    largest = torch.linalg.svdvals(matrix)
    assert singular.max() < 1.3
    assert singular[largest > 0.05 * largest.max()].min() > 0.5
    assert orthogonalised(torch.zeros(shape)).abs().max() == 0


@pytest.fixture
def ranks(request: pytest.FixtureRequest) -> Iterator[DeviceMesh]:
    """Of one process, or of two of which only the first exists and what it communicates is only counted."""
    fake = request.param == 2
    store = FakeStore() if fake else dist.HashStore()
    dist.init_process_group("fake" if fake else "gloo", rank=0, world_size=request.param, store=store)
    yield init_device_mesh("cpu", (request.param,))
    dist.destroy_process_group()


@pytest.mark.parametrize(("shape", "parts"), [((8, 8), (1.0,)), ((24, 8), (0.5, 0.5, 1.0)), ((8, 32), (1.0,))])
@pytest.mark.parametrize("ranks", [1, 2], indirect=True)
def test_muon_gathers_a_sharded_matrix_once(shape, parts, ranks: DeviceMesh) -> None:
    """An iteration on shards would communicate for each of its products."""
    generator = torch.Generator().manual_seed(0)
    values, gradient = (torch.randn(shape, generator=generator) for _ in range(2))
    whole, sharded = values.clone(), DTensor.from_local(values.clone(), ranks, [Shard(0)])
    whole.grad, sharded.grad = gradient, DTensor.from_local(gradient, ranks, [Shard(0)])
    Muon([{"params": [whole], "parts": parts}], 0.01, 0.95, 0.1).step()
    with CommDebugMode() as communication:
        Muon([{"params": [sharded], "parts": parts}], 0.01, 0.95, 0.1).step()
    if ranks.size() == 1:
        assert torch.equal(sharded.to_local(), whole)
    else:
        assert communication.get_total_counts() == 1


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (7, 3), (24, 8)])
def test_matrices_are_orthogonalised_together_as_alone(shape: tuple[int, int]) -> None:
    scales = torch.tensor([1e-6, 1.0, 1e3, 0.0])[:, None, None]
    matrices = torch.randn(4, *shape, generator=torch.Generator().manual_seed(1)) * scales
    each = torch.stack([orthogonalised(matrix) for matrix in matrices])
    torch.testing.assert_close(orthogonalised_batch(matrices), each, rtol=1e-4, atol=1e-5)


def together(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes Muon compute matrices of the same shape together, as on an accelerator, at most three at once."""
    monkeypatch.setattr(optimizers, "_in_batches", lambda weight: True)
    monkeypatch.setattr(optimizers, "_BATCH", 3 * 24 * 8)


def test_muon_in_batches_equals_muon_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for matrices without a gradient, and with a momentum from a checkpoint."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(24, 8), (8, 8), (24, 8), (8, 24), (24, 8), (24, 8), (24, 8)]
    one = [torch.randn(shape, generator=generator) for shape in shapes]
    other = [weight.clone() for weight in one]
    loop, batches = (
        Muon([{"params": x[:4]}, {"params": x[4:], "parts": (0.5, 0.5, 1.0)}], 0.01, 0.95, 0.1) for x in (one, other)
    )
    for step in range(3):
        for i, (weight, its) in enumerate(zip(one, other, strict=True)):
            weight.grad = its.grad = None
            if i != step:
                weight.grad = torch.randn(weight.shape, generator=generator)
                its.grad = weight.grad.clone()
        with monkeypatch.context() as patched:
            loop.step()
            together(patched)
            batches.step()
        batches.load_state_dict(copy.deepcopy(batches.state_dict()))
    for weight, its in zip(one, other, strict=True):
        torch.testing.assert_close(its, weight, rtol=1e-5, atol=1e-6)
        mean, theirs = loop.state[weight]["momentum_buffer"], batches.state[its]["momentum_buffer"]
        torch.testing.assert_close(theirs, mean, rtol=1e-6, atol=1e-7)


class Launches(TorchDispatchMode):
    """Counts operations that compute something: on a device, kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operation, types, arguments=(), options=None):
        self.count += not operation.is_view
        return operation(*arguments, **(options or {}))


def test_muon_launches_no_more_kernels_for_more_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    """One shape: 4 for moments and weights, 1 to stack, 7 around the iteration, 3 in each of its steps."""
    together(monkeypatch)
    monkeypatch.setattr(optimizers, "_BATCH", 2**27)
    counts = []
    for matrices in (2, 40):
        weights = [Parameter(torch.ones(8, 8)) for _ in range(matrices)]
        optimizer = Muon(weights, 0.01, 0.95, 0.1)
        for _ in range(2):  # the first one makes the states
            for weight in weights:
                weight.grad = torch.ones(8, 8)
            with Launches() as launches:
                optimizer.step()
        counts.append(launches.count)
    assert counts[0] == counts[1] <= 30


@pytest.mark.parametrize(("shape", "parts"), [((8, 8), (1.0,)), ((24, 8), (0.5, 0.5, 1.0))])
@pytest.mark.parametrize("ranks", [1, 2], indirect=True)
def test_sharded_matrices_are_computed_together(shape, parts, ranks: DeviceMesh, monkeypatch) -> None:
    """Each is gathered once."""
    together(monkeypatch)
    generator = torch.Generator().manual_seed(0)
    whole = [torch.randn(shape, generator=generator) for _ in range(5)]
    sharded = [DTensor.from_local(values.clone(), ranks, [Shard(0)]) for values in whole]
    for values, shards in zip(whole, sharded, strict=True):
        values.grad = torch.randn(shape, generator=generator)
        shards.grad = DTensor.from_local(values.grad.clone(), ranks, [Shard(0)])
    Muon([{"params": whole, "parts": parts}], 0.01, 0.95, 0.1).step()
    with CommDebugMode() as communication:
        Muon([{"params": sharded, "parts": parts}], 0.01, 0.95, 0.1).step()
    if ranks.size() == 1:
        for values, shards in zip(whole, sharded, strict=True):
            assert torch.equal(shards.to_local(), values)
    else:
        assert communication.get_total_counts() == 5
