"""Pictures of contact maps."""

from pathlib import Path

import numpy as np
import pytest

from protlm.plots import contacts, residue_tracks
from protlm.plots.contacts import compared, contact_plot


def test_pairs_below_the_diagonal_are_right_wrong_or_missed() -> None:
    distances = np.full((9, 9), 20.0)
    for i, j in ((0, 7), (1, 8), (0, 2)):  # the last is too near along the sequence
        distances[i, j] = distances[j, i] = 5
    np.fill_diagonal(distances, 0)
    distances[4], distances[:, 4] = np.nan, np.nan
    scores = np.zeros((9, 9))
    scores[0, 7], scores[2, 8] = 3, 2
    cells = compared(scores, distances)
    assert (cells[7, 0], cells[8, 2]) == (1, 2)
    pairs = [(i, j) for i in range(9) for j in range(i + 6, 9)]
    assert np.isnan(cells[np.triu_indices(9)]).all()
    assert len(pairs) == 6  # fewer than residues, so that all are among the best
    assert {(int(j), int(i)) for i, j in np.argwhere(~np.isnan(cells))} == set(pairs)
    many = compared(np.pad(scores, (0, 20)), np.pad(distances, (0, 20), constant_values=np.nan))
    np.testing.assert_array_equal(many[:9, :9], cells)


def test_contacts_beyond_the_best_are_missed() -> None:
    distances = np.where(np.indices((30, 30)).sum(0) == 29, 5.0, 20.0)
    np.fill_diagonal(distances, 0)
    cells = compared(-distances, distances)
    assert (cells == 1).sum() == 12
    assert (cells == 2).sum() == 18
    reverse = compared(distances, distances)
    assert ((reverse == 0).sum(), (reverse == 2).sum()) == (12, 30)


@pytest.mark.parametrize("length", [1, 6, 40])
@pytest.mark.parametrize("structure", [False, True])
def test_any_length_is_drawn(tmp_path: Path, length: int, structure: bool) -> None:
    scores = np.random.default_rng(0).random((length, length)).astype(np.float32)
    contact_plot(tmp_path / "x.png", scores, "x", "jacobian", 20 * scores if structure else None)
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_a_long_identifier_stays_inside_pictures(monkeypatch, tmp_path):
    """Its ends are kept; it neither leaves the picture nor meets the legend."""
    figures = []
    for module in (contacts, residue_tracks):
        monkeypatch.setattr(module, "write_picture", lambda path, figure: figures.append(figure))
    name = "identifier_of_" + 12 * "many_letters_" + "_end"
    contacts.contact_plot(tmp_path / "x.png", np.random.default_rng(0).random((30, 30)), name, "jacobian")
    curves = {letter: np.full(90, 0.5) for letter in "HEC"}
    residue_tracks.residue_tracks(tmp_path / "y.png", 90 * "M", curves, "probability", name, True)
    for figure in figures:
        figure.draw_without_rendering()
        axes = figure.axes[0]
        box = axes._left_title
        assert box.get_text().startswith("identifier")
        assert box.get_text().endswith("_end")
        right = figure.bbox.x1
        if legend := axes.get_legend():
            right = legend.get_window_extent().x0
        assert box.get_window_extent().x1 < right
