"""Pictures of contact maps."""

from pathlib import Path

import numpy as np

from protlm.files import write_picture
from protlm.plots.titles import set_title

NEAR = 6  # pairs nearer along the sequence are left blank
TOUCHING = 8.0
WITHIN = 0.995  # quantile of the scores at which the colour scale ends
FOUND = (
    ("contacts below 8 Å", "#b9b9b9"),
    ("right among the best L", "#1f5fbf"),
    ("wrong among the best L", "#e07b39"),
)
"""Pairs compared with a structure, and their colours."""


def contact_plot(path: Path, scores: np.ndarray, title: str, method: str, distances: np.ndarray | None = None) -> None:
    """Draws scores; with a structure, above the diagonal, and below it contacts and the best L pairs.

    Args:
        path: ends in .png, .pdf or .svg.
        scores: (L, L); those of pairs near the diagonal are not drawn.
        title: of the picture.
        method: probabilities of "head" have the scale 0 to 1.
        distances: (L, L) in a structure, in angstroms, NaN where unknown.
    """
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure  # not pyplot, which has global state
    from matplotlib.patches import Patch

    length = len(scores)
    i, j = np.indices(scores.shape)
    shown = np.where(abs(i - j) < NEAR, np.nan, scores)
    far = shown[np.isfinite(shown)]
    high = 1.0 if method == "head" else max(float(np.quantile(far, WITHIN)), 1e-9) if len(far) else 1.0
    figure = Figure(figsize=(7, 6), layout="constrained")
    axes = figure.add_subplot()
    drawn = shown if distances is None else np.where(j > i, shown, np.nan)
    low, top = edges = (0.5, length + 0.5)
    extent = (low, top, top, low)
    image = axes.imshow(drawn, cmap="Blues", vmin=0, vmax=high, extent=extent, interpolation="nearest")
    what = "probability of a contact" if method == "head" else f"score ({method})"
    figure.colorbar(image, ax=axes, fraction=0.046, pad=0.02, label=what)
    if distances is not None:
        colours = ListedColormap([colour for _, colour in FOUND])
        axes.imshow(compared(shown, distances), cmap=colours, vmin=0, vmax=2, extent=extent, interpolation="nearest")
        patches = [Patch(color=colour, label=label) for label, colour in FOUND]
        figure.legend(handles=patches, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    axes.set(xlim=edges, ylim=edges[::-1], xlabel="position", ylabel="position")
    set_title(axes, title, 5.2)
    write_picture(path, figure)


def compared(scores: np.ndarray, distances: np.ndarray) -> np.ndarray:
    """What the cells below the diagonal are: (L, L) numbers of `FOUND`, NaN for none.

    The best pairs are as many as resolved residues.
    """
    known = ~np.isnan(distances)
    i, j = np.nonzero(np.triu(known, NEAR))
    touching = distances[i, j] < TOUCHING
    best = np.zeros(len(i), dtype=bool)
    best[np.argsort(-scores[i, j], kind="stable")[: int(np.diagonal(known).sum())]] = True
    cells = np.full(scores.shape, np.nan)
    cells[j, i] = np.select([touching & best, touching, best], [1.0, 0.0, 2.0], np.nan)
    return cells
