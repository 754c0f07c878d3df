"""Charts: bars with intervals, curves, point clouds, densities, and strings of letters as coloured strips.

Files are .png, .pdf or .svg and not written atomically, see `protlm.files`; any other suffix is a `UserError`.
Colours are those of Okabe and Ito (2008), which people with a colour vision deficiency can tell apart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from protlm.plots.positions import check_picture

BLUE, GREEN, RED, ORANGE, PINK, SKY, YELLOW = PALETTE = (
    "#0072B2", "#009E73", "#D55E00", "#E69F00", "#CC79A7", "#56B4E9", "#F0E442",
)  # fmt: skip
Interval = tuple[float, float, float]
"""A value and the ends of its interval."""


@dataclass(frozen=True)
class Curve:
    """y against x, both (n,), with a colour and style of matplotlib, and an optional band from `low` to `high` (n,)."""

    x: Any
    y: Any
    colour: str
    style: str = "o-"
    low: Any = None
    high: Any = None


@dataclass(frozen=True)
class Panel:
    """Curves by name on shared axes.

    Attributes:
        log: "x", "y" or "xy" for logarithmic axes.
        ticks: of the x-axis; empty for those of matplotlib.
        limits: of the y-axis.
        level: y of a thin horizontal line.
    """

    curves: Mapping[str, Curve]
    title: str = ""
    xlabel: str = ""
    ylabel: str = ""
    log: str = ""
    ticks: Sequence[float] = ()
    limits: tuple[float | None, float | None] = (None, None)
    level: float | None = None


def curves(path: Path, panels: Sequence[Panel], stacked: bool = False) -> None:
    """Draws panels side by side, or stacked, with one legend below."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, NullLocator

    size = (14, 0.7 + 3.2 * len(panels)) if stacked else (7 * len(panels), 5.8)
    figure, frames = _figure(path, size, len(panels), stacked)
    names: dict[str, Any] = {}
    for axes, panel in zip(frames, panels, strict=True):
        for name, curve in panel.curves.items():
            (line,) = axes.plot(curve.x, curve.y, curve.style, color=curve.colour, ms=6, lw=1.7)
            names.setdefault(name, line)
            if curve.low is not None:
                axes.fill_between(curve.x, curve.low, curve.high, color=curve.colour, alpha=0.2, lw=0)
        if panel.level is not None:
            axes.axhline(panel.level, color="black", lw=0.8, zorder=0)
        for side in panel.log:
            axes.set(**{f"{side}scale": "log"})
        if "y" in panel.log:
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        if panel.ticks:
            axes.xaxis.set_major_locator(FixedLocator(panel.ticks))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.set(xlabel=panel.xlabel, ylabel=panel.ylabel, ylim=panel.limits)
        axes.set_title(panel.title, fontsize=14, loc="left" if stacked else "center")
        axes.margins(x=0.02)
        axes.grid(color="0.92", lw=0.8)
        axes.set_axisbelow(True)
    _legend(figure, list(names.values()), list(names))
    figure.savefig(path, dpi=110)


def bars(
    path: Path,
    groups: Mapping[str, Mapping[str, Interval]],
    colours: Mapping[str, Any],
    ylabel: str,
    number: str = "{:.2f}",
    level: float | None = None,
    title: str = "",
) -> None:
    """Draws grouped bars with intervals, labelled with their values.

    Args:
        groups: name -> name of a bar -> value and interval. The bars of a single group are named below the axis, those
            of several groups in the legend.
        colours: name of a bar -> colour.
        number: format of a value.
        level: y of a dashed line, such as chance.
    """
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    figure, (axes,) = _figure(path, (max(8.0, 2.6 + 1.3 * len(groups) * len(names)), 5.4), 1)
    width = 0.8 if len(groups) > 1 else 0.7 * len(names)
    high = max(value for group in groups.values() for interval in group.values() for value in interval)
    for place, group in enumerate(groups.values()):
        for name, (value, least, most) in group.items():
            x = place + width * ((names.index(name) + 0.5) / len(names) - 0.5)
            error = [[value - least], [most - value]]
            label = name if place == 0 else None
            axes.bar(x, value, 0.9 * width / len(names), yerr=error, color=colours[name], capsize=4, label=label)
            axes.text(x, max(most, 0) + 0.02 * high, number.format(value), ha="center", va="bottom", fontsize=12)
    axes.axhline(0, color="black", lw=0.8)
    if level is not None:
        axes.axhline(level, color="black", ls="--", lw=1)
    if len(groups) > 1:
        axes.set_xticks(range(len(groups)), list(groups))
        _legend(figure, *axes.get_legend_handles_labels())
    else:
        places = [width * ((i + 0.5) / len(names) - 0.5) for i in range(len(names))]
        axes.set_xticks(places, [name.replace(" + ", " +\n") for name in names])
    axes.tick_params(axis="x", length=0, labelsize=12)
    axes.set_ylabel(ylabel)
    axes.set_title(title, fontsize=14)
    axes.margins(y=0.1)
    figure.savefig(path, dpi=110)


def point_map(path: Path, places: Mapping[str, np.ndarray], groups: Sequence[str]) -> None:
    """Draws points in the plane; each group has a colour and a marker.

    Args:
        places: title of a panel -> coordinates (n, 2).
        groups: the group of each of the n points.
    """
    figure, panels = _figure(path, (5.4 * len(places), 5.9), len(places))
    shades = (*PALETTE, "0.25", "0.65", "#8C564B")
    group = np.asarray(groups)
    for axes, (title, xy) in zip(panels, places.items(), strict=True):
        for number, name in enumerate(dict.fromkeys(groups)):
            marker, colour = "o^sDv"[number // len(shades) % 5], shades[number % len(shades)]
            axes.scatter(*xy[group == name].T, s=20, color=colour, marker=marker, alpha=0.8, lw=0, label=name)
        axes.set(xticks=[], yticks=[])
        axes.set_title(title, fontsize=14)
        axes.spines[:].set_visible(False)
    _legend(figure, *panels[0].get_legend_handles_labels(), columns=10, markerscale=2)
    figure.savefig(path, dpi=110)


def densities(path: Path, clouds: Mapping[str, tuple[np.ndarray, np.ndarray]], xlabel: str, ylabel: str) -> None:
    """Draws the number of points per hexagon; `clouds` maps the title of a panel to x and y (n,), finite ones count."""
    figure, panels = _figure(path, (6.6 * len(clouds), 5.2), len(clouds))
    for axes, (title, (x, y)) in zip(panels, clouds.items(), strict=True):
        known = np.isfinite(x) & np.isfinite(y)
        cells = axes.hexbin(x[known], y[known], gridsize=32, mincnt=1, cmap="Blues", bins="log", lw=0.2)
        figure.colorbar(cells, ax=axes, label="number", shrink=0.8)
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.set_title(title, fontsize=14)
    figure.savefig(path, dpi=110)


def strips(path: Path, rows: Mapping[str, str], states: Mapping[str, tuple[str, str]], title: str, xlabel: str) -> None:
    """Draws strings of equal length as stacked coloured strips.

    Args:
        rows: name -> string.
        states: letter -> its name and colour.
    """
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    figure, (axes,) = _figure(path, (14, 1.9 + 0.55 * len(rows)), 1)
    order = {letter: number for number, letter in enumerate(states)}
    image = np.array([[order[letter] for letter in row] for row in rows.values()])
    extent = (0.5, image.shape[1] + 0.5, len(rows) - 0.5, -0.5)
    cmap = ListedColormap([colour for _, colour in states.values()])
    axes.imshow(image, aspect="auto", cmap=cmap, vmin=0, vmax=len(states) - 1, extent=extent, interpolation="none")
    for edge in range(1, len(rows)):
        axes.axhline(edge - 0.5, color="white", lw=6)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.tick_params(length=0)
    axes.set_xlabel(xlabel)
    axes.set_title(title, fontsize=14)
    axes.spines[:].set_visible(False)
    _legend(figure, [Patch(color=colour) for _, colour in states.values()], [name for name, _ in states.values()])
    figure.savefig(path, dpi=110)


def _figure(path: Path, size: tuple[float, float], number: int, stacked: bool = False) -> tuple[Any, list[Any]]:
    """A figure and its axes, with font sizes for slides."""
    from matplotlib.figure import Figure  # not pyplot, which has global state and needs a display

    check_picture(path)
    figure = Figure(figsize=size, layout="constrained")
    grid: Any = figure.subplots(*((number, 1) if stacked else (1, number)), squeeze=False)
    frames = list(grid.flat)
    for axes in frames:
        axes.xaxis.label.set_size(13)
        axes.yaxis.label.set_size(13)
        axes.tick_params(labelsize=11)
        axes.spines[["top", "right"]].set_visible(False)
    return figure, frames


def _legend(figure: Any, handles: Sequence[Any], labels: Sequence[str], columns: int = 5, **options: Any) -> None:
    """Draws the legend below all axes, in fewer columns if the labels are long."""
    inches = 0.7 + 0.085 * max(map(len, labels), default=0)  # of an entry
    columns = max(1, min(columns, int(figure.get_figwidth() / inches)))
    figure.legend(handles, labels, loc="outside lower center", ncol=columns, frameon=False, fontsize=11, **options)
