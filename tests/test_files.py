import fcntl
import os
from pathlib import Path

import pytest

from protlm.errors import UserError
from protlm.files import BusyError, UnwritableError, atomic_output


def listing(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_a_file_appears_only_when_it_is_complete(tmp_path: Path) -> None:
    target = tmp_path / "out.h5"
    target.write_text("old")
    with atomic_output(target) as partial:
        (partial.parent / "scratch").touch()
        partial.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert listing(tmp_path) == ["out.h5"]


def test_a_file_is_on_disk_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *given, name=name, real=real: (calls.append(name), real(*given)))
    with atomic_output(tmp_path / "out.txt") as partial:
        partial.write_text("new")
    assert calls == ["fsync", "replace"]


def test_an_error_leaves_the_previous_file(tmp_path: Path) -> None:
    target = tmp_path / "out.h5"
    target.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_output(target) as partial:
        partial.write_text(str(1 / (len(target.read_text()) - 3)))
    assert target.read_text() == "old"
    assert listing(tmp_path) == ["out.h5"]


def test_a_folder_is_replaced_as_a_whole_and_never_by_a_file(tmp_path: Path) -> None:
    target = tmp_path / "model"
    for name in ("old", "new"):
        with atomic_output(target) as partial:
            partial.mkdir()
            (partial / name).touch()
        assert listing(target) == [name]
    with pytest.raises(UnwritableError, match="Is a directory"), atomic_output(target) as partial:
        partial.touch()
    assert listing(target) == ["new"]
    assert listing(tmp_path) == ["model"]


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path, kind: str) -> None:
    left = tmp_path / ".out.h5.partial"
    if kind == "folder":
        left.mkdir()
        (left / "out.h5").write_text("half")
    else:
        left.write_text("half")
    with atomic_output(tmp_path / "out.h5") as partial:
        assert not listing(partial.parent)
        partial.touch()
    assert listing(tmp_path) == ["out.h5"]


def test_a_full_disk_and_a_missing_folder_are_reported(tmp_path: Path) -> None:
    for error in (
        OSError(28, "No space left on device"),
        OSError("Can't write data (file write failed: errno = 28, error message = 'No space left')"),
    ):
        with (
            pytest.raises(UnwritableError, match=r"out.h5: cannot be written \(No space left on device\)$"),
            atomic_output(tmp_path / "out.h5"),
        ):
            raise error
    assert not listing(tmp_path)
    with (
        pytest.raises(UserError, match="there is no folder .*none; create it first"),
        atomic_output(tmp_path / "none" / "out.h5"),
    ):
        pass


def test_two_processes_do_not_write_the_same_output(tmp_path: Path) -> None:
    with atomic_output(tmp_path / "out.h5") as partial:
        partial.write_text("first")
        with pytest.raises(BusyError, match="another process"), atomic_output(tmp_path / "out.h5"):
            pass
    assert (tmp_path / "out.h5").read_text() == "first"
    assert listing(tmp_path) == ["out.h5"]


def test_a_file_system_without_locks_is_supported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", unsupported)
    with atomic_output(tmp_path / "out.h5") as partial:
        partial.touch()
    assert listing(tmp_path) == ["out.h5"]


@pytest.mark.parametrize("moment", ["open", "flock"])
def test_an_interruption_while_the_folder_is_made_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    target = tmp_path / "out.h5"
    with monkeypatch.context() as patched:
        patched.setattr(*((os, "open") if moment == "open" else (fcntl, "flock")), interrupt)
        with pytest.raises(KeyboardInterrupt), atomic_output(target):
            pytest.fail("nothing should be written")
    assert listing(tmp_path) == []
