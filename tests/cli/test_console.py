import sys
from types import SimpleNamespace

import pytest

from protlm.cli import console


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
