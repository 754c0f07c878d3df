"""What one layer launches on a GPU, counted in Triton's interpreter; nothing waits for the device."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

pytest.importorskip("triton", reason="Triton is the optional extra gpu")

import triton.runtime.interpreter as interpreter

from protlm.performer import FavorAttention
from protlm.performer.kernels import attention as operators
from protlm.performer.segments import Packed
from tests.performer.test_waits import ASKING

BODIES = {operators._FORWARD: operators._forward, operators._BACKWARD: operators._backward}
SCALED = "aten.mul.out"
"""The directions of causal kernels, scaled and rounded to float16 by PyTorch."""
CAUSAL = [SCALED, "states_kernel", "scan_kernel", "outputs_kernel"]
FORWARD = {
    ("softmax", False): ["sum_rows", "sum_keys", "attend"],
    ("relu", False): ["sum_keys", "attend"],
    ("softmax", True): CAUSAL,
    ("relu", True): CAUSAL,
}
BACKWARD = {
    False: ["sum_queries", "differentiate_keys", "differentiate_queries"],
    True: [SCALED, "states_kernel", "scan_kernel", "queries_kernel", "states_kernel", "scan_kernel", "keys_kernel"],
}


class Launches(TorchDispatchMode):
    """Names of what launches a kernel: of Triton's, and of operations but views and new memory; also of waits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.names: list[str] = []
        launch = interpreter.GridExecutor.__call__

        def counted(executor: Any, *arguments: Any, **options: Any) -> Any:
            self.names.append(executor.fn.__name__)
            with _disable_current_modes(), pytest.MonkeyPatch.context() as undone:
                for name, method in methods.items():
                    undone.setattr(torch.Tensor, name, method)
                return launch(executor, *arguments, **options)

        monkeypatch.setattr(interpreter.GridExecutor, "__call__", counted)
        methods = {name: getattr(torch.Tensor, name) for name in ASKING}
        for name, method in methods.items():
            monkeypatch.setattr(torch.Tensor, name, self._waiting(name, method))

    def _waiting(self, name: str, method: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            self.names.append(f"wait: {name}")
            return method(*arguments, **options)

        return call

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        if body := BODIES.get(function):  # a mode sees an operator as one operation
            with self:
                return body(*arguments)
        result = function(*arguments, **(options or {}))
        view = function.is_view and result.untyped_storage()._cdata == arguments[0].untyped_storage()._cdata
        if not view and "empty" not in str(function):
            self.names.append(str(function))
        return result


@pytest.mark.parametrize("length", [9, 200])
@pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])
@pytest.mark.parametrize("form", ["masked", "packed"])
@pytest.mark.parametrize("kernel", ["softmax", "relu"])
def test_a_layer_launches_its_kernels_and_nothing_else(kernel, form, causal, length, monkeypatch):
    """Neither waits nor zeros for results without a gradient; as many at both lengths (longer ones may be divided)."""
    attention = FavorAttention(16, 16, kernel, causal=causal)
    attention.backend = "triton"
    q, k, v, grad = (torch.randn(1, length, 1, 16).to(torch.bfloat16).transpose(1, 2) for _ in range(4))
    for x in (q, k, v):
        x.requires_grad_()
    packed = Packed(torch.tensor([0, 4, length], dtype=torch.int32), length - 4) if form == "packed" else None
    mask = torch.ones(1, length, dtype=torch.bool) if form == "masked" else None
    launches = Launches(monkeypatch)
    with launches:
        out = attention(q, k, v, mask, packed)
    forward, launches.names = launches.names, []
    with launches:
        torch.autograd.grad(out, (q, k, v), grad)
    assert forward == FORWARD[kernel, causal]
    assert launches.names == BACKWARD[causal]


def test_the_count_sees_waits_and_operations(monkeypatch):
    launches = Launches(monkeypatch)
    x = torch.ones(3)
    with launches:
        x.view(3, 1).sum().item()
    assert launches.names == ["aten.sum.default", "wait: item", "aten._local_scalar_dense.default"]
