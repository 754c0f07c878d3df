"""Work folders with two finished runs."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.quality import __main__ as quality
from benchmarks.quality.recipe import Comparison, Run
from tests.benchmarks.quality.comparison import call, command, train_here


@pytest.fixture(scope="package")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder with two finished runs."""
    work = tmp_path_factory.mktemp("quality")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quality, "run_all", train_here)
        assert call(command(work)) == 0
    return work


@pytest.fixture
def work(trained: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return shutil.copytree(trained, tmp_path / "work")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """Replaces training; the runs that would start, and whether they would resume."""
    found: list[tuple[str, bool]] = []

    def run_all(runs: Sequence[Run], comparison: Comparison, jobs: int = 1) -> int:
        left = [run.name for run in runs if not comparison.is_done(run.name)]
        found.extend((name, not comparison.changes(name)) for name in left)
        return 0

    monkeypatch.setattr(quality, "run_all", run_all)
    return found
