"""Redrawing of features, seeds of dropout, and the learning curve."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from protlm.errors import UserError
from protlm.performer import Performer
from protlm.training.callbacks import RedrawFeatures, SeededSteps, draw_learning_curve
from protlm.training.task import LanguageModelTask


def at(callback: RedrawFeatures, model: Performer, *steps: int) -> list[np.ndarray]:
    """The directions at these steps of a run that starts at the first of them."""
    task = LanguageModelTask(model, torch.optim.SGD)
    callback.on_train_start(None, task)
    seen = []
    for step in steps:
        callback.on_train_batch_start(SimpleNamespace(global_step=step, max_steps=20), task, None, 0)
        seen.append(model.blocks[0].attention.attention.directions.numpy().copy())
    return seen


def test_redraw_depends_on_the_step_only(tiny_model: Performer) -> None:
    """A run that starts at step 7 has the same directions as one that started at step 0."""
    seen = at(RedrawFeatures(3), tiny_model, *range(9))
    assert [any(np.array_equal(a, b) for b in seen[:i]) for i, a in enumerate(seen)] == 3 * [False, True, True]
    assert np.array_equal(at(RedrawFeatures(3), tiny_model, 7)[0], seen[7])
    first, last = at(RedrawFeatures(0), tiny_model, 0, 5000)
    assert np.array_equal(first, last)


def test_draws_end_after_their_fraction_of_the_run(tiny_model: Performer) -> None:
    whole, half = (at(RedrawFeatures(3, until), tiny_model, *range(20)) for until in (1.0, 0.5))
    for step in range(20):
        assert np.array_equal(half[step], whole[min(step, 9)])
    assert not np.array_equal(half[19], whole[19])
    for odd in (-0.1, 1.1, "half"):
        with pytest.raises(UserError, match="callbacks.redraw.until .*: expected a number from 0 to 1"):
            RedrawFeatures(3, odd)


@pytest.mark.parametrize(("attention", "changes"), [("softmax", True), ("optimal", True), ("relu", False)])
def test_kernels_that_estimate_softmax_are_redrawn_by_default(tiny_model, attention: str, changes: bool) -> None:
    model = Performer(dataclasses.replace(tiny_model.config, attention=attention))
    first, before, after = at(RedrawFeatures(), model, 0, 999, 1000)
    assert np.array_equal(first, before)
    assert np.array_equal(before, after) != changes


def test_lsh_attention_has_new_hashes_in_each_step(tiny_model: Performer) -> None:
    model = Performer(dataclasses.replace(tiny_model.config, attention="reformer"))
    first, again, second, later = at(RedrawFeatures(), model, 0, 0, 1, 2)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, second)
    assert not np.array_equal(second, later)
    assert model.draw_number == 2


def test_a_resumed_run_does_not_repeat_a_draw(tiny_model: Performer) -> None:
    """Otherwise adaptive kernels would adopt what they have observed since the last draw."""
    model = Performer(dataclasses.replace(tiny_model.config, attention="optimal"))
    at(RedrawFeatures(3), model, 0, 3)
    attention = model.blocks[0].attention.attention
    attention.observe(*torch.randn(2, 1, 2, 10, 8, generator=torch.Generator().manual_seed(0)))
    before = attention.directions.numpy().copy()
    assert np.array_equal(at(RedrawFeatures(3), model, 4)[0], before)
    assert attention.observed == 1


def test_dropout_depends_on_step_rank_and_part_only() -> None:
    def draws(callback: SeededSteps, step: int, rank: int = 0, world: int = 1) -> float:
        loop = SimpleNamespace(epoch_loop=SimpleNamespace())
        trainer = SimpleNamespace(global_step=step, global_rank=rank, world_size=world, fit_loop=loop)
        callback.on_train_batch_start(trainer, None, None, 0)
        return torch.rand(1).item()

    with torch.random.fork_rng():
        one = SeededSteps(1)
        first = [draws(one, step) for step in (0, 0, 1, 2)]  # two batches of step 0, as in gradient accumulation
        assert len(set(first)) == 4
        assert draws(SeededSteps(1), 2) == first[3]
        assert [draws(SeededSteps(1), 0, rank, world=2) for rank in (0, 1)] == first[:2]  # two ranks
        assert draws(SeededSteps(2), 2) != first[3]


def test_the_learning_curve_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "curve.png"
    point = {
        "valid/accuracy": 0.1,
        "valid/perplexity": 15.0,
        "valid/unigram_accuracy": 0.09,
        "valid/unigram_perplexity": 18.0,
    }
    draw_learning_curve(
        [[step, 3 - step / 100] for step in range(50)], [{"step": 10, **point}, {"step": 40, **point}], path
    )
    picture = imread(path)
    assert picture.shape[0] > 300
    assert picture.std() > 0.05
    draw_learning_curve([[1, 3.0]], [], path)  # a run that stopped before its first validation
