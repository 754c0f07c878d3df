"""Triton's interpreter, which runs kernels on CPU tensors, with bfloat16 rounded as GPUs do."""

import importlib.util

import pytest

if not importlib.util.find_spec("triton"):
    collect_ignore = ["ahead_of_time.py"]  # a program that tests start


@pytest.fixture(autouse=True)
def rounded_bfloat16(monkeypatch):
    """To the nearest, ties to even; the interpreter truncates, which makes errors 3 times as large."""
    interpreter = pytest.importorskip("triton.runtime.interpreter", reason="Triton is the optional extra gpu")
    import numpy as np
    import triton.language as tl

    convert = interpreter._convert_float

    def rounded(data, source, target, mode):
        if source == tl.float32 and target == tl.bfloat16:
            bits = data.view(np.uint32).astype(np.uint64)
            bits = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
            return np.where(np.isnan(data), 0x7FC0, bits).astype(np.uint16)
        return convert(data, source, target, mode)

    monkeypatch.setattr(interpreter, "_convert_float", rounded)


@pytest.fixture(autouse=True)
def within_bounds(monkeypatch):
    """Every load and store within the tensors that the kernel was given."""
    interpreter = pytest.importorskip("triton.runtime.interpreter", reason="Triton is the optional extra gpu")
    from tests.performer.kernels import bounds

    bounds.install(monkeypatch, interpreter)
