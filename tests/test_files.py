import os
from pathlib import Path

import pytest

from protlm.errors import UserError
from protlm.files import BusyError, unfinished


def test_nothing_appears_before_it_is_moved_and_nothing_else_stays(tmp_path: Path) -> None:
    target = tmp_path / "out.h5"
    with unfinished(target) as folder:
        (folder / "draft").write_text("whole")
        assert not target.exists()
        os.replace(folder / "draft", target)
    assert [path.name for path in tmp_path.iterdir()] == ["out.h5"]


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / ".out.h5.partial"
    left.mkdir()
    (left / "draft").write_text("half")
    with unfinished(tmp_path / "out.h5") as folder:
        assert not list(folder.iterdir())
    assert not list(tmp_path.iterdir())


def test_a_full_disk_and_a_missing_folder_are_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No space left.*nothing was left behind"), unfinished(tmp_path / "out.h5"):
        raise OSError(28, "No space left on device")
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="there is no folder"), unfinished(tmp_path / "none" / "out.h5"):
        pass


def test_two_processes_do_not_write_the_same_output(tmp_path: Path) -> None:
    with unfinished(tmp_path / "out.h5") as folder:
        (folder / "mine").touch()
        with pytest.raises(BusyError, match="another process"), unfinished(tmp_path / "out.h5"):
            pass
        assert (folder / "mine").exists()
    with unfinished(tmp_path / "out.h5") as folder:
        assert not list(folder.iterdir())
    assert not list(tmp_path.iterdir())
