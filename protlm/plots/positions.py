"""Pictures of a number for each position and amino acid: a heat map, and a sequence logo of probabilities.

Legend: L residues of the protein; columns of matrices are the twenty amino acids in the order of `STANDARD`.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np

from protlm.errors import UserError
from protlm.sequence.alphabet import STANDARD

SUFFIXES = (".png", ".pdf", ".svg")
LONGEST = 2_000
"""Residues; a picture of more has letters too small to be read."""
GROUPS = {
    "AVLIM": "#3b7d3b",  # aliphatic
    "FWY": "#b06f00",  # aromatic
    "STNQ": "#6a4fa3",  # polar
    "CGP": "#666666",  # special
    "HKR": "#1f5fbf",  # positive
    "DE": "#c0392b",  # negative
}
"""The amino acids by the chemistry of their side chains, and a colour of each group."""
ORDER = "".join(GROUPS)
COLOURS = {letter: colour for letters, colour in GROUPS.items() for letter in letters}
_COLUMNS = [STANDARD.index(letter) for letter in ORDER]
WITHIN = 0.995
"""Quantile of the values at which the colours of a heat map end."""
_WIDEST = 200  # residues in a panel
_SLIDE = 16 / 9
_LEAST = 0.01  # of the tallest letter: what is smaller cannot be seen


def check_picture(path: Path, length: int | None = None) -> None:
    """Whether a protein of so many residues can be drawn in a file of this name; to be called before the work.

    Raises:
        UserError: if not.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: expected the name of a picture, which ends in {', '.join(SUFFIXES)}")
    if length is not None and length > LONGEST:
        raise UserError(
            f"{path}: a picture of {length:,} residues cannot be read; at most {LONGEST:,} are drawn, write a table"
        )


def heat_map(path: Path, values: np.ndarray, sequence: str, label: str, diverging: bool) -> None:
    """Draws a matrix with positions as columns and amino acids, grouped by chemistry, as rows.

    A dot marks the residue that the protein has. Long proteins are broken into several panels. The colours end where
    half a per cent of the values lie beyond, on either side, so that a few extremes do not take them all.

    Args:
        path: ends in .png, .pdf or .svg; written in place, see `protlm.files.atomic_output`.
        values: (L, 20), NaN for what is not known, which is grey.
        sequence: L characters; those that are no amino acid have no dot.
        label: of the colour bar.
        diverging: colours that are symmetric about 0.

    Raises:
        UserError: for another ending, or more than `LONGEST` residues.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    check_picture(path, len(sequence))
    assert values.shape == (len(sequence), len(STANDARD)), values.shape
    known = values[np.isfinite(values)]
    if diverging:
        high = float(np.quantile(np.abs(known), WITHIN)) if known.size else 1.0
        low = -high
    else:
        low, high = map(float, np.quantile(known, [1 - WITHIN, WITHIN])) if known.size else (0.0, 1.0)
    if low == high:
        low, high = low - 1, high + 1
    colours = colormaps["RdBu_r" if diverging else "YlGnBu"].with_extremes(bad="#d9d9d9")
    scale = ScalarMappable(Normalize(low, high), colours)
    cell = min(0.28, max(0.14, 9 / len(sequence)))
    figure, panels, columns = _panels(len(sequence), cell, len(ORDER) * cell + 0.45)
    mark = {"s": (18 * cell) ** 2, "color": "black" if diverging else "#e6550d", "linewidths": 0}
    for axes, start in zip(panels, range(0, len(sequence), columns), strict=True):
        part, letters = values[start : start + columns, _COLUMNS], sequence[start : start + columns]
        extent = (start + 0.5, start + len(part) + 0.5, len(ORDER) - 0.5, -0.5)
        axes.imshow(part.T, cmap=colours, norm=scale.norm, extent=extent, aspect="auto", interpolation="none")
        places = [(start + i, ORDER.index(letter)) for i, letter in enumerate(letters, 1) if letter in ORDER]
        if places:
            axes.scatter(*zip(*places, strict=True), **mark)
        for edge in np.cumsum([len(group) for group in GROUPS])[:-1]:
            axes.hlines(edge - 0.5, *extent[:2], color="black", lw=0.5)
        axes.set_yticks(range(len(ORDER)), list(ORDER))
        for tick, letter in zip(axes.get_yticklabels(), ORDER, strict=True):
            tick.set(color=COLOURS[letter], family="monospace", fontsize=52 * cell, weight="bold")
        axes.tick_params(axis="y", length=0)
        _positions(axes, start, letters, columns, cell)
    size = max(10.0, 0.6 * figure.get_figwidth())
    panels[0].set_title("\N{BLACK CIRCLE} residue of the protein", loc="right", fontsize=size, color=mark["color"])
    shape = {"shrink": min(1.0, 0.4 * size / figure.get_figheight()), "aspect": 18, "pad": 0.02}
    beyond = (bool((known < low).any()), bool((known > high).any()))
    ends = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}
    bar = figure.colorbar(scale, ax=panels, extend=ends[beyond], **shape)
    bar.set_label(label, fontsize=size)
    bar.ax.tick_params(labelsize=size)
    bar.outline.set_visible(False)
    figure.savefig(path, dpi=150)


def logo(path: Path, probabilities: np.ndarray, sequence: str) -> None:
    """Draws a sequence logo (Schneider and Stephens 1990): each letter as tall as its share of the information.

    At position i, R_i = log2 20 + sum_a p_ia log2 p_ia bits in all, and p_ia R_i for letter a.

    Args:
        path: as in `heat_map`.
        probabilities: (L, 20), of each row the sum is 1.
        sequence: L characters, written below.

    Raises:
        UserError: as in `heat_map`.
    """
    import logomaker
    from pandas import DataFrame

    check_picture(path, len(sequence))
    assert probabilities.shape == (len(sequence), len(STANDARD)), probabilities.shape
    surprise = np.log2(probabilities, out=np.zeros_like(probabilities), where=probabilities > 0)
    bits = probabilities * (math.log2(len(STANDARD)) + (probabilities * surprise).sum(1, keepdims=True))
    # the scale of a position that says little is never so fine that noise looks like a motif
    top = max(0.5, float(bits.sum(1).max()))
    bits[bits < _LEAST * top] = 0
    cell = min(0.5, max(0.14, 9 / len(sequence)))
    figure, panels, columns = _panels(len(sequence), cell, 1.6 if len(sequence) > _WIDEST // 2 else 2.6)
    for axes, start in zip(panels, range(0, len(sequence), columns), strict=True):
        part, letters = bits[start : start + columns], sequence[start : start + columns]
        if part.any():
            frame = DataFrame(part, columns=list(STANDARD), index=range(start + 1, start + len(part) + 1))
            logomaker.Logo(frame, ax=axes, color_scheme=COLOURS, show_spines=False)
        axes.set(xlim=(start + 0.5, start + len(part) + 0.5), ylim=(0, top), ylabel="bits")
        axes.spines[["left", "bottom"]].set_visible(True)
        _positions(axes, start, letters, columns, cell)
    figure.savefig(path, dpi=150)


def _panels(length: int, cell: float, height: float) -> tuple[Any, list[Any], int]:
    """A figure, its panels from top to bottom, and how many residues each has; the last may have fewer.

    Of the numbers of panels, that is taken whose picture is the most like a slide.

    Args:
        length: residues.
        cell: inches that a residue is wide.
        height: inches of a panel with its labels.
    """
    from matplotlib.figure import Figure  # no pyplot: no global state, no display

    fewest = math.ceil(length / _WIDEST)
    most = max(fewest, length // 50)
    count = min(
        range(fewest, most + 1), key=lambda n: abs(math.log(math.ceil(length / n) * cell / (n * height) / _SLIDE))
    )
    columns = math.ceil(length / count)
    if count > 1:
        columns = 10 * math.ceil(columns / 10)  # panels begin at 1, 101, 201
    count = math.ceil(length / columns)
    width = max(4.0, columns * cell + 1.6)
    figure = Figure(figsize=(width, count * height + 0.3), layout="constrained")
    panels = [figure.add_subplot(count, 1, i + 1) for i in range(count)]
    return figure, panels, columns


def _positions(axes: Any, start: int, letters: str, columns: int, cell: float) -> None:
    """The residues of a panel below it, and the numbers of every tenth, or of every position of a short protein."""
    axes.set_xlim(start + 0.5, start + columns + 0.5)
    numbers = range(start + 1, start + len(letters) + 1)
    axes.xaxis.remove_overlapping_locs = False
    axes.set_xticks(numbers, list(letters), minor=True)
    axes.tick_params(axis="x", which="minor", length=0, pad=2)
    for tick, letter in zip(axes.get_xticklabels(minor=True), letters, strict=True):
        tick.set(color=COLOURS.get(letter, "black"), family="monospace", fontsize=52 * min(cell, 0.25), weight="bold")
    every = 1 if columns <= 15 else 10
    axes.set_xticks([n for n in numbers if n % every == 0 or n == 1])
    axes.tick_params(
        axis="x", which="major", length=0, pad=64 * min(cell, 0.25), labelsize=max(8, 36 * min(cell, 0.25))
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines["bottom"].set_bounds(start + 0.5, start + len(letters) + 0.5)
