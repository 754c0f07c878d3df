from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from matplotlib.image import imread

from protlm.performer import Performer
from protlm.training.callbacks import RedrawFeatures, SeededSteps, draw_learning_curve
from protlm.training.task import LanguageModelTask


def test_redraw_depends_on_the_step_only(tiny_model: Performer) -> None:
    """A run that begins at step 7 has the directions of one that has been there all along."""
    task = LanguageModelTask(tiny_model, torch.optim.SGD)
    directions = tiny_model.blocks[0].attention.attention

    def at(callback: RedrawFeatures, step: int) -> np.ndarray:
        callback.on_train_batch_start(SimpleNamespace(global_step=step), task, None, 0)
        return directions.directions.numpy().copy()

    steady = RedrawFeatures(3)
    seen = [at(steady, step) for step in range(9)]
    assert [any(np.array_equal(a, b) for b in seen[:i]) for i, a in enumerate(seen)] == 3 * [False, True, True]
    assert np.array_equal(at(RedrawFeatures(3), 7), seen[7])
    kept = RedrawFeatures(0)
    assert np.array_equal(at(kept, 0), at(kept, 1000))


def test_dropout_depends_on_step_rank_and_part_only() -> None:
    def draws(callback: SeededSteps, step: int, rank: int = 0) -> float:
        callback.on_train_batch_start(SimpleNamespace(global_step=step, global_rank=rank), None, None, 0)
        return torch.rand(1).item()

    with torch.random.fork_rng():
        one = SeededSteps(1)
        first = [draws(one, step) for step in (0, 0, 1, 2)]  # two batches of step 0, as in gradient accumulation
        assert len(set(first)) == 4
        assert draws(SeededSteps(1), 2) == first[3]
        assert draws(SeededSteps(1), 2, rank=1) != first[3]
        assert draws(SeededSteps(2), 2) != first[3]


def test_learning_curve_is_a_picture_with_something_in_it(tmp_path: Path) -> None:
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
