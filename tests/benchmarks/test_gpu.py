"""What benchmarks.gpu does without a GPU."""

import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import protlm
from benchmarks.gpu import __main__ as gpu
from benchmarks.gpu import correctness, figures, resuming, whole_model
from benchmarks.gpu.__main__ import Part
from benchmarks.peers import flash_linear_attention
from benchmarks.tables import read_rows
from protlm.errors import UserError
from protlm.performer import Performer, PerformerConfig
from protlm.performer.attention import FavorAttention
from tests.benchmarks import gpu_parts


def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu", "--output", str(tmp_path / "gpu.csv")])
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(UserError, match="no CUDA device"):
        gpu.main()
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_part_is_named(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu", "speed"])
    with pytest.raises(UserError, match="part 'speed': expected one of correctness, invariance, attention, model"):
        gpu.main()


def test_proteins_have_lengths_like_those_of_swiss_prot():
    lengths = sorted(map(len, whole_model.proteins(500)))
    assert lengths[0] >= 20
    assert 250 < lengths[250] < 350


def test_a_failing_program_is_reported_by_its_last_line(monkeypatch):
    failed = subprocess.CompletedProcess([], 2, "", "warning\nerror: no corpus\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(UserError, match=r"protlm.train: error: no corpus"):
        resuming.python("protlm.train")


def test_rows_become_a_table():
    rows = [figures.row("model", "relu", "time", 1.23456, "ms", 2.0, length=8)]
    assert figures.table(rows).splitlines()[-1] == "| model |  | 8 |  | relu | time | 1.235 | ms | 2 |"


def parts(*names: str) -> dict[str, Part]:
    return {name: Part(getattr(gpu_parts, name), 1) for name in names}


def run(parts: dict[str, Part], tmp_path: Path, monkeypatch, *arguments: str) -> tuple[int, list[dict[str, str]]]:
    """The exit code of the command with these parts, as on a GPU, and the rows of its CSV file."""
    output = tmp_path / "gpu.csv"
    monkeypatch.setattr(gpu, "PARTS", parts)
    monkeypatch.setattr(sys, "argv", ["gpu", *arguments, "--output", str(output)])
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "a card")
    return gpu.main(), read_rows(output)


def test_a_part_that_fails_or_dies_keeps_its_rows_and_does_not_end_the_others(tmp_path, monkeypatch, capfd):
    code, rows = run(parts("fails", "dies", "good"), tmp_path, monkeypatch)
    assert code == 1
    assert [(row["part"], row["value"]) for row in rows] == [
        ("fails", "3"), ("dies", "4"), ("good", "0.5"), ("good", "2")
    ]  # fmt: skip
    assert {(row["card"], row["protlm"]) for row in rows} == {("a card", protlm.__version__)}
    out, err = capfd.readouterr()
    assert "failed: fails: ValueError: an illegal memory access\n" in err
    assert "failed: dies: its process died (exit code 7)\n" in err
    assert "| good |  | 8 |  | relu | time | 2 | ms |  |" in out


def test_without_a_failure_the_exit_code_is_0(tmp_path, monkeypatch):
    assert run(parts("good"), tmp_path, monkeypatch)[0] == 0


def test_a_figure_above_its_limit_fails(tmp_path, monkeypatch, capfd):
    code, rows = run(parts("wrong"), tmp_path, monkeypatch)
    assert (code, len(rows)) == (1, 2)
    err = capfd.readouterr().err
    assert "failed: wrong, relu, causal, error: 2, expected at most 1\n" in err
    assert "failed: wrong, softmax, error: nan, expected at most 1\n" in err


@pytest.mark.slow
def test_a_part_that_hangs_is_stopped_with_its_processes_and_leaves_others_their_time(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(gpu, "LIMIT", 120.0)
    begin, both = time.monotonic(), parts("hangs", "good")
    code, rows = run({name: part._replace(share=1 if name == "hangs" else 7) for name, part in both.items()},
                     tmp_path, monkeypatch)  # fmt: skip
    assert code == 1
    assert time.monotonic() < begin + 55  # it would sleep for 60
    assert [row["part"] for row in rows] == ["hangs", "good", "good"]
    assert "failed: hangs: stopped at its deadline\n" in capfd.readouterr().err
    status = Path(f"/proc/{rows[0]['value']}/stat")
    assert not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"  # if nobody reaps orphans


def test_a_part_replaces_its_own_rows_only_and_one_that_failed_only_those_that_it_measured(tmp_path, monkeypatch):
    old: list[dict[str, Any]] = [
        {"part": part, "case": case, "direction": "", "length": "", "pass": "", "measure": "time", "value": 9}
        for part, case in (("good", "gone"), ("model", "relu"), ("fails", "relu"), ("fails", "softmax"))
    ]
    gpu.replace_csv(old, tmp_path / "gpu.csv")
    _, rows = run(parts("good", "fails", "module"), tmp_path, monkeypatch, "good", "fails")
    assert [(row["part"], row["case"], row["value"]) for row in rows] == [
        ("model", "relu", "9"), ("fails", "softmax", "9"), ("fails", "relu", "3"),
        ("good", "relu", "0.5"), ("good", "relu", "2"),
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="would measure")
@pytest.mark.parametrize("name", ["invariance", "generation"])
def test_a_real_part_starts_in_a_process(name):
    with pytest.raises(gpu.PartError, match="Torch not compiled with CUDA|NVIDIA"):
        list(gpu.items_of(gpu.PARTS[name].run, time.monotonic() + 300))


def test_kernels_that_are_wrong_fail(monkeypatch):
    """On the CPU, with PyTorch operations in place of the kernels."""
    real, scale = correctness.favor, 1.0

    def favor(kernel: str, features: int, causal: bool, backend: str, width: int) -> FavorAttention:
        attention = real(kernel, 16, causal, "eager", width)
        if backend == "triton":
            attention.register_forward_hook(lambda module, args, out: out * scale)
        return attention

    for module in (correctness, sys.modules[real.__module__]):
        monkeypatch.setattr(module, "DEVICE", torch.device("cpu"))
    monkeypatch.setattr(correctness, "favor", favor)
    case = ("softmax", False, "float32", 20)
    rows = correctness.errors(case)
    assert [row["measure"] for row in rows[:4]] == [f"error of {what}" for what in ("out", "dq", "dk", "dv")]
    assert [row["limit"] for row in rows] == [1e-5] * 4 + [""] * 4
    assert rows[0]["case"] == "softmax, d=20, float32, triton"
    assert figures.beyond(rows) == []
    scale = 1.001
    assert len(figures.beyond(correctness.errors(case))) == 4


@pytest.mark.parametrize("causal", [False, True])
def test_invariance_compares_a_protein_alone_with_batches_of_shuffled_others(causal, monkeypatch):
    torch.manual_seed(0)
    net = Performer(PerformerConfig(33, 1, 1, 2, 16, 16, causal=causal, num_features=16, dropout=0.0)).eval()
    found = correctness.differences(net, torch.float32, (1, 9, 20))
    assert list(found) == ["packed", "padded", "packed, shuffled", "padded, shuffled"]
    assert max(found.values()) < correctness.LIMITS["float32"]
    seen = []

    def mixed(module, args, out):  # each row with the mean of the batch
        seen.append(out.shape[:2])
        return out + 0.1 * out.mean(dim=(0, 1))

    net.norm.register_forward_hook(mixed)
    assert min(correctness.differences(net, torch.float32, (1, 9, 20)).values()) > 1e-3
    assert seen == [(1, 1), (1, 9), (1, 20), (1, 30), (3, 20), (1, 111), (6, 37)]


def test_packed_and_padded_training_steps_are_on_the_same_proteins(monkeypatch):
    """A bucket of similar lengths, as in training; both have the same gradients."""
    monkeypatch.setattr(torch.optim, "AdamW", lambda parameters, fused: torch.optim.SGD(parameters, 1.0))
    monkeypatch.setattr(whole_model, "DEVICE", torch.device("cpu"))
    monkeypatch.setattr(whole_model, "TOKENS_A_BATCH", 1000)
    gradients = []
    for packed in (False, True):
        torch.manual_seed(0)
        net = Performer(PerformerConfig(33, 1, 1, 2, 16, 16, "window", max_length=400, positions="rotary", dropout=0.0))
        tokens, mask, boundaries = whole_model.bucket(packed)
        assert 750 < mask.sum() <= 1000
        assert (~mask).float().mean() < 0.01
        assert (boundaries is not None) == packed
        before = net.norm.weight.detach().clone()
        whole_model.step_on(net, tokens, mask, boundaries)()
        gradients.append(before - net.norm.weight.detach())
    assert tokens.shape == mask.shape == (1, int(mask.sum()))
    assert (gradients[0] - gradients[1]).norm() < 0.02 * gradients[0].norm()


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
