"""Figures of attention, similarities and embeddings show the data they are given."""

from collections.abc import Callable
from pathlib import Path

import matplotlib.figure
import numpy as np
import pytest

from benchmarks.interpret.components import principal_components
from benchmarks.plots.interpret import (
    CHEMISTRY,
    MOST_PANELS,
    attention_maps,
    label_places,
    residue_map,
    similarity_matrices,
)
from protlm.errors import UserError
from protlm.plots.palette import AMINO_ACIDS
from protlm.sequence.alphabet import STANDARD


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Callable[..., matplotlib.figure.Figure]:
    """Gives the figure that a function would write."""
    figures: list[matplotlib.figure.Figure] = []
    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", lambda figure, *_, **__: figures.append(figure))

    def draw(function: Callable[..., None], *arguments: object) -> matplotlib.figure.Figure:
        function(Path("any.png"), *arguments)
        return figures.pop()

    return draw


def attention(layers: int = 2, heads: int = 3, length: int = 7) -> np.ndarray:
    return np.random.default_rng(0).dirichlet(np.full(length, 0.3), (layers, heads, length))


def test_each_map_is_at_its_layer_and_head(drawn) -> None:
    values = attention()
    figure = drawn(attention_maps, values, [1, 5], "P12345")
    panels = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    for number, axes in enumerate(panels):
        np.testing.assert_allclose(axes.images[0].get_array(), values[number // 3, number % 3] * 7)
        assert axes.images[0].norm is panels[0].images[0].norm
    assert [axes.get_ylabel() for axes in panels[::3]] == ["layer 1", "layer 5"]
    assert [axes.get_title() for axes in panels[:3]] == ["head 1", "head 2", "head 3"]
    assert figure.axes[-1].get_ylabel() == "attention x L (1: uniform), square-root scale"


def test_signed_attention_has_colours_centred_at_zero(drawn) -> None:
    figure = drawn(attention_maps, attention() - 0.3, [1, 2])
    norm = figure.axes[0].images[0].norm
    assert norm(0) == pytest.approx(0.5)
    assert norm.vmin < 0 < norm.vmax


def test_matrices_are_ordered_by_chemistry_without_diagonals(drawn) -> None:
    one, other = np.random.default_rng(0).normal(size=(2, 20, 20))
    figure = drawn(similarity_matrices, {"one": (one, "bits"), "other": (other, "cosine")})
    panels = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    for axes, matrix, title in zip(panels, (one, other), ("one", "other"), strict=True):
        shown = axes.images[0].get_array()
        names = [tick.get_text() for tick in axes.get_xticklabels()]
        assert names == [tick.get_text() for tick in axes.get_yticklabels()] == list(AMINO_ACIDS.order)
        assert axes.get_title() == title
        for i, a in enumerate(names):
            for j, b in enumerate(names):
                expected = matrix[STANDARD.index(a), STANDARD.index(b)]
                assert np.ma.is_masked(shown[i, j]) if i == j else shown[i, j] == expected


def test_each_amino_acid_is_labelled_beside_its_point(drawn) -> None:
    vectors = np.random.default_rng(0).normal(size=(20, 6))
    (axes,) = drawn(residue_map, {"embedding": vectors}).axes
    places, _ = principal_components(vectors)
    span = np.ptp(places, axis=0).max()
    texts = {text.get_text(): text.get_position() for text in axes.texts}
    assert sorted(texts) == sorted(STANDARD)
    for letter, place in zip(STANDARD, places, strict=True):
        assert np.hypot(*(texts[letter] - place)) < 0.06 * span
    for points, (letters, _, _) in zip(axes.collections, CHEMISTRY.values(), strict=True):
        np.testing.assert_allclose(points.get_offsets(), places[[STANDARD.index(letter) for letter in letters]])


def test_groups_differ_in_colour_and_marker_and_cover_all_amino_acids() -> None:
    letters, colours, markers = zip(*CHEMISTRY.values(), strict=True)
    assert sorted("".join(letters)) == sorted(STANDARD)
    assert len(set(colours)) == len(set(markers)) == len(CHEMISTRY) == 6
    groups = {name: set(group) for name, (group, _, _) in CHEMISTRY.items()}
    assert (groups["negative"], groups["positive"], groups["aromatic"]) == (set("DE"), set("HKR"), set("FWY"))


def test_labels_do_not_overlap() -> None:
    points = np.zeros((4, 2))
    places = label_places(points, 0.1)
    apart = np.linalg.norm(places[:, None] - places, axis=-1) + np.eye(4)
    assert apart.min() > 0.05


def test_constant_data_can_be_drawn(tmp_path: Path) -> None:
    attention_maps(tmp_path / "a.png", np.full((1, 1, 3, 3), 1 / 3), [1])
    similarity_matrices(tmp_path / "b.svg", {"nothing": (np.full((20, 20), np.nan), ""), "one": (np.eye(20), "")})
    residue_map(tmp_path / "c.png", {"nothing": np.ones((20, 4))})
    assert len(list(tmp_path.iterdir())) == 3


def test_invalid_inputs_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="ends in .png, .pdf, .svg"):
        residue_map(tmp_path / "a.gif", {"any": np.eye(20)})
    with pytest.raises(UserError, match=r"65 layers of 1 heads; at most 64 maps"):
        attention_maps(tmp_path / "a.png", attention(MOST_PANELS + 1, 1, 2), list(range(65)))
    with pytest.raises(UserError, match="2,001 residues are too many"):
        attention_maps(tmp_path / "a.png", np.zeros((1, 1, 2_001, 2_001)), [1])
    assert not list(tmp_path.iterdir())
