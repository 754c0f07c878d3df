"""What benchmarks.gpu does without a GPU."""

import subprocess
import sys
from types import ModuleType

import pytest
import torch

from benchmarks import gpu
from benchmarks.peers import flash_linear_attention
from protlm.errors import UserError
from protlm.performer.attention import FavorAttention


def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu", "--output", str(tmp_path / "gpu.csv")])
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match="no CUDA device"):
        gpu.main()
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_part_is_named(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu", "speed"])
    with pytest.raises(UserError, match="part 'speed': expected one of correctness, attention, model"):
        gpu.main()


def test_proteins_have_lengths_like_those_of_swiss_prot():
    lengths = sorted(map(len, gpu.proteins(500)))
    assert lengths[0] >= 20
    assert 250 < lengths[250] < 350


def test_a_failing_program_is_reported_by_its_last_line(monkeypatch):
    failed = subprocess.CompletedProcess([], 2, "", "warning\nerror: no corpus\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(UserError, match=r"protlm.train: error: no corpus"):
        gpu.python("protlm.train")


def test_rows_become_a_table():
    rows = [gpu.row("model", "relu", "time", 1.23456, "ms", length=8)]
    assert gpu.table(rows).splitlines()[-1] == "| model |  | 8 |  | relu | time | 1.235 | ms |"


def test_flash_linear_attention_computes_the_same_relu_attention(monkeypatch):
    """With a stand-in for the package, which needs a GPU: causal, normalised, positions before heads."""

    def chunk_linear_attn(q, k, v, scale, normalize):
        weights = torch.einsum("blhm,bshm->bhls", q, k).tril() * scale
        weights = weights / weights.sum(-1, keepdim=True) if normalize else weights
        return torch.einsum("bhls,bshe->blhe", weights, v), None

    for name in ("fla", "fla.ops", "fla.ops.linear_attn"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    assert flash_linear_attention(False, torch.device("cpu")) is None
    with pytest.MonkeyPatch.context() as patched:
        assert flash_linear_attention(True, torch.device("cpu")) is None  # not installed
        patched.setattr(sys.modules["fla.ops.linear_attn"], "chunk_linear_attn", chunk_linear_attn, raising=False)
        torch.manual_seed(0)
        attend = flash_linear_attention(True, torch.device("cpu"))
    assert attend is not None
    torch.manual_seed(0)
    own = FavorAttention(64, 128, "relu", causal=True)
    q, k, v = (torch.randn(2, 9, 3, 64).transpose(1, 2) for _ in range(3))
    assert torch.allclose(attend(q, k, v), own(q, k, v), atol=1e-5)
