"""The choice of what computes attention, and FlexAttention on the CPU."""

import logging
import warnings
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

import protlm
from protlm import checkpoint
from protlm.errors import UserError
from protlm.model_api import example
from protlm.performer import FavorAttention, Performer, PerformerConfig, backends


def tensors(*shape: int, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator) for _ in range(3)]


def test_auto_and_cpu_and_eager_are_the_same_on_the_cpu():
    attention, given = FavorAttention(8, 16), tensors(1, 2, 9, 8)
    results = []
    for name in ("auto", "cpu", "eager"):
        attention.backend = name
        results.append(attention(*given))
        assert attention.backend_in_use() == "PyTorch operations on cpu"
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_cpu_refuses_tensors_elsewhere():
    attention = FavorAttention(8, 16)
    attention.backend = "cpu"
    with pytest.raises(ValueError, match="'cpu': the tensors are on meta; use 'eager' or 'auto'"):
        attention(*(x.to("meta") for x in tensors(1, 2, 9, 8)))


def test_a_requested_backend_that_cannot_run_is_refused(monkeypatch):
    attention, given = FavorAttention(8, 16), tensors(1, 2, 9, 8)
    attention.backend = "triton"
    monkeypatch.setattr(backends, "kernels", lambda: "Triton is not available")
    with pytest.raises(
        ValueError, match="attention_backend 'triton': the kernels need a CUDA device, got cpu; use 'auto'"
    ):
        attention(*given)
    with pytest.raises(ValueError, match="attention_backend 'triton'"):
        attention.backend_in_use()


def test_a_missing_triton_is_named(monkeypatch):
    def missing(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(backends.importlib, "import_module", missing)
    assert backends.kernels.__wrapped__() == (
        "Triton is not available (No module named 'triton'); install it: pip install triton"
    )


@pytest.mark.parametrize("kernel", ["softmax", "hyperbolic", "regularised", "optimal", "sderf"])
def test_flex_equals_eager(kernel):
    attention, (q, k, v) = FavorAttention(16, 24, kernel).eval(), tensors(2, 2, 33, 16)
    mask = torch.ones(2, 33, dtype=torch.bool)
    mask[1, 20:] = False
    k = torch.where(mask[:, None, :, None], k, 50.0)  # padding may hold any finite numbers
    expected = attention(q, k, v, mask)
    attention.backend = "flex"
    assert torch.allclose(attention(q, k, v, mask), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"kernel": "relu"}, "positive, linear features only, not relu"),
        ({"kernel": "exp"}, "positive, linear features only, not exp"),
        ({"causal": True}, "bidirectional attention only"),
    ],
)
def test_flex_says_what_it_cannot_compute(given, reason):
    attention = FavorAttention(16, 24, **given)
    attention.backend = "flex"
    with pytest.raises(ValueError, match=f"'flex': FlexAttention computes {reason}"):
        attention(*tensors(1, 2, 9, 16))


def test_flex_has_no_gradients_on_the_cpu():
    attention = FavorAttention(16, 24)
    attention.backend = "flex"
    with pytest.raises(ValueError, match="no gradients on the CPU"):
        attention(*(x.requires_grad_() for x in tensors(1, 2, 9, 16)))
    assert attention.training
    with pytest.raises(ValueError, match="no gradients on the CPU"):  # before the first step
        attention.backend_in_use()
    assert attention.eval().backend_in_use() == "FlexAttention on cpu"


@pytest.mark.parametrize("name", ["triton", "flex"])
def test_a_model_without_random_features_refuses_their_backends(name):
    model = Performer(PerformerConfig(33, 1, 1, 2, 16, 16, attention="exact"))
    with pytest.raises(ValueError, match=f"'{name}': .* random features only; the model's is 'exact'"):
        model.use_backend(name)
    for accepted in ("auto", "cpu", "eager"):
        model.use_backend(accepted)


def test_a_model_uses_one_backend_in_all_layers():
    model = Performer(PerformerConfig(33, 1, 2, 2, 16, 16, local_heads=1))
    model.use_backend("eager")
    assert [block.attention.attention.rest.backend for block in model.blocks] == ["eager", "eager"]
    assert model.backend_in_use == "PyTorch operations on cpu"
    assert Performer(PerformerConfig(33, 1, 1, 2, 16, 16, attention="exact")).backend_in_use is None
    with pytest.raises(ValueError, match="'gpu': expected one of auto, cpu, eager, triton, flex"):
        model.use_backend("gpu")


def test_loading_refuses_a_backend_that_cannot_run(tmp_path):
    checkpoint.export(example(), tmp_path / "model")
    assert protlm.load(tmp_path / "model", attention_backend="cpu").backend_in_use == "PyTorch operations on cpu"
    for name, reason in (("flex", "positive, linear"), ("gpu", "expected one of")):
        with pytest.raises(UserError, match=f"attention_backend '{name}': .*{reason}"):
            protlm.load(tmp_path / "model", attention_backend=name)


def test_a_loaded_model_refuses_such_a_backend_at_once_and_keeps_its_own(monkeypatch):
    monkeypatch.setattr("protlm.performer.backends._interpreted", lambda: False)  # Triton, on the CPU
    model = example()
    model.use_backend("eager")
    for name, reason in (("triton", "need a CUDA device, got cpu"), ("flex", "positive, linear"), ("gpu", "expected")):
        with pytest.raises(UserError, match=f"attention_backend '{name}': .*{reason}"):
            model.use_backend(name)
    assert {block.attention.attention.backend for block in model.blocks} == {"eager"}


def on_a_gpu(monkeypatch, error: float | Exception) -> tuple[backends.Inputs, backends.Options, list[tuple]]:
    """A call that counts as one on a CUDA device, whose kernels differ by `error` or raise it; and what was checked."""
    kernels, checked = SimpleNamespace(unsupported=lambda inputs, options: None), []

    def agreement(device, dtype, *given, packed):
        checked.append((dtype, packed))
        if isinstance(error, Exception):
            raise error
        return error

    monkeypatch.setattr(backends, "kernels", lambda: kernels)
    monkeypatch.setattr(backends, "_PROVED", {})
    monkeypatch.setattr(backends, "agreement", agreement)
    monkeypatch.setattr(torch.cuda, "device_of", lambda x: nullcontext())
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")
    inputs, options = FavorAttention(8, 16)._operands(*tensors(1, 2, 9, 8), None)
    q = SimpleNamespace(device=torch.device("cuda", 0), dtype=torch.float32, shape=inputs.q.shape)
    return inputs._replace(q=q), options, checked


def test_kernels_that_differ_from_pytorch_are_not_used_with_one_warning(monkeypatch):
    inputs, options, checked = on_a_gpu(monkeypatch, 0.5)
    reason = "the kernels differ from PyTorch by 0.5"
    with pytest.warns(RuntimeWarning, match=f"^attention on a card: {reason}; PyTorch computes it instead$"):
        assert backends.choose("auto", inputs, options) == "eager"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert backends.choose("auto", inputs, options) == "eager"
    assert checked == [(torch.float32, False)]
    assert backends.explain("auto", inputs, options) == f"PyTorch operations on a card ({reason})"
    assert backends.choose("triton", inputs, options) == "triton"  # as requested


def test_kernels_that_fail_are_not_used_with_one_warning(monkeypatch):
    """A missing compiler, for example."""
    inputs, options, checked = on_a_gpu(monkeypatch, RuntimeError("Failed to find C compiler.\nPlease set CC."))
    with pytest.warns(RuntimeWarning, match="a card: the kernels failed: RuntimeError: Failed to find C compiler.; Py"):
        assert backends.choose("auto", inputs, options) == "eager"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert backends.choose("auto", inputs, options) == "eager"
    assert len(checked) == 1
    assert "Failed to find C compiler" in backends.explain("auto", inputs, options)


def test_kernels_that_agree_are_checked_once_for_each_dtype_and_for_packed_batches(monkeypatch):
    inputs, options, checked = on_a_gpu(monkeypatch, 1e-3)
    short = inputs._replace(q=SimpleNamespace(**vars(inputs.q) | {"dtype": torch.bfloat16}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for given, packed in ((inputs, False), (short, False), (inputs, True), (short, False), (inputs, True)):
            assert backends.choose("auto", given, options, packed) == "triton"
    assert checked == [(torch.float32, False), (torch.bfloat16, False), (torch.float32, True)]
    assert backends.explain("auto", inputs, options) == "Triton kernels on a card"


def test_an_unknown_backend_is_refused():
    attention = FavorAttention(8, 16)
    attention.backend = "nonsense"
    with pytest.raises(
        ValueError, match="attention_backend 'nonsense': expected one of auto, cpu, eager, triton, flex"
    ):
        attention(*tensors(1, 2, 9, 8))


def test_from_python_what_is_used_on_a_gpu_is_logged(tmp_path, monkeypatch, caplog):
    checkpoint.export(example(), tmp_path / "model")
    with caplog.at_level(logging.INFO, "protlm"):
        protlm.load(tmp_path / "model")
        assert caplog.messages == []
        monkeypatch.setattr("protlm.model_api._on_gpu", lambda model: True)
        protlm.load(tmp_path / "model")
    assert caplog.messages == ["attention: PyTorch operations on cpu"]
