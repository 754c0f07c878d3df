"""Charts show the data they are given."""

from collections.abc import Callable
from pathlib import Path

import matplotlib.figure
import numpy as np
import pytest

from benchmarks.plots.charts import BLUE, ORANGE, Curve, Panel, bars, curves, densities, point_map, strips
from protlm.errors import UserError

SIGNATURES = {".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml"}
X = np.arange(1.0, 6.0)
PANELS = [
    Panel({"a": Curve(X, X**2, BLUE, low=X, high=X**3), "b": Curve(X, X, ORANGE)}, log="xy", ticks=[1, 5], level=2)
]
GROUPS = {"one": {"a": (0.5, 0.4, 0.7), "b": (-0.2, -0.4, 0.1)}, "two": {"a": (0.1, 0.1, 0.1)}}
COLOURS = {"a": BLUE, "b": (ORANGE, 0.5)}
STATES = {"H": ("helix", BLUE), "C": ("neither", "0.9")}
CHARTS: dict[str, Callable[[Path], None]] = {
    "curves": lambda path: curves(path, PANELS * 2, stacked=True),
    "bars": lambda path: bars(path, GROUPS, COLOURS, "share", level=0.3),
    "point_map": lambda path: point_map(path, {"t": np.eye(12, 2)}, list("ABCDEFGHIJKL")),
    "densities": lambda path: densities(path, {"t": (X, X)}, "x", "y"),
    "strips": lambda path: strips(path, {"true": "HHC", "found": "CHC"}, STATES, "t", "residue"),
}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Path], None]], matplotlib.figure.Figure]:
    """Gives the figure that a chart would write."""
    figures: list[matplotlib.figure.Figure] = []
    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", lambda figure, *_, **__: figures.append(figure))

    def draw(chart: Callable[[Path], None]) -> matplotlib.figure.Figure:
        chart(Path("any.png"))
        return figures.pop()

    return draw


def legend(figure: matplotlib.figure.Figure) -> list[str]:
    return [text.get_text() for one in figure.legends for text in one.get_texts()]


@pytest.mark.parametrize("name", CHARTS)
def test_files_have_the_format_of_their_suffix(tmp_path: Path, name: str) -> None:
    for suffix, start in SIGNATURES.items():
        CHARTS[name](tmp_path / f"chart{suffix}")
        assert (tmp_path / f"chart{suffix}").read_bytes().startswith(start)
    with pytest.raises(UserError, match="ends in .png, .pdf, .svg"):
        CHARTS[name](tmp_path / "chart.gif")
    assert len(list(tmp_path.iterdir())) == len(SIGNATURES)


def test_curves_go_through_their_points(drawn) -> None:
    figure = drawn(CHARTS["curves"])
    assert len(figure.axes) == 2
    for axes in figure.axes:
        first, second, level = axes.lines
        np.testing.assert_array_equal(first.get_xydata(), np.stack((X, X**2), 1))
        np.testing.assert_array_equal(second.get_xydata(), np.stack((X, X), 1))
        assert list(level.get_ydata()) == [2, 2]
        (band,) = axes.collections
        corners = {tuple(corner) for corner in band.get_paths()[0].vertices}
        assert {(x, x) for x in X} | {(x, x**3) for x in X} <= corners
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
        assert list(axes.get_xticks()) == [1, 5]
    assert legend(figure) == ["a", "b"]


def test_bars_have_heights_intervals_and_labels(drawn) -> None:
    (axes,) = drawn(CHARTS["bars"]).axes
    assert sorted(patch.get_height() for patch in axes.patches) == [-0.2, 0.1, 0.5]
    ends = [segment[:, 1] for bar in axes.collections for segment in bar.get_segments()]
    np.testing.assert_allclose(sorted(map(sorted, ends)), [[-0.4, 0.1], [0.1, 0.1], [0.4, 0.7]], atol=1e-12)
    highest = {f"{value:.2f}": max(most, 0) for group in GROUPS.values() for value, _, most in group.values()}
    assert sorted(text.get_text() for text in axes.texts) == sorted(highest)
    for text in axes.texts:
        assert text.get_position()[1] > highest[text.get_text()]
    assert len({round(patch.get_x(), 6) for patch in axes.patches}) == 3
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["one", "two"]


def test_bars_of_a_single_group_are_named_below_the_axis(drawn) -> None:
    figure = drawn(lambda path: bars(path, {"": GROUPS["one"]}, COLOURS, "share"))
    (axes,) = figure.axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["a", "b"]
    middles = [patch.get_x() + patch.get_width() / 2 for patch in axes.patches]
    assert list(axes.get_xticks()) == pytest.approx(middles)
    assert not legend(figure)


def test_groups_of_points_differ_in_colour_or_marker(drawn) -> None:
    groups = [f"g{i % 40}" for i in range(80)]
    xy = np.random.default_rng(0).normal(size=(80, 2))
    figure = drawn(lambda path: point_map(path, {"one": xy, "two": -xy}, groups))
    assert legend(figure) == groups[:40]
    for axes, places in zip(figure.axes, (xy, -xy), strict=True):
        looks = {(*cloud.get_facecolor()[0], cloud.get_paths()[0].vertices.tobytes()) for cloud in axes.collections}
        assert len(looks) == 40
        for number, cloud in enumerate(axes.collections):
            np.testing.assert_array_equal(cloud.get_offsets(), places[number::40])


def test_densities_count_finite_points(drawn) -> None:
    x = np.array([0.0, 0.0, 1.0, np.nan, 1.0])
    y = np.array([0.0, 0.0, 1.0, 1.0, np.nan])
    axes = drawn(lambda path: densities(path, {"t": (x, y)}, "x", "y")).axes[0]
    assert sorted(axes.collections[0].get_array()) == [1, 2]


def test_strips_show_letters_by_colour(drawn) -> None:
    figure = drawn(CHARTS["strips"])
    (image,) = figure.axes[0].images
    np.testing.assert_array_equal(image.get_array(), [[0, 0, 1], [1, 0, 1]])
    assert image.get_extent()[:2] == [0.5, 3.5]
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == ["true", "found"]
    assert legend(figure) == ["helix", "neither"]
