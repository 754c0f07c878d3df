"""The page of a report has all its figures, and no name of a class or target becomes markup."""

import copy
import re
from typing import Any

import pytest

from protlm.supervised.report_page import report_page

NASTY = '<b>"&'


@pytest.fixture
def report() -> dict[str, Any]:
    estimate = {"value": 0.5, "low": 0.4, "high": 0.6}
    metrics = {"probe": {"accuracy": estimate, "MCC": estimate}, "majority": {"accuracy": estimate, "MCC": estimate}}
    target = {
        "name": f"place {NASTY}",
        "described": "classification per protein, 3 classes",
        "kind": "classification",
        "per_residue": False,
        "classes": ["Nucleus", NASTY, "Golgi apparatus"],
        "test_proteins": 5,
        "test_rows": 5,
        "metrics": metrics,
        "confusion": [[3, 1, 0], [0, 0, 0], [1, 0, 0]],
        "calibration": {"curve": [{"rows": 5, "confidence": 0.7, "accuracy": 0.6}], "expected_error": 0.1},
        "learning_curve": [{"metric": "accuracy", "proteins": n, "value": n / 20} for n in (5.0, 10.0)],
    }
    return {
        "method": "probe",
        "base": {"path": "model", "fingerprint": "f"},
        "data": {"source": "x.csv", "proteins": 20, "fingerprint": "g", "notes": []},
        "split": {"described": "at random", "rounds": 1, "leakage": None},
        "targets": [target],
        "warnings": [f"beware {NASTY}"],
    }


def valued(report: dict[str, Any], kind: str) -> dict[str, Any]:
    """The same for values; the metric of the mean is undefined, as null in report.json."""
    found = copy.deepcopy(report)
    (target,) = found["targets"]
    for name in ("confusion", "calibration", "classes"):
        del target[name]
    none = {"value": None, "low": None, "high": None}
    target |= {"kind": kind, "points": [[0.0, 0.5], [1.0, 0.7]], "learning_curve": []}
    target["metrics"] = {"probe": {"Spearman": {"value": 0.3, "low": -0.0001, "high": 0.6}}, "mean": {"Spearman": none}}
    return found


def captions(page: str) -> list[str]:
    return [text.split(":")[0].split(" ")[0] for text in re.findall("<figcaption>(.*?)</figcaption>", page)]


def test_charts_have_captions_and_rows_of_the_confusion_matrix_their_recall(report):
    page = report_page(report)
    assert captions(page) == ["Calibration", "Learning"]
    matrix = page[page.index('<table class="matrix">') :]
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall("<tr>(.*?)</tr>", matrix)][1:]
    assert rows == [["3", "1", "0", "75 %"], ["0", "0", "0", "-"], ["1", "0", "0", "0 %"]]
    assert 'class="upright"' in matrix
    short = copy.deepcopy(report)
    short["targets"][0]["classes"] = ["C", "E", "H"]
    assert 'class="upright"' not in report_page(short)


def test_names_are_escaped_and_nothing_is_loaded(report):
    page = report_page(report)
    assert NASTY not in page
    assert page.count("&lt;b&gt;&quot;&amp;") >= 5
    assert not re.search(r"https?:|<script|src=", page)


@pytest.mark.parametrize(("kind", "charts"), [("regression", ["Held-out", "Residuals"]), ("ranking", ["Held-out"])])
def test_values_have_their_charts_and_undefined_metrics_a_dash(report, kind, charts):
    page = report_page(valued(report, kind))
    assert captions(page) == charts
    assert "<td>0.300 <small>(0.000 to 0.600)</small></td>" in page
    assert "<td>- <small></small></td>" in page
    assert "place &lt;b&gt;" in page


def test_a_large_confusion_matrix_is_left_to_the_json_file(report):
    (target,) = report["targets"]
    target["classes"] = [f"class {number}" for number in range(31)]
    target["confusion"] = [[0] * 31 for _ in range(31)]
    page = report_page(report)
    assert "31 classes; the matrix is in report.json" in page
    assert 'class="matrix"' not in page
