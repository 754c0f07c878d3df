"""Markdown tables and figure of `python -m benchmarks.train_step figure`, from the rows of its two CSV files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.tables import markdown

TITLES = {
    "exact": "exact Transformer, fused (SDPA)",
    "matrix": "exact Transformer, L x L matrix stored",
    "relu": "Performer-ReLU",
    "softmax": "Performer-softmax (positive, M={features})",
    "linformer": "Linformer",
    "reformer": "Reformer, without reversible layers",
    "window": "window",
    "opt": "no attention (OPT)",
}
STYLES = {
    "exact": {"color": "#000000", "marker": "o"},
    "matrix": {"color": "#000000", "marker": "o", "ls": ":", "mfc": "white"},
    "relu": {"color": "#0072B2", "marker": "s", "lw": 3.6, "ms": 7, "zorder": 2},
    "softmax": {"color": "#D55E00", "marker": "^", "lw": 1.8, "zorder": 2.5},
    "linformer": {"color": "#009E73", "marker": "D"},
    "reformer": {"color": "#CC79A7", "marker": "P"},
    "window": {"color": "#56B4E9", "marker": "X"},
    "opt": {"color": "#888888", "ls": "--", "lw": 2.4, "zorder": 3},
}
"""Colours of Okabe and Ito; other kinds get OTHER and the next marker."""
OTHER = {"color": "#E69F00"}
OTHER_MARKERS = "v<>ph8*d"
PANELS = {
    "forward_seconds": ("forward", "seconds"),
    "backward_seconds": ("backward", "seconds"),
    "peak_mib": ("memory of a training step", "peak, GiB"),
}
HOW = {"measured": "", "interpolated": "~", "extrapolated": "~~", "at least": "≥ "}
Row = Mapping[str, str]


def tables(rows: Sequence[Row], largest: Sequence[Row]) -> str:
    """Times and peaks of each direction, and the largest lengths, as in docs/results.md."""
    blocks = []
    for direction in _different(rows, "direction"):
        here = [row for row in rows if row["direction"] == direction]
        kinds = _kinds(here)
        found = {(row["attention"], int(row["length"])): row for row in here}
        lengths = sorted({length for _, length in found})
        for title, cell in (
            ("milliseconds: inference; forward + backward in training", _times),
            ("peak MiB", _peak),
        ):
            lines = [[f"{n:,}", *(cell(found.get((kind, n))) for kind in kinds)] for n in lengths]
            blocks.append(
                markdown(["L", *(_title(kind, here[0]) for kind in kinds)], lines, f"**{direction}**, {title}")
            )
    if largest:
        gibs = sorted({row["memory_gib"] for row in largest}, key=float)
        lines = []
        for direction in _different(largest, "direction"):
            here = [row for row in largest if row["direction"] == direction]
            for kind in _kinds(here):
                own = {row["memory_gib"]: row for row in here if row["attention"] == kind}
                lines.append([direction, _title(kind, here[0]), *(_length(own.get(gib)) for gib in gibs)])
        title = "**Largest L** of a training step (~ interpolated, ~~ extrapolated from the two nearest lengths)"
        blocks.append(markdown(["direction", "attention", *(f"{gib} GiB" for gib in gibs)], lines, title))
    return "\n\n".join(blocks)


def draw(rows: Sequence[Row], largest: Sequence[Row], path: Path) -> None:
    """Draws forward, backward and memory against length, with a row of panels for each direction.

    A cross marks the last length before memory runs out; other lines end where a step would take too long. Without any
    times nothing is drawn.
    """
    from matplotlib.figure import Figure  # not pyplot, which has global state and needs a display
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator

    measured = [row for row in rows if row["forward_seconds"]]
    directions = _different(measured, "direction")
    if not directions:
        return
    figure = Figure(figsize=(14, 1.4 + 3.7 * len(directions)), layout="constrained")
    grid = figure.subplots(len(directions), len(PANELS), squeeze=False, sharex=True, sharey="col")
    lengths = sorted({int(row["length"]) for row in measured})
    refused = {(row["direction"], row["attention"]) for row in rows if row["outcome"] == "out of memory"}
    kinds, shown = _kinds(measured), {}
    styles = {kind: _style(number, kind) for number, kind in enumerate(kinds)}
    for line, direction in zip(grid, directions, strict=True):
        for axes, (column, (title, unit)) in zip(line, PANELS.items(), strict=True):
            for kind in [*kinds[::-1]]:  # the first of the legend is drawn on top
                own = [row for row in measured if (row["direction"], row["attention"]) == (direction, kind)]
                x = [int(row["length"]) for row in own]
                y = [float(row[column]) / (1024 if column == "peak_mib" else 1) for row in own]
                if not own:
                    continue
                (shown[kind],) = axes.plot(x, y, **styles[kind])
                if (direction, kind) in refused and column == "peak_mib":
                    cross = {"marker": "x", "ms": 13, "mew": 2, "color": styles[kind]["color"], "ls": "none"}
                    (shown["out of memory"],) = axes.plot(x[-1:], y[-1:], **cross)
            if column == "peak_mib":
                for gib in sorted({float(row["memory_gib"]) for row in largest}):
                    axes.axhline(gib, color="0.75", lw=1, zorder=0)
                    axes.annotate(f"{gib:g} GiB", (lengths[0], gib), va="bottom", fontsize=9, color="0.4")
            axes.set_yscale("log", base=2 if column == "peak_mib" else 10)
            axes.set(xscale="log", title=f"{direction}: {title}", ylabel=unit)
            axes.xaxis.set_major_locator(FixedLocator(lengths))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(round(value))))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.grid(color="0.92", lw=0.8)
            axes.set_axisbelow(True)
            axes.tick_params(labelleft=True)
            axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[-1]:
        axes.set_xlabel("sequence length L")
    names = [name for name in (*kinds, "out of memory") if name in shown]
    labels = ["out of memory at the next L" if name == "out of memory" else _title(name, measured[0]) for name in names]
    figure.legend([shown[name] for name in names], labels, loc="outside lower center", ncol=4, frameon=False)
    figure.savefig(path, dpi=150)


def _different(rows: Sequence[Row], column: str) -> list[str]:
    return list(dict.fromkeys(row[column] for row in rows))


def _kinds(rows: Sequence[Row]) -> list[str]:
    """Kinds of TITLES in its order, then others."""
    there = _different(rows, "attention")
    return [kind for kind in TITLES if kind in there] + [kind for kind in there if kind not in TITLES]


def _title(kind: str, row: Row) -> str:
    """The title of a kind, with the features of a row."""
    return TITLES.get(kind, kind).format(features=row["features"])


def _style(number: int, kind: str) -> dict[str, Any]:
    style = STYLES.get(kind, OTHER | {"marker": OTHER_MARKERS[number % len(OTHER_MARKERS)]})
    return {"ms": 5, "lw": 1.6, **style}


def _short(length: int) -> str:
    """A length as an axis label.

    >>> _short(512), _short(32_768), _short(1000)
    ('512', '32k', '1000')
    """
    return f"{length // 1024}k" if length >= 1024 and length % 1024 == 0 else str(length)


def _times(row: Row | None) -> str:
    if row is None or not row["forward_seconds"]:
        return row["outcome"] if row else "-"
    forward, train, backward = (
        _ms(row[name]) for name in ("forward_seconds", "train_forward_seconds", "backward_seconds")
    )
    return f"{forward}; {train} + {backward}"


def _ms(seconds: str) -> str:
    return f"{1000 * float(seconds):,.0f}"


def _peak(row: Row | None) -> str:
    if row is None or not row["peak_mib"]:
        return row["outcome"] if row else "-"
    return f"{float(row['peak_mib']):,.0f}"


def _length(row: Row | None) -> str:
    if row is None or row["how"] not in HOW:
        return row["how"] if row else "-"
    return f"{HOW[row['how']]}{int(row['length']):,}"
