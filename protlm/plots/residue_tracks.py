"""Predictions along a protein: a curve per class, or one of values, above its residues."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from protlm.files import write_picture
from protlm.plots.positions import check_picture, residue_axis, residue_panels
from protlm.plots.titles import set_title

_COLUMNS = 5  # of the legend
_MOST = 10  # curves; beyond, those with the greatest values are drawn


def residue_tracks(
    path: Path, sequence: str, curves: Mapping[str, np.ndarray], label: str, title: str, probabilities: bool
) -> None:
    """Draws curves along a protein. Long proteins are split into several panels.

    Args:
        path: ends in .png, .pdf or .svg.
        sequence: L characters.
        curves: name -> (L,); of more than ten, those with the greatest values.
        label: of the vertical axis.
        title: of the picture.
        probabilities: the axis is from 0 to 1.
    """
    from matplotlib import colormaps

    check_picture(path, len(sequence))
    chosen = sorted(curves, key=lambda name: -float(np.nanmax(curves[name])))[:_MOST]
    shown = {name: values for name, values in curves.items() if name in chosen}
    every = np.concatenate(list(shown.values()))
    low, high = (0.0, 1.0) if probabilities else (float(np.nanmin(every)), float(np.nanmax(every)))
    margin = 0.05 * ((high - low) or 1.0)
    cell = min(0.28, max(0.14, 9 / len(sequence)))
    figure, panels, columns = residue_panels(len(sequence), cell, 1.9)
    for axes, start in zip(panels, range(0, len(sequence), columns), strict=True):
        letters = sequence[start : start + columns]
        positions = np.arange(start + 1, start + len(letters) + 1)
        for number, (name, values) in enumerate(shown.items()):
            colour = colormaps["tab10"](number) if len(curves) > 1 else "#0d9488"
            axes.plot(positions, values[start : start + columns], label=name, color=colour, drawstyle="steps-mid")
        residue_axis(axes, start, letters, columns, cell)
        axes.set(ylim=(low - margin, high + margin), ylabel=label)
    legend = sum(0.7 + len(name) / 11 for name in list(shown)[:_COLUMNS]) if len(shown) > 1 else 0.0  # inches
    set_title(panels[0], title, figure.get_figwidth() - 1 - legend)
    if len(shown) > 1:
        panels[0].legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncols=_COLUMNS)
    write_picture(path, figure)
