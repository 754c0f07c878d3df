import sys
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from protlm.cli import console
from protlm.progress import reported, reporting_to


def test_without_a_terminal_progress_is_a_line_from_time_to_time(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0, 0, 10, 31, 40, 40, 50, 75])
    monkeypatch.setattr("protlm.progress.time", SimpleNamespace(monotonic=lambda: next(clock)))
    monkeypatch.setattr(console, "plain_lines", lambda *given: plain_lines(*given, clock=lambda: next(clock)))
    assert not sys.stderr.isatty()
    with console.progress("embedding", "residues") as report:
        for done in (10, 20, 400):
            report(done, 1_000, "reading")
        for done in (500, 520, 570):  # the first 500 are of an earlier run
            report(done, 1_000)
    assert capsys.readouterr().err.splitlines() == [
        "reading: 400 of 1,000 bytes (40 %), 13 bytes/s, 0:48 left",
        "embedding: 570 of 1,000 residues (57 %), 2 residues/s, 3:35 left",
    ]


plain_lines = console.plain_lines


def test_a_stage_is_shown_until_it_is_complete_or_another_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    @contextmanager
    def bar(label, unit):
        seen.append(f"{label}, in {unit}")
        yield lambda done, total: seen.append(f"{done} of {total}")
        seen.append("hidden")

    monkeypatch.setattr(console, "progress", bar)
    with console.stages() as stage:
        comparing = stage("comparing", "proteins")
        assert seen == []
        for done, total in ((1, 2), (2, 2), (1, 3)):  # two searches
            comparing(done, total)
        stage("embedding", "residues")(1, 9)
    assert seen == [
        *("comparing, in proteins", "1 of 2", "2 of 2", "hidden"),
        *("comparing, in proteins", "1 of 3", "hidden"),
        *("embedding, in residues", "1 of 9", "hidden"),
    ]


def test_code_built_by_a_configuration_reports_to_the_command_around_it(capsys: pytest.CaptureFixture[str]) -> None:
    seen = []
    with reporting_to(lambda label, unit: lambda done, total: seen.append((label, unit, done, total))):
        reported("comparing", "proteins")(1, 2)
    reported("comparing", "proteins")(2, 2)
    assert seen == [("comparing", "proteins", 1, 2)]
