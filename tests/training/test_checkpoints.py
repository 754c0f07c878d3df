"""Resumable checkpoints: complete or absent, with the previous one kept and the newest good one found."""

import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from protlm.errors import UserError
from protlm.training.checkpoints import TrainingCheckpoint
from protlm.training.task import LanguageModelTask
from tests.tiny import FAST, run_training

OPTIONS = [
    *FAST,
    "model.dropout=0.1",
    "data.token_budget=600",
    "schedule=constant",
    "trainer.val_check_interval=4",
    "callbacks.checkpoint.every_n_train_steps=2",
]
LAST, PREVIOUS, BEST = (Path("run/checkpoints") / f"{name}.ckpt" for name in ("last", "previous", "best"))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, corpus_path: Path) -> Callable[..., None]:
    monkeypatch.chdir(tmp_path)

    def run(steps: int, *options: str, folder: str = "run") -> None:
        where = [f"data.corpus={corpus_path}", f"hydra.run.dir={folder}", f"trainer.max_steps={steps}"]
        run_training(*OPTIONS, *where, *options)

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, corpus_path: Path) -> Callable[[int], Path]:
    """The folder of a run with a given number of steps, trained once."""
    folders: dict[int, Path] = {}

    def trained(steps: int) -> Path:
        if steps not in folders:
            folders[steps] = tmp_path_factory.mktemp("trained")
            where = [f"data.corpus={corpus_path}", f"hydra.run.dir={folders[steps]}", f"trainer.max_steps={steps}"]
            run_training(*OPTIONS, *where)
        return folders[steps]

    return trained


@pytest.fixture
def whole(trained: Callable[[int], Path]) -> Path:
    """The last checkpoint of an uninterrupted run of 9 steps."""
    return trained(9) / "checkpoints" / "last.ckpt"


def step(path: Path) -> int:
    return torch.load(path, weights_only=True)["global_step"]


def same_weights(one: Path, other: Path) -> bool:
    first, second = (torch.load(path, weights_only=True)["state_dict"] for path in (one, other))
    return all(torch.equal(weight, second[name]) for name, weight in first.items())


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def flipped(path: Path) -> None:
    """Flips one bit in the middle of a tensor."""
    content = bytearray(path.read_bytes())
    weight = torch.load(path, weights_only=True)["state_dict"]["model.blocks.0.attention.qkv.weight"]
    where = content.find(weight.numpy().tobytes())
    assert where > 0
    content[where + 10] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage", [pytest.param(cut, marks=pytest.mark.slow), pytest.param(emptied, marks=pytest.mark.slow), flipped]
)
def test_auto_skips_a_damaged_checkpoint_and_takes_the_previous_one(
    damage: Callable[[Path], None],
    run: Callable[..., None],
    trained: Callable[[int], Path],
    whole: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(trained(6), "run")
    damage(LAST)
    capsys.readouterr()
    run(9, "ckpt_path=auto")
    (line,) = capsys.readouterr().err.splitlines()
    assert str(LAST) in line
    assert f"{PREVIOUS} (step 4)" in line
    assert step(LAST) == 9
    assert same_weights(LAST, whole)


def test_auto_takes_the_best_checkpoint_if_the_others_are_damaged_and_fails_without_it(
    run: Callable[..., None], trained: Callable[[int], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(trained(6), "run")
    for path in (LAST, PREVIOUS):
        cut(path)
    capsys.readouterr()
    run(8, "ckpt_path=auto")
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{BEST} (step 4)" in line
    for path in (LAST, PREVIOUS, BEST):
        cut(path)
    before = {path: path.read_bytes() for path in (LAST, PREVIOUS, BEST)}
    with pytest.raises(SystemExit) as stopped:
        run(8, "ckpt_path=auto")
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: no usable checkpoint")
    assert all(str(path) in line for path in before)
    assert before == {path: path.read_bytes() for path in before}


def test_auto_starts_from_scratch_without_a_checkpoint(
    run: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    run(2, "ckpt_path=auto")
    assert step(LAST) == 2
    assert capsys.readouterr().err == ""


def test_auto_only_repeats_the_test_of_a_finished_run(
    run: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    """As after a kill during the test."""
    run(8, "trainer.log_every_n_steps=1")
    files = [LAST, BEST, Path("run/results.json")]
    before, rows = [path.read_bytes() for path in files], Path("run/metrics/metrics.csv").read_text()
    Path("run/results.json").unlink()
    run(8, "trainer.log_every_n_steps=1", "ckpt_path=auto")
    assert [path.read_bytes() for path in files] == before
    assert Path("run/metrics/metrics.csv").read_text() == rows


@pytest.mark.slow
def test_a_new_run_in_a_used_folder_moves_the_earlier_outputs(
    run: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    run(4)
    old = {path.name: path.read_bytes() for path in LAST.parent.iterdir()}
    capsys.readouterr()
    run(2, "seed=2")
    assert "run/earlier-1" in capsys.readouterr().out
    assert {path.name: path.read_bytes() for path in Path("run/earlier-1/checkpoints").iterdir()} == old
    assert sorted(path.name for path in LAST.parent.iterdir()) == ["last.ckpt"]
    assert step(LAST) == 2
    run(2, "seed=3")
    assert Path("run/earlier-2/checkpoints/last.ckpt").exists()
    assert {path.name: path.read_bytes() for path in Path("run/earlier-1/checkpoints").iterdir()} == old


@pytest.mark.slow
def test_a_run_resumed_in_another_folder_leaves_the_first_unchanged(run: Callable[..., None]) -> None:
    run(4)
    files = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    run(6, f"ckpt_path={LAST}", folder="other")
    assert step(Path("other/checkpoints/last.ckpt")) == 6
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == files


def score(path: Path) -> Any:
    callbacks = torch.load(path, weights_only=True)["callbacks"]
    return next(value for name, value in callbacks.items() if name.startswith("ModelCheckpoint"))["best_model_score"]


def test_a_checkpoint_at_a_validation_contains_its_result(
    run: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a resumed run would take a worse model for the best."""
    run(4, "trainer.limit_val_batches=1.0")
    best = score(LAST)
    assert best is not None
    before = BEST.read_bytes()
    # every later validation is far worse
    summary = LanguageModelTask._summary
    worse = lambda self, metrics: {**summary(self, metrics), "perplexity": 1e6}  # noqa: E731
    monkeypatch.setattr(LanguageModelTask, "_summary", worse)
    run(8, "trainer.limit_val_batches=1.0", "ckpt_path=auto")
    assert score(LAST) == best
    assert BEST.read_bytes() == before


class FullDisk:
    """Limits the size of files from some step on, like a full disk."""

    def __init__(self) -> None:
        self.before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def begin(self, size: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, self.before[1]))

    def end(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, self.before)


@pytest.fixture
def full_disk() -> Iterator[FullDisk]:
    disk = FullDisk()
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield disk
    disk.end()
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize(
    ("fails", "saved"),
    [
        pytest.param(1, "none", marks=pytest.mark.slow),
        (3, "(step 2)"),
        pytest.param(4, "(step 2)", marks=pytest.mark.slow),
    ],
)
def test_a_full_disk_ends_the_run_with_one_line_that_names_the_last_good_checkpoint(
    fails: int,
    saved: str,
    full_disk: FullDisk,
    run: Callable[..., None],
    whole: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From step 3 on, last.ckpt at step 4 fails; from step 4 on, best.ckpt before it."""
    begin = LanguageModelTask.training_step

    def training_step(self: LanguageModelTask, *arguments: Any) -> Any:
        if self.trainer.global_step + 1 == fails:
            full_disk.begin(16_384)
        return begin(self, *arguments)

    monkeypatch.setattr(LanguageModelTask, "training_step", training_step)
    validation = "trainer.val_check_interval=" + ("4" if fails == 4 else "100")
    with pytest.raises(SystemExit) as stopped:
        run(6, validation)
    full_disk.end()
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert "ckpt: cannot be written (File too large)" in line
    assert saved in line
    assert sorted(path.name for path in LAST.parent.iterdir()) == (["last.ckpt"] if saved != "none" else [])
    monkeypatch.setattr(LanguageModelTask, "training_step", begin)
    run(9, validation, "ckpt_path=auto")
    assert same_weights(LAST, whole)


@pytest.mark.parametrize("call", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_kill_before_any_of_the_renames_leaves_a_complete_checkpoint(
    call: int,
    run: Callable[..., None],
    trained: Callable[[int], Path],
    whole: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(trained(4), "run")
    replace, count = os.replace, 0

    def killed(source: Any, target: Any) -> None:
        nonlocal count
        if Path(target).suffix == ".ckpt" and (count := count + 1) == call:
            raise SystemExit(137)
        replace(source, target)

    with monkeypatch.context() as patched:
        patched.setattr("os.replace", killed)
        with pytest.raises(SystemExit):
            run(9, "ckpt_path=auto")
    assert LAST.exists() == (call < 3)
    assert count == call
    run(9, "ckpt_path=auto")
    assert same_weights(LAST, whole)


@pytest.mark.parametrize("every", [0, -1, 1.5, "often", None])
def test_invalid_intervals_are_refused(every: Any) -> None:
    with pytest.raises(UserError, match="callbacks.checkpoint.every_n_train_steps"):
        TrainingCheckpoint("checkpoints", every)
