"""Heat maps and sequence logos: one value for each position of a protein and each amino acid.

Legend: L residues of the protein; A letters of the palette, by default the twenty amino acids; matrices (L, A) have
them in the order of `Palette.letters`, of amino acids that of `STANDARD`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from protlm.errors import UserError
from protlm.files import write_picture
from protlm.plots.palette import AMINO_ACIDS, Palette

SUFFIXES = (".png", ".pdf", ".svg")
LONGEST = 2_000
"""Maximum number of residues; the letters of longer proteins would be too small to read."""
WITHIN = 0.995
"""Quantile of the values at which the colour scale of a heat map ends."""
_WIDEST = 200  # maximum number of residues per panel
_SLIDE = 16 / 9
_LEAST = 0.01  # smaller shares of the tallest letter are invisible


@dataclass(frozen=True)
class Track:
    """A value for each residue, drawn as a line of cells above a heat map.

    Attributes:
        name: short, written beside it.
        values: (L,) numbers from 0 to `high`, or a string of L letters H (helix), E (strand) and others.
        high: value of the darkest colour; by default the greatest value.
    """

    name: str
    values: Any
    high: float | None = None


_TRACK = 1.4  # height of a track with its margin, in rows
_STRUCTURE = {"H": "#c2417c", "E": "#d9a400"}
_LOOP = "#e4e4e4"


def check_picture(path: Path, length: int | None = None, unit: str = "residue") -> None:
    """Raises a UserError for a file format that is not supported or a protein that is too long to draw."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"{path}: expected a picture, with a name that ends in {', '.join(SUFFIXES)}")
    if length is not None and length > LONGEST:
        what = f"{length:,} {unit}s are too many for a readable picture"
        raise UserError(f"{path}: {what}; expected at most {LONGEST:,}")


def heat_map(
    path: Path,
    values: np.ndarray,
    sequence: str,
    label: str,
    diverging: bool,
    tracks: Sequence[Track] = (),
    palette: Palette = AMINO_ACIDS,
) -> None:
    """Draws a heat map with positions as columns and amino acids, grouped by chemistry, as rows.

    A dot marks the residue of the protein. Long proteins are split into several panels. The colour scale leaves out
    0.5 % of the values on either side, so that outliers do not dominate it.

    Args:
        path: ends in .png, .pdf or .svg.
        values: (L, A); NaN is drawn in grey.
        sequence: L characters; those that are not amino acids have no dot.
        label: of the colour bar.
        diverging: use colours that are symmetric about 0.
        tracks: drawn above the map.
        palette: of the letters.
    """
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    order = palette.order
    check_picture(path, len(sequence), palette.unit)
    assert values.shape == (len(sequence), len(palette.letters)), values.shape
    known = values[np.isfinite(values)]
    if not known.size:
        low, high = 0.0, 0.0
    elif diverging:
        high = float(np.quantile(np.abs(known), WITHIN))
        low = -high
    else:
        low, high = map(float, np.quantile(known, [1 - WITHIN, WITHIN]))
    if low == high:
        low, high = low - 1, high + 1
    colours = colormaps["RdBu_r" if diverging else "YlGnBu"].with_extremes(bad="#d9d9d9")
    scale = ScalarMappable(Normalize(low, high), colours)
    cell = min(0.28, max(0.14, 9 / len(sequence)))
    figure, panels, columns = residue_panels(len(sequence), cell, (len(order) + _TRACK * len(tracks)) * cell + 0.45)
    mark = {"s": (18 * cell) ** 2, "color": "black" if diverging else "#e6550d", "linewidths": 0}
    for axes, start in zip(panels, range(0, len(sequence), columns), strict=True):
        part, letters = values[start : start + columns, palette.columns], sequence[start : start + columns]
        extent = (start + 0.5, start + len(part) + 0.5, len(order) - 0.5, -0.5)
        axes.imshow(part.T, cmap=colours, norm=scale.norm, extent=extent, aspect="auto", interpolation="none")
        places = [(start + i, order.index(letter)) for i, letter in enumerate(letters, 1) if letter in order]
        if places:
            axes.scatter(*zip(*places, strict=True), **mark)
        for edge in np.cumsum([len(group) for group in palette.groups])[:-1]:
            axes.hlines(edge - 0.5, *extent[:2], color="black", lw=0.5)
        middles = [_draw_track(axes, track, start, len(part), number) for number, track in enumerate(tracks, start=1)]
        axes.set_ylim(len(order) - 0.5, -0.5 - _TRACK * len(tracks))
        rows = [*order, *(track.name for track in tracks)]
        axes.set_yticks([*range(len(order)), *middles], rows)
        for tick, name in zip(axes.get_yticklabels(), rows, strict=True):
            if name in palette.colours:
                tick.set(color=palette.colours[name], family="monospace", fontsize=52 * cell, weight="bold")
            else:
                tick.set(fontsize=48 * cell)
        axes.tick_params(axis="y", length=0)
        residue_axis(axes, start, letters, columns, cell, palette)
    title = f"\N{BLACK CIRCLE} {palette.unit} of the {palette.record}"
    size = max(10.0, 0.6 * figure.get_figwidth())
    panels[0].set_title(title, loc="right", fontsize=size, color=mark["color"])
    shape = {"shrink": min(1.0, 0.4 * size / figure.get_figheight()), "aspect": 18, "pad": 0.02}
    beyond = (bool((known < low).any()), bool((known > high).any()))
    ends = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}
    bar = figure.colorbar(scale, ax=panels, extend=ends[beyond], **shape)
    bar.set_label(label, fontsize=size)
    bar.ax.tick_params(labelsize=size)
    bar.outline.set_visible(False)
    write_picture(path, figure)


def _draw_track(axes: Any, track: Track, start: int, length: int, number: int) -> float:
    """Draws residues `start` to `start + length` of the track with this number, from 1; the middle of its line."""
    from matplotlib.colors import to_rgb

    part, top = track.values[start : start + length], -0.5 - _TRACK * number
    if isinstance(part, str):
        colours = np.array([[to_rgb(_STRUCTURE.get(letter, _LOOP)) for letter in part]])
    else:
        high = track.high or float(np.nanmax(track.values)) or 1.0
        share = np.clip(np.nan_to_num(np.asarray(part, dtype=float)) / high, 0, 1)[:, None]
        colours = (1 - share) * to_rgb("#f2f2f2") + share * np.array(to_rgb("#333333"))
        colours = colours[None]
    extent = (start + 0.5, start + length + 0.5, top + 1, top)
    axes.imshow(colours, extent=extent, aspect="auto", interpolation="none")
    return top + 0.5


def logo(path: Path, probabilities: np.ndarray, sequence: str, palette: Palette = AMINO_ACIDS) -> None:
    """Draws a sequence logo (Schneider and Stephens 1990): the height of each letter is its share of the information.

    Position i has R_i = log2 A + sum_a p_ia log2 p_ia bits, and letter a a height of p_ia R_i.

    Args:
        path: ends in .png, .pdf or .svg.
        probabilities: (L, A); rows sum to 1.
        sequence: L characters, written below.
        palette: of the letters.
    """
    import logomaker
    from pandas import DataFrame

    check_picture(path, len(sequence), palette.unit)
    assert probabilities.shape == (len(sequence), len(palette.letters)), probabilities.shape
    surprise = np.log2(probabilities, out=np.zeros_like(probabilities), where=probabilities > 0)
    bits = probabilities * (math.log2(len(palette.letters)) + (probabilities * surprise).sum(1, keepdims=True))
    # at least half a bit, so that noise does not look like a motif
    top = max(0.5, float(bits.sum(1).max()))
    bits[bits < _LEAST * top] = 0
    cell = min(0.5, max(0.14, 9 / len(sequence)))
    figure, panels, columns = residue_panels(len(sequence), cell, 1.6 if len(sequence) > _WIDEST // 2 else 2.6)
    for axes, start in zip(panels, range(0, len(sequence), columns), strict=True):
        part, letters = bits[start : start + columns], sequence[start : start + columns]
        if part.any():
            frame = DataFrame(part, columns=list(palette.letters), index=range(start + 1, start + len(part) + 1))
            logomaker.Logo(frame, ax=axes, color_scheme=palette.colours, show_spines=False)
        axes.set(xlim=(start + 0.5, start + len(part) + 0.5), ylim=(0, top), ylabel="bits")
        axes.spines[["left", "bottom"]].set_visible(True)
        residue_axis(axes, start, letters, columns, cell, palette)
    write_picture(path, figure)


def residue_panels(length: int, cell: float, height: float) -> tuple[Any, list[Any], int]:
    """A figure, its panels from top to bottom, and the number of residues in each; the last may have fewer.

    The number of panels is chosen so that the picture comes closest to the proportions of a slide. `cell` is the width
    of a residue, `height` the height of a panel with its labels, both in inches.
    """
    from matplotlib.figure import Figure  # not pyplot, which has global state

    fewest = math.ceil(length / _WIDEST)
    most = max(fewest, length // 50)
    count = min(
        range(fewest, most + 1), key=lambda n: abs(math.log(math.ceil(length / n) * cell / (n * height) / _SLIDE))
    )
    columns = math.ceil(length / count)
    if count > 1:
        columns = 10 * math.ceil(columns / 10)  # panels start at 1, 101, 201
    count = math.ceil(length / columns)
    width = max(4.0, columns * cell + 1.6)
    figure = Figure(figsize=(width, count * height + 0.3), layout="constrained")
    panels = [figure.add_subplot(count, 1, i + 1) for i in range(count)]
    return figure, panels, columns


def residue_axis(
    axes: Any, start: int, letters: str, columns: int, cell: float, palette: Palette = AMINO_ACIDS
) -> None:
    """Labels the axis with residues and with position numbers: every tenth, or all of a short protein."""
    axes.set_xlim(start + 0.5, start + columns + 0.5)
    numbers = range(start + 1, start + len(letters) + 1)
    axes.xaxis.remove_overlapping_locs = False
    axes.set_xticks(numbers, list(letters), minor=True)
    axes.tick_params(axis="x", which="minor", length=0, pad=2)
    for tick, letter in zip(axes.get_xticklabels(minor=True), letters, strict=True):
        colour = palette.colours.get(letter, "black")
        tick.set(color=colour, family="monospace", fontsize=52 * min(cell, 0.25), weight="bold")
    every = 1 if columns <= 15 else 10
    axes.set_xticks([n for n in numbers if n % every == 0 or n == 1])
    axes.tick_params("x", length=0, pad=64 * min(cell, 0.25), labelsize=max(8, 36 * min(cell, 0.25)))
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines["bottom"].set_bounds(start + 0.5, start + len(letters) + 0.5)
