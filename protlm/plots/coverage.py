"""Pictures of the coverage of an alignment."""

from pathlib import Path

import numpy as np

from protlm.files import write_picture
from protlm.plots.titles import set_title


def coverage_plot(path: Path, coverage: np.ndarray, effective: np.ndarray, title: str) -> None:
    """Draws how many sequences have a residue at each position of the query.

    Args:
        path: ends in .png, .pdf or .svg.
        coverage: (L,), sequences.
        effective: (L,), the effective number of them.
        title: of the picture.
    """
    from matplotlib.figure import Figure  # not pyplot, which has global state

    edges = np.arange(len(coverage) + 1) + 0.5
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    axes.stairs(coverage, edges, fill=True, color="#b9d3e8", label="sequences")
    axes.stairs(effective, edges, baseline=None, color="#1f5fbf", lw=1.5, label="effective sequences (80 % identity)")
    axes.set(xlim=(edges[0], edges[-1]), ylim=(0, None), xlabel="position", ylabel="sequences with a residue")
    set_title(axes, title, figure.get_figwidth() - 1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, -0.12), ncols=2)
    write_picture(path, figure)
