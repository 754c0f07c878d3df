"""Coordinates, and the files of a map: a table, a bundle, and a page that loads nothing and works in a browser."""

import csv
import html
import io
import json
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pandas
import pytest
from pyarrow import parquet

from protlm.annotation.coordinates import coordinates_of
from protlm.annotation.map import label_columns, write_map_folder
from protlm.annotation.protspace import DELIMITER
from protlm.errors import ProtlmWarning, UserError

NASTY = "</script><b>&|%;x"
IDS = ["a/1", NASTY, "c"]
COLUMNS = {"family": ["x;y", NASTY, ""], "length": ["10", "", "30"]}
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture
def folder(tmp_path):
    coordinates = coordinates_of(np.random.default_rng(0).normal(size=(3, 4)))
    write_map_folder(tmp_path / "map", f"Map of {NASTY}", IDS, coordinates, COLUMNS, "family")
    return tmp_path / "map", coordinates


def test_principal_components_are_those_of_the_covariance():
    vectors = np.random.default_rng(0).normal(size=(50, 6)) * [5, 3, 1, 1, 1, 1]
    found = coordinates_of(vectors)
    values, axes = np.linalg.eigh(np.cov(vectors.T))
    expected = (vectors - vectors.mean(axis=0)) @ axes[:, [-1, -2]]
    np.testing.assert_allclose(np.abs(found.values), np.abs(expected), atol=1e-9)
    shares = values[[-1, -2]] / values.sum()
    assert found.axes == tuple(f"PC{i} ({100 * share:.1f} %)" for i, share in enumerate(shares, 1))


def test_umap_gets_the_options(monkeypatch):
    given = {}

    class UMAP:
        def __init__(self, **options):
            given.update(options)

        def fit_transform(self, vectors):
            return vectors[:, :2] * 2

    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=UMAP))
    vectors = np.arange(20.0).reshape(5, 4)
    found = coordinates_of(vectors, "umap", neighbours=15, min_dist=0.3, seed=7)
    assert found.values.tolist() == (vectors[:, :2] * 2).tolist()
    assert (given["n_neighbors"], given["min_dist"], given["random_state"]) == (4, 0.3, 7)


def test_what_cannot_be_drawn_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    for vectors, method, message in (
        (np.ones((5, 3)), "umap", "requires the package umap-learn; install it: pip install -e"),
        (np.ones((5, 3)), "tsne", "method 'tsne': expected one of pca, umap"),
        (np.ones((2, 3)), "pca", "2 sequences: expected at least 3"),
    ):
        with pytest.raises(UserError, match=message):
            coordinates_of(vectors, method)


def test_the_table_has_all_columns(folder):
    rows = list(csv.reader(io.StringIO((folder[0] / "coordinates.csv").read_text())))
    assert rows[0] == ["id", "x", "y", "family", "length"]
    np.testing.assert_allclose([list(map(float, row[1:3])) for row in rows[1:]], folder[1].values, rtol=1e-5)
    assert [row[0] for row in rows[1:]] == IDS
    assert [row[3] for row in rows[1:]] == COLUMNS["family"]


def test_the_bundle_is_three_tables_with_encoded_cells(folder):
    parts = (folder[0] / "map.parquetbundle").read_bytes().split(DELIMITER)
    about, projections, places = (parquet.read_table(io.BytesIO(part)) for part in parts)
    assert about.schema.metadata[b"protspace_format_version"] == b"2"
    assert about.column_names == ["protein_id", "family", "length"]
    assert about["protein_id"].to_pylist() == IDS
    assert about["family"].to_pylist() == ["x;y", "</script><b>&%7C%25;x", ""]
    assert projections["projection_name"].to_pylist() == ["PCA"]
    assert places["identifier"].to_pylist() == IDS
    np.testing.assert_allclose(np.stack([places["x"], places["y"]], 1), folder[1].values, rtol=1e-5)


def test_a_map_without_pyarrow_has_no_bundle(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.warns(ProtlmWarning, match="no bundle for ProtSpace: Parquet requires the package pyarrow"):
        written = write_map_folder(tmp_path / "map", "Map", IDS, coordinates_of(np.eye(3)), {}, None)
    assert [path.name for path in written] == ["coordinates.csv", "map.html"]


def test_the_page_loads_nothing_and_escapes_everything(folder):
    text = (folder[0] / "map.html").read_text()
    assert text.count("<script") == 2
    assert text.count("</script>") == 2
    assert not re.search(r"(src|href)=|https?://", text)
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    assert data["ids"] == IDS
    assert data["columns"][0]["cells"] == COLUMNS["family"]
    assert data["colour"]["group"] == [0, 1, None]


def test_labels_are_matched_by_id():
    frame = pandas.DataFrame({"id": ["sp|P1|A_B", "Q"], "family": ["x", "y"]})
    with pytest.warns(ProtlmWarning, match="no row for 1 of 2 identifiers of p.fasta"):
        assert label_columns(frame, ["P2", "P1"], "p.fasta") == {"family": ["", "x"]}
    with pytest.raises(UserError, match="no row for 1 of 1 identifier of p.fasta; expected identifiers such as 'z'"):
        label_columns(frame, ["z"], "p.fasta")
    with pytest.raises(UserError, match=r"duplicate id 'Q' \(rows 1 and 2\)"):
        label_columns(pandas.DataFrame({"id": ["Q", "Q"], "f": ["1", "2"]}), ["Q"], "p.fasta")


SCRIPT = """{
const out = {}, input = element("search");
out.legend = [...document.querySelectorAll("#legend button")].map((one) => one.textContent);
fit(); out.size = [width > 100, height > 100];
const box = canvas.getBoundingClientRect();
point({clientX: box.left + placeX(1), clientY: box.top + placeY(1)}); out.tip = tip.textContent;
input.value = "X;Y"; input.dispatchEvent(new Event("input")); out.found = element("found").textContent;
document.querySelector("#legend button").click(); out.hidden = [0, 1, 2].map(shown);
const result = document.createElement("pre"); result.id = "result"; result.textContent = JSON.stringify(out);
document.body.append(result);
}"""


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome is installed")
def test_the_page_works_in_a_browser(folder, tmp_path):
    page = folder[0] / "map.html"
    page.write_text(page.read_text().rsplit("</script>", 1)[0] + SCRIPT + "</script></body></html>")
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
    done = subprocess.run(
        [*command, "--virtual-time-budget=2000", "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    out = json.loads(html.unescape(re.search(r'<pre id="result">(.*?)</pre>', done.stdout)[1]))
    assert out["legend"] == ["x;y1", f"{NASTY}1", "no label1"]
    assert out["size"] == [True, True]
    assert out["tip"] == f"{NASTY}\nfamily: {NASTY}"
    assert out["found"] == "1 of 3"
    assert out["hidden"] == [False, True, True]
