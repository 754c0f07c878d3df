"""Times of teacher and student, and when longer proteins are left out."""

import pytest
import torch

from protlm.distillation import timing
from protlm.distillation.timing import timed


def test_both_are_timed_at_each_length(tiny_model) -> None:
    with torch.no_grad():
        seconds, why = timed(tiny_model, tiny_model, (32, 16))
    assert list(seconds) == [16, 32]
    assert all(len(both) == 2 and min(both) > 0 for both in seconds.values())
    assert why is None


def test_longer_proteins_are_left_out_where_the_teacher_would_take_too_long(monkeypatch) -> None:
    taken = []
    monkeypatch.setattr(timing, "_seconds", lambda model, length: taken.append(length) or length / 100)
    seconds, why = timed(None, None, (100, 200, 400, 800), limit=8)  # 1, 2, 4, 8 seconds; expected at most 4, 8, 16
    assert list(seconds) == [100, 200, 400]
    assert why == "not timed from 800 tokens on: the teacher would take up to 16 s"
    assert taken == [100, 100, 200, 200, 400, 400]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError(), RuntimeError("can't allocate memory: 9 bytes")])
def test_and_where_memory_is_short(error, monkeypatch) -> None:
    def seconds_of(model: None, length: int) -> float:
        if length > 100:
            raise error
        return 1.0

    monkeypatch.setattr(timing, "_seconds", seconds_of)
    assert timed(None, None, (100, 200)) == ({100: [1, 1]}, "not timed from 200 tokens on: not enough memory")


def test_other_errors_are_raised(monkeypatch) -> None:
    def seconds_of(model: None, length: int) -> float:
        raise RuntimeError("shapes")

    monkeypatch.setattr(timing, "_seconds", seconds_of)
    with pytest.raises(RuntimeError, match="shapes"):
        timed(None, None, (100,))
