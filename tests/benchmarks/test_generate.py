"""The generation benchmark runs on a tiny model."""

import csv
from pathlib import Path

import pytest

from benchmarks import generate


@pytest.mark.slow
def test_the_command_writes_a_row_for_each_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    sizes = ["--layers", "1", "--width", "16", "--heads", "2", "--feed-forward", "16", "--features", "8"]
    path = tmp_path / "results" / "generate.csv"
    options = ["--attention", "relu", "--lengths", "9", "30", "--count", "2", "--repeats", "1", "--csv", str(path)]
    monkeypatch.setattr("sys.argv", ["generate", *options, *sizes])
    generate.main()
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [row["length"] for row in rows] == ["9", "30"]
    for row in rows:
        assert float(row["seconds_per_token"]) > 0
        assert 0 <= float(row["largest_difference"]) < 1e-5
        assert 0 <= float(row["log_likelihood_difference"]) < 1e-4
    assert "ms/token" in capsys.readouterr().out
