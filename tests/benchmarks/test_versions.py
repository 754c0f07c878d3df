"""Two checkouts timed in turns."""

import csv
import os
from pathlib import Path

import pytest

from benchmarks import versions
from benchmarks.measure import program
from benchmarks.versions import FEWEST, compare, main

ROOT = Path(__file__).parents[2]


class Clock:
    """A version whose calls take a known time, which grows from call to call as on a machine that slows down."""

    called: list[str] = []

    def __init__(self, name: str, factor: float) -> None:
        self.name, self.factor = name, factor

    def seconds(self, case: str = "") -> float:
        Clock.called.append(self.name)
        return self.factor * (10 + len(Clock.called))


def test_the_ratio_is_that_of_neighbouring_calls_in_both_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Clock, "called", [])
    row = compare(Clock("old", 1.0), Clock("new", 1.25), "a case", budget=1.0)  # type: ignore[arg-type]
    assert (row.case, row.turns) == ("a case", FEWEST)
    assert row.ratio == pytest.approx(1.25, rel=0.05)
    assert row.after_ms > row.before_ms > 0
    pairs = Clock.called[4:]
    assert {tuple(pairs[i : i + 2]) for i in range(0, len(pairs), 2)} == {("old", "new"), ("new", "old")}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["missing", "."], "missing: expected a checkout of protlm"),
        ([".", ".", "--only", "nothing"], "--only nothing: expected a part of one of: attention softmax"),
    ],
)
def test_wrong_arguments_end_with_one_line(given: list[str], message: str, capsys, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as stop:
        program(lambda: main([*given, "--csv", str(tmp_path / "versions.csv")]))
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


@pytest.mark.slow
def test_two_processes_are_timed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The row of one case; the ratio depends on what else the machine does."""
    monkeypatch.setattr(versions, "FEWEST", 3)
    table = tmp_path / "versions.csv"
    main([str(ROOT), str(ROOT), "--only", "generate", "--budget", "0.1", "--threads", "1", "--csv", str(table)])
    (row,) = csv.DictReader(table.read_text().splitlines())
    assert (row["case"], row["turns"]) == ("generate 20 tokens", "3")
    assert float(row["before_ms"]) > 0
    assert float(row["after_ms"]) > 0


@pytest.mark.slow
def test_each_process_runs_the_code_of_its_checkout(tmp_path: Path) -> None:
    package = tmp_path / "protlm" / "performer"
    package.mkdir(parents=True)
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "protlm" / "__init__.py").write_text("raise RuntimeError('other code')")
    other = versions.Version(tmp_path, 1)
    with other, pytest.raises(versions.UserError, match="its code cannot compute this case"):
        other.seconds("generate 20 tokens")


@pytest.mark.slow
def test_ctrl_c_reaches_only_the_process_that_asks() -> None:
    """A terminal sends it to the whole group, and each of the others would print a traceback."""
    with versions.Version(ROOT, 1) as version:
        assert os.getpgid(version._process.pid) != os.getpgid(0)
    assert version._process.poll() is not None
