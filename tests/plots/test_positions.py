from collections.abc import Callable
from pathlib import Path

import matplotlib.figure
import numpy as np
import pytest
from matplotlib.axes import Axes

from protlm.errors import UserError
from protlm.plots.palette import AMINO_ACIDS
from protlm.plots.positions import LONGEST, Track, check_picture, heat_map, logo
from protlm.sequence.alphabet import STANDARD

SIGNATURES = {".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xml"}


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., matplotlib.figure.Figure]:
    """The figure that a function would write."""
    figures: list[matplotlib.figure.Figure] = []
    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", lambda figure, *_, **__: figures.append(figure))

    def draw(function: Callable[..., None], *arguments: object) -> matplotlib.figure.Figure:
        function(tmp_path / "any.png", *arguments)
        return figures.pop()

    return draw


def distribution(length: int) -> np.ndarray:
    return np.random.default_rng(1).dirichlet(np.full(20, 0.3), length)


def panels(figure: matplotlib.figure.Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]


def test_the_suffix_chooses_the_format(tmp_path: Path) -> None:
    for name, function in (("a.png", heat_map), ("b.pdf", heat_map), ("c.png", logo), ("d.svg", logo)):
        more = ("probability", False) if function is heat_map else ()
        function(tmp_path / name, distribution(5), "MK?XL", *more)
        assert (tmp_path / name).read_bytes().startswith(SIGNATURES[name[1:]])


@pytest.mark.parametrize("length", [1, 8, 130, 250])
def test_each_value_is_at_its_position_and_residue(drawn, length: int) -> None:
    values = np.random.default_rng(0).normal(size=(length, 20))
    sequence = "".join(np.random.default_rng(0).choice(list(STANDARD), length))
    figure = drawn(heat_map, values, sequence, "score", True)
    seen = np.full((length, 20), np.nan)
    marked = {}
    for axes in panels(figure):
        (image,) = axes.images
        left, right, bottom, top = image.get_extent()
        assert (bottom, top) == (19.5, -0.5)
        names = [tick.get_text() for tick in axes.get_yticklabels()]
        for row, letter in enumerate(names):
            seen[int(left + 0.5) - 1 : int(right - 0.5), STANDARD.index(letter)] = image.get_array()[row]
        for x, y in axes.collections[0].get_offsets():
            marked[round(x)] = names[round(y)]
        letters = [tick.get_text() for tick in axes.get_xticklabels(minor=True)]
        assert "".join(letters) == sequence[int(left + 0.5) - 1 : int(right - 0.5)]
    np.testing.assert_array_equal(seen, values)
    assert "".join(marked[i] for i in range(1, length + 1)) == sequence
    assert (len(panels(figure)) > 1) == (length > 100)


def test_the_rows_are_the_twenty_amino_acids() -> None:
    assert sorted(AMINO_ACIDS.order) == sorted(STANDARD)


def test_diverging_colours_are_symmetric(drawn) -> None:
    values = np.linspace(-1, 3, 40).reshape(2, 20)
    for diverging, limits in ((True, (-3, 3)), (False, (-1, 3))):
        (axes,) = panels(drawn(heat_map, values, "MK", "score", diverging))
        assert axes.images[0].get_clim() == pytest.approx(limits, abs=0.1)


def test_outliers_do_not_dominate_the_colour_scale(drawn) -> None:
    values = np.linspace(-1, 1, 500).reshape(25, 20)
    values[3, 7] = 100
    for diverging in (True, False):
        (axes, *_) = panels(drawn(heat_map, values, "M" * 25, "score", diverging))
        assert axes.images[0].get_clim() == pytest.approx((-1, 1), abs=0.02)


@pytest.mark.parametrize(("value", "diverging"), [(np.nan, True), (np.nan, False), (0.0, True), (1.0, False)])
def test_unknown_or_constant_values_are_drawn(tmp_path: Path, value: float, diverging: bool) -> None:
    heat_map(tmp_path / "map.png", np.full((3, 20), value), "???", "score", diverging)
    assert (tmp_path / "map.png").read_bytes().startswith(SIGNATURES[".png"])


def test_the_height_of_a_letter_is_its_share_of_the_information(drawn) -> None:
    p = np.zeros((3, 20))
    p[0, STANDARD.index("W")] = 1
    p[1] = 1 / 20
    p[2, [STANDARD.index("A"), STANDARD.index("G")]] = 0.5
    (axes,) = panels(drawn(logo, p, "WX?"))
    heights = [patch.get_path().get_extents().height for patch in axes.patches]
    heights = sorted(height for height in heights if height > 0.01)
    assert heights[-1] == pytest.approx(np.log2(20), rel=0.01)
    assert heights[:-1] == pytest.approx(2 * [0.5 * np.log2(10)], rel=0.02)
    assert axes.get_ylim() == (0, pytest.approx(np.log2(20)))


def test_a_logo_without_information_is_empty(drawn) -> None:
    (axes,) = panels(drawn(logo, np.full((3, 20), 0.05), "MKT"))
    assert not axes.patches
    assert axes.get_ylim() == (0, 0.5)


@pytest.mark.parametrize("function", [lambda *a: heat_map(*a, "score", False), logo])
def test_undrawable_inputs_are_refused(tmp_path: Path, function: Callable[..., None]) -> None:
    with pytest.raises(UserError, match="ends in .png, .pdf, .svg"):
        function(tmp_path / "a.gif", distribution(3), "MKT")
    with pytest.raises(UserError, match="2,001 residues are too many for a readable picture; expected at most 2,000"):
        function(tmp_path / "a.png", distribution(LONGEST + 1), "M" * (LONGEST + 1))
    assert not list(tmp_path.iterdir())
    check_picture(tmp_path / "a.png", LONGEST)


def test_tracks_are_above_the_map_at_their_positions(drawn) -> None:
    length = 130
    values = np.random.default_rng(0).normal(size=(length, 20))
    coverage, states = np.arange(length, dtype=float), "H" * 60 + "E" * 60 + "-" * 10
    figure = drawn(
        heat_map, values, "A" * length, "score", True, [Track("coverage", coverage), Track("structure", states)]
    )
    shades, colours = np.full(length, np.nan), {}
    for axes in panels(figure):
        assert [tick.get_text() for tick in axes.get_yticklabels()][20:] == ["coverage", "structure"]
        _, grey, coloured = axes.images
        for image in (grey, coloured):
            left, right, bottom, top = image.get_extent()
            assert top < bottom < -0.5
            assert axes.get_ylim()[1] <= top
            cells = np.asarray(image.get_array())[0]
            for i, cell in zip(range(round(left + 0.5), round(right + 0.5)), cells, strict=True):
                if image is grey:
                    shades[i - 1] = cell.mean()
                else:
                    colours.setdefault(states[i - 1], set()).add(tuple(cell))
    assert (np.diff(shades) < 0).all()  # the more, the darker
    assert sorted(map(len, colours.values())) == [1, 1, 1]
    assert len(set.union(*colours.values())) == 3
