"""What benchmarks.gpu does without a GPU."""

import subprocess
import sys

import pytest

from benchmarks import gpu
from protlm.errors import UserError


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
