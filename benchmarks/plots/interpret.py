"""Figures of attention maps, similarities of the twenty amino acids, and their embeddings.

Files are .png, .pdf or .svg and not written atomically, see `protlm.files`. Colours are those of Okabe and Ito (2008)
and perceptually uniform maps, which people with a colour vision deficiency can tell apart; groups of amino acids also
differ in their markers.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.interpret.components import principal_components
from protlm.errors import UserError
from protlm.plots.palette import AMINO_ACIDS
from protlm.plots.positions import check_picture
from protlm.sequence.alphabet import STANDARD

CHEMISTRY = dict(
    zip(
        ("hydrophobic", "aromatic", "polar", "special", "positive", "negative"),
        zip(
            AMINO_ACIDS.groups,
            ("#009E73", "#E69F00", "#CC79A7", "#4D4D4D", "#0072B2", "#D55E00"),
            ("o", "s", "D", "P", "^", "v"),
            strict=True,
        ),
        strict=True,
    )
)  # fmt: skip
"""Group of amino acids, as in `protlm.plots.positions` -> its letters, colour and marker."""
MOST_PANELS = 64
_COLOURS = {letter: colour for letters, colour, _ in CHEMISTRY.values() for letter in letters}
_COLUMNS = [STANDARD.index(letter) for letter in AMINO_ACIDS.order]


def attention_maps(path: Path, attention: np.ndarray, layers: Sequence[int], title: str = "") -> None:
    """Draws attention as a grid of layers by heads on one scale: times L, so that 1 is uniform attention.

    Args:
        path: of the figure.
        attention: (layers, H, L, L) from `attention_matrices`; L tokens, ends included.
        layers: numbers of the layers.
        title: of the figure.

    Raises:
        UserError: for another suffix, more than `MOST_PANELS` maps, or more tokens than `positions.LONGEST`.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize, PowerNorm, TwoSlopeNorm
    from matplotlib.figure import Figure

    depth, heads, length, _ = attention.shape
    check_picture(path, length)
    assert len(layers) == depth, (layers, attention.shape)
    if depth * heads > MOST_PANELS:
        raise UserError(f"{path}: {depth} layers of {heads} heads; at most {MOST_PANELS} maps are drawn, choose layers")
    values = attention * length
    high = max(2.0, float(np.quantile(values, 0.998)))
    norm: Normalize = PowerNorm(0.5, 0, high)  # square root, since most entries are small
    colours, extend = "magma", "max"
    if values.min() < -1e-3:  # signed features
        low = min(-0.1, float(np.quantile(values, 0.002)))
        norm, colours, extend = TwoSlopeNorm(0, low, high), "RdBu_r", "both"
    side = min(2.6, max(1.3, 12 / heads))
    figure = Figure(figsize=(max(4.5, heads * side + 1.6), depth * side + 1.1), layout="constrained")
    grid: Any = figure.subplots(depth, heads, squeeze=False, sharex=True, sharey=True)
    size = max(10.0, 0.9 * figure.get_figwidth())
    for row, (axes_of, maps) in enumerate(zip(grid, values, strict=True)):
        for head, (axes, one) in enumerate(zip(axes_of, maps, strict=True)):
            # token 0 precedes the first residue, so residues have their usual numbers
            axes.imshow(one, cmap=colours, norm=norm, interpolation="nearest" if length <= 300 else "antialiased")
            axes.tick_params(labelsize=0.75 * size)
            axes.locator_params(nbins=4, integer=True)
            if row == 0:
                axes.set_title(f"head {head + 1}", fontsize=size)
            if head == 0:
                axes.set_ylabel(f"layer {layers[row]}", fontsize=size)
    figure.supxlabel("key: token (0 is <cls>, the last <eos>)", fontsize=size)
    figure.supylabel("query: token", fontsize=size)
    if title:
        figure.suptitle(title, fontsize=1.15 * size)
    scale = ScalarMappable(norm, colours)
    bar = figure.colorbar(scale, ax=grid, shrink=min(1.0, 8 / figure.get_figheight()), extend=extend, aspect=30)
    rooted = ", square-root scale" if isinstance(norm, PowerNorm) else ""
    bar.set_label(f"attention x L (1: uniform){rooted}", fontsize=size)
    bar.ax.tick_params(labelsize=0.85 * size)
    figure.savefig(path, dpi=150)


def similarity_matrices(path: Path, matrices: Mapping[str, tuple[np.ndarray, str]]) -> None:
    """Draws similarities of the amino acids side by side, ordered by chemistry, without diagonals.

    Args:
        path: of the figure.
        matrices: title -> (20, 20) in the order of `STANDARD`, and the label of its colour bar. Each is scaled from its
            2nd to its 98th off-diagonal percentile.

    Raises:
        UserError: for another suffix.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    check_picture(path)
    figure = Figure(figsize=(5.4 * len(matrices), 5.3))
    figure.set_layout_engine("constrained", w_pad=0.15, h_pad=0.1)
    panels: Any = figure.subplots(1, len(matrices), squeeze=False)[0]
    for axes, (title, (matrix, label)) in zip(panels, matrices.items(), strict=True):
        shown = matrix[np.ix_(_COLUMNS, _COLUMNS)].astype(np.float64)
        np.fill_diagonal(shown, np.nan)
        known = shown[np.isfinite(shown)]
        low, high = np.quantile(known, [0.02, 0.98]) if known.size else (0.0, 1.0)
        image = axes.imshow(shown, cmap="viridis", vmin=low, vmax=high if high > low else low + 1)
        axes.set_facecolor("#d9d9d9")
        for edge in np.cumsum([len(letters) for letters in AMINO_ACIDS.groups])[:-1] - 0.5:
            axes.axhline(edge, color="white", lw=1)
            axes.axvline(edge, color="white", lw=1)
        axes.set_xticks(range(len(AMINO_ACIDS.order)), list(AMINO_ACIDS.order))
        axes.set_yticks(range(len(AMINO_ACIDS.order)), list(AMINO_ACIDS.order))
        for tick, letter in zip([*axes.get_xticklabels(), *axes.get_yticklabels()], AMINO_ACIDS.order * 2, strict=True):
            tick.set(color=_COLOURS[letter], family="monospace", fontsize=12, weight="bold")
        axes.tick_params(length=0, pad=2)
        axes.set_title(title, fontsize=13)
        bar = figure.colorbar(image, ax=axes, shrink=0.75, extend="both", pad=0.02)
        bar.ax.yaxis.set_major_locator(MaxNLocator(6))
        bar.set_label(label, fontsize=11)
        bar.ax.tick_params(labelsize=10)
    _legend(figure, markers=False)
    figure.savefig(path, dpi=150)


def residue_map(path: Path, embeddings: Mapping[str, np.ndarray]) -> None:
    """Draws embeddings of the amino acids in the plane of their first two principal components.

    Args:
        path: of the figure.
        embeddings: title of a panel -> vectors (20, D) in the order of `STANDARD`.

    Raises:
        UserError: for another suffix.
    """
    from matplotlib.figure import Figure

    check_picture(path)
    figure = Figure(figsize=(5.6 * len(embeddings), 5.6), layout="constrained")
    panels: Any = figure.subplots(1, len(embeddings), squeeze=False)[0]
    for axes, (title, vectors) in zip(panels, embeddings.items(), strict=True):
        places, shares = principal_components(vectors)
        span = float(np.ptp(places, axis=0).max()) or 1.0
        for letters, colour, marker in CHEMISTRY.values():
            chosen = places[[STANDARD.index(letter) for letter in letters]]
            axes.scatter(*chosen.T, s=90, color=colour, marker=marker, zorder=2, edgecolors="white", linewidths=0.6)
        for (x, y), letter in zip(label_places(places / span, 0.048), STANDARD, strict=True):
            axes.text(
                x * span, y * span, letter, ha="center", va="center", fontsize=14, weight="bold", zorder=3,
                color=_COLOURS[letter],
            )  # fmt: skip
        axes.set_title(title, fontsize=14)
        axes.set_xlabel(f"component 1 ({shares[0]:.0%} of the variance)", fontsize=12)
        axes.set_ylabel(f"component 2 ({shares[1]:.0%})", fontsize=12)
        axes.tick_params(labelsize=10)
        axes.margins(0.1)
        axes.spines[["top", "right"]].set_visible(False)
        axes.axhline(0, color="#d9d9d9", lw=0.8, zorder=0)
        axes.axvline(0, color="#d9d9d9", lw=0.8, zorder=0)
    _legend(figure, markers=True)
    figure.savefig(path, dpi=150)


def label_places(points: np.ndarray, distance: float) -> np.ndarray:
    """Positions of labels for points (n, 2): around each point, the candidate farthest from points and other labels."""
    angles = np.arange(16) * math.tau / 16 + math.pi / 4
    around = distance * np.stack((np.cos(angles), np.sin(angles)), axis=1)
    taken = [*points]
    result = np.empty_like(points)
    for number, point in enumerate(points):
        candidates = point + around
        others = np.array([place for i, place in enumerate(taken) if i != number])
        room = np.hypot(*(candidates[:, None] - others).transpose(2, 0, 1)).min(1).clip(max=1.6 * distance)
        result[number] = candidates[int(room.argmax())]
        taken.append(result[number])
    return result


def _legend(figure: Any, markers: bool) -> None:
    """Draws the legend of the groups below the panels."""
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=colour, marker=marker if markers else "s", linestyle="", markersize=9, label=name)
        for name, (_, colour, marker) in CHEMISTRY.items()
    ]
    wide = figure.get_figwidth() > 9
    figure.legend(
        handles=handles, loc="outside lower center", ncol=6 if wide else 3, frameon=False, fontsize=12,
        handletextpad=0.2, columnspacing=1.2,
    )  # fmt: skip
