"""Which heads and layers have no learned features: how many, and which."""

import numpy as np
import pytest
import torch

from protlm.checkpoint import export, load
from protlm.distillation.budget import Budget, Counts
from protlm.distillation.choice import _ranked, chosen_heads
from protlm.distillation.student import student_of
from protlm.errors import UserError

BAD = np.array([[5.0, 1, 1, 9], [2, 8, 3, 6], [4, 6, 7, 5]])  # three heads of each layer, and the layer
LOSS = np.array([[1.0, 7, 2, 3], [4, 5, 6, 1], [3, 8, 9, 2]])


@pytest.mark.parametrize(
    ("counts", "exact", "window"),
    [
        (Counts(2, 0, 0, 0), [[], [1], [2]], [[], [], []]),
        (Counts(0, 1, 0, 0), [[0, 1, 2], [], []], [[], [], []]),
        (Counts(0, 0, 2, 0), [[], [], []], [[0, 2], [], []]),
        (Counts(0, 0, 0, 1), [[], [], []], [[], [0, 1, 2], []]),
        (Counts(1, 1, 2, 0), [[0, 1, 2], [1], []], [[], [0], [0]]),  # single heads of other layers
        (Counts(1, 0, 1, 1), [[], [], [2]], [[0], [0, 1, 2], []]),
    ],
)
def test_the_worst_stay_exact_and_those_that_lose_least_have_no_features(counts, exact, window) -> None:
    assert _ranked(BAD, LOSS, counts) == (exact, window)


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ({"exact_layers": 1.5}, "exact_layers 1.5: expected a fraction of all layers, from 0 to below 1; 0.05 are 5 %"),
        ({"window_heads": -0.1}, "window_heads -0.1: expected a fraction of all heads"),
        ({"exact_layers": 0.5, "window_heads": 0.5}, "exact_layers 0.5 and window_heads 0.5: together all"),
        ({"exact_layers": 0.05}, "exact_layers 0.05: none of 6 layers; one is 0.167"),
        ({"exact_heads": 0.01}, "exact_heads 0.01: none of 24 heads; one is 0.0417"),
        ({"exact_layers": 0.49, "window_layers": 0.5}, "exact_layers, window_layers: no head is left"),
    ],
)
def test_budgets_that_cannot_be_kept_are_refused(budget: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Budget(**budget).counts(6, 4)


def test_a_budget_is_counted_in_heads_and_layers() -> None:
    assert Budget(0.25, 0.2, 0.25, 0.15).counts(6, 4) == (6, 1, 6, 1)
    assert not Budget()
    assert Budget(window_layers=0.5)


@pytest.mark.parametrize(
    ("by", "part", "budget"),
    [("error", 2, {"exact_heads": 0.75}), ("kl", 0, {"exact_heads": 0.75}), ("error", 2, {"window_heads": 0.25})],
)
def test_a_head_that_is_easily_imitated_gives_way(by, part, budget, teacher_folder, proteins, tmp_path) -> None:
    """Its values are 0, so that any attention gives its output; or its queries, so that all keys have equal weights."""
    teacher, head = load(teacher_folder).eval(), 1
    with torch.no_grad():
        teacher.blocks[1].attention.qkv.weight.unflatten(0, (3, teacher.config.heads, -1))[part, head] = 0
        teacher.blocks[1].attention.qkv.bias.unflatten(0, (3, teacher.config.heads, -1))[part, head] = 0
    export(teacher, tmp_path / "changed")
    student = student_of(str(tmp_path / "changed"), block=4, num_features=8)
    longest = sorted((sequence for _, sequence in proteins), key=len)[-8:]
    chosen = chosen_heads(teacher, student, longest, Budget(**budget), by, steps=40)
    assert chosen.window_heads == ([[], [head]] if "window_heads" in budget else [[], []])
    assert chosen.exact_heads == ([[], []] if "window_heads" in budget else [[0, 1], [0]])
