"""Completions of held-out pictures: the original, its first half, and what each model draws from there."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.bits.studies import IMAGES
from benchmarks.quality.recipe import has_results
from benchmarks.tables import check_outputs
from protlm.checkpoint import load
from protlm.corpus.reader import Corpus
from protlm.errors import UserError
from protlm.inference.generate import generate
from protlm.performer import Performer


def draw_completions(corpus: Path, work: Path, count: int, figure: Path) -> None:
    """Draws completions of held-out pictures, `count` of each split, by the finished runs in a work folder.

    Models that cannot be computed token by token (Reformer) are left out.

    Raises:
        UserError: without finished runs or pictures.
    """
    check_outputs(picture=figure)
    pictures = held_out(corpus, count)
    models = {}
    for kind, about in IMAGES.items():
        for folder in sorted((work / kind).glob("*"))[:1]:
            if has_results(folder):
                model = load(folder / "checkpoints" / "best.ckpt", any_alphabet=True)
                if model.config.stepwise:
                    models[about.title] = model
    if not models:
        raise UserError(f"{work}: no run has finished whose model computes token by token; train first")
    halves = [np.where(np.arange(len(one)) < len(one) // 2, one, 255).astype(np.uint8) for one in pictures]
    columns = {"original": pictures, "given": halves}
    for title, model in models.items():
        print(f"{title}: {len(pictures)} completions", flush=True)
        columns[title] = [completed(model, one, seed) for seed, one in enumerate(pictures)]
    draw(columns, figure)


def held_out(path: Path, count: int) -> list[np.ndarray]:
    """Square pictures (n,) uint8 of the splits test and ood, `count` of each, drawn by a fixed seed.

    Raises:
        UserError: if the corpus has none.
    """
    corpus, chosen = Corpus(path), []
    lengths = corpus.lengths.tolist()
    for split in ("test", "ood"):
        members = [one for one in corpus.members(split).tolist() if 3 * side_of(lengths[one]) ** 2 == lengths[one]]
        chosen += [members[index] for index in np.random.default_rng(1).permutation(len(members))[:count]]
    if not chosen:
        raise UserError(f"{path}: has no held-out square pictures; see python -m benchmarks.pictures --help")
    return [np.array(corpus[one], dtype=np.uint8) for one in chosen]


def side_of(size: int) -> int:
    """The side, in pixels, of a square picture of this many bytes.

    >>> side_of(12288)
    64
    """
    return math.isqrt(size // 3)


def completed(model: Performer, picture: np.ndarray, seed: int, kept: float = 0.5) -> np.ndarray:
    """The first part of a picture, and the rest as the model draws it.

    Args:
        model: causal, of bytes.
        picture: (n,) uint8.
        seed: of the draws.
        kept: fraction of the bytes that the model is given.
    """
    size = len(picture)
    prefix = picture[: int(kept * size)].tobytes()
    with torch.no_grad():
        (drawn,) = generate(model, 1, prefix, max_length=size, min_length=size, seed=seed)
    return np.frombuffer(drawn.letters, np.uint8)


def draw(columns: Mapping[str, Sequence[np.ndarray]], path: Path) -> None:
    """Draws square pictures (n,) uint8 in columns with titles."""
    from matplotlib.figure import Figure  # not pyplot, which has global state and needs a display

    rows = len(next(iter(columns.values())))
    figure = Figure(figsize=(1.6 * len(columns), 0.5 + 1.5 * rows), layout="constrained")
    grid = figure.subplots(rows, len(columns), squeeze=False)
    for column, (title, pictures) in enumerate(columns.items()):
        for row, picture in enumerate(pictures):
            grid[row, column].imshow(picture.reshape(side_of(len(picture)), -1, 3), interpolation="nearest")
            grid[row, column].set_axis_off()
        grid[0, column].set_title(title.replace(", ", "\n"), fontsize=9)
    figure.savefig(path, dpi=130)
