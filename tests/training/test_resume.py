"""Runs that are killed repeatedly, or stopped by a signal, end bit for bit like uninterrupted ones."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from protlm.training.task import LanguageModelTask
from tests.processes import TrainingProcess
from tests.tiny import FAST, run_training

Running = subprocess.Popen[bytes] | TrainingProcess
ROOT = Path(__file__).parents[2]
STEPS, VALIDATION = 48, 8
COMMON = [
    "trainer.accelerator=cpu",
    "trainer.enable_progress_bar=false",
    "callbacks.progress=null",
    "model.layers=1",
    "model.width=32",
    "model.feed_forward=64",
    "model.num_features=16",
    "model.dropout=0.1",
    "model.attention=optimal",  # its next draw depends on everything observed since the last one
    "callbacks.redraw.every_n_steps=5",
    "callbacks.checkpoint.every_n_train_steps=3",
    "+callbacks.curve.every_n_steps=2",
    "data.max_length=64",
    "data.token_budget=4000",
    f"trainer.max_steps={STEPS}",
    f"trainer.val_check_interval={VALIDATION}",
    "trainer.log_every_n_steps=1",
    "trainer.limit_test_batches=2",
    "schedule.steps=10",
    "hydra.run.dir=run",
    "ckpt_path=auto",
]


def begin(folder: Path, *options: str) -> Running:
    """Starts the command as a process group of its own, with its output in log.txt."""
    folder.mkdir(exist_ok=True)
    if "trainer=ddp_cpu" not in options:
        return TrainingProcess(folder, [*COMMON, *options])
    command = [sys.executable, "-m", "protlm.train", *COMMON, *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen(
            command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )


def finish(process: Running, folder: Path) -> None:
    try:
        code = process.wait(120)
    finally:
        kill(process)
    assert code == 0, (folder / "log.txt").read_text()


def kill(process: Running) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # all ranks
    process.wait()


def last_step(folder: Path) -> int:
    """Number of optimizer steps that are logged on disk."""
    path = folder / "run" / "metrics" / "metrics.csv"
    rows = path.read_text().splitlines()[1:] if path.exists() else []
    return max((int(row.partition(",")[0]) + 1 for row in rows if row.partition(",")[0].isdigit()), default=0)


def kill_at(process: Running, folder: Path, step: int, delay: float, within: str = "") -> None:
    """Kills `delay` seconds after a step, with `within="write"` once a checkpoint is being written."""
    checkpoints = folder / "run" / "checkpoints"
    started = time.monotonic()
    while last_step(folder) < step:
        assert process.poll() is None, (folder / "log.txt").read_text()
        assert time.monotonic() - started < 100
        time.sleep(0.002)
    while within == "write" and not any(checkpoints.glob(".*")) and process.poll() is None:
        pass
    time.sleep(delay)
    assert process.poll() is None, "the run ended before it was killed"
    kill(process)


def moments(seed: int, kinds: Sequence[str]) -> Iterator[tuple[int, float, str]]:
    """(step, seconds after it, within what) of the kills, in order, so that each start gets further."""
    draw = random.Random(seed)
    for number, within in enumerate(kinds):
        step = 14 * number + draw.randrange(3, 12)
        if within == "validation":
            step = -(-step // VALIDATION) * VALIDATION
        yield step, 0.0 if within else draw.uniform(0, 0.06), within


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Paths at which two checkpoints differ in any bit."""
    if isinstance(one, dict) and isinstance(other, dict):
        missing = [f"{where}/{name} is in one only" for name in one.keys() ^ other.keys()]
        return missing + [
            x for name in one.keys() & other.keys() for x in differences(one[name], other[name], f"{where}/{name}")
        ]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        return [x for i, pair in enumerate(zip(one, other, strict=True)) for x in differences(*pair, f"{where}/{i}")]
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        return [] if one.dtype == other.dtype and torch.equal(one, other) else [f"{where}: tensors differ"]
    return [] if one == other else [f"{where}: {one!r} is not {other!r}"]


def checkpoint(folder: Path, name: str) -> dict[str, Any]:
    content = torch.load(folder / "run" / "checkpoints" / name, weights_only=True)
    best = content["callbacks"][next(key for key in content["callbacks"] if key.startswith("ModelCheckpoint"))]
    for key in ("dirpath", "best_model_path", "kth_best_model_path", "best_k_models", "last_model_path"):
        best.pop(key)  # names of the folder
    return content


def curve(folder: Path) -> list[dict[str, str]]:
    """The rows of metrics.csv, without what depends on the clock."""
    with (folder / "run" / "metrics" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [{name: value for name, value in row.items() if "_per_second" not in name and value} for row in rows]


def assert_same_runs(one: Path, other: Path) -> None:
    last = checkpoint(one, "last.ckpt")
    assert last["global_step"] == STEPS
    assert last["TremblDataModule"]["place"][0] > 0  # past the first epoch
    numbers = [value for name, value in last["state_dict"].items() if name.endswith("draw_number")]
    assert [int(value) for value in numbers] == [(STEPS - 1) // 5]
    assert differences(last, checkpoint(other, "last.ckpt")) == []
    assert differences(*(checkpoint(folder, "best.ckpt")["state_dict"] for folder in (one, other))) == []
    results = [json.loads((folder / "run" / "results.json").read_text()) for folder in (one, other)]
    assert set(results[0]) == {"test", "ood"}
    assert results[0] == results[1]
    rows = curve(one)
    assert [row["step"] for row in rows if "train/loss" in row] == [str(step) for step in range(STEPS)]
    assert len([row for row in rows if "valid/perplexity" in row]) == STEPS // VALIDATION
    assert rows == curve(other)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "kinds"),
    [
        (["trainer.devices=1", "data.workers=0"], ["", "write", "validation"]),
        (["trainer=ddp_cpu", "data.token_budget=2000"], ["write", "validation"]),
    ],
    ids=["one process", "two processes"],
)
def test_a_run_killed_repeatedly_ends_bit_for_bit_where_the_uninterrupted_one_does(
    options: list[str], kinds: list[str], tmp_path: Path, corpus_path: Path
) -> None:
    options = [*options, f"data.corpus={corpus_path}"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    reference = begin(whole, *options)
    finish(reference, whole)
    for step, delay, within in moments(len(kinds), kinds):
        process = begin(killed, *options)
        kill_at(process, killed, step, delay, within)
    finish(begin(killed, *options), killed)
    assert_same_runs(whole, killed)
    seen = [float(row["train/residues"]) for row in curve(killed) if "train/residues" in row]
    assert seen == sorted(set(seen))


SMALL = [
    *(option for option in FAST if "limit_val" not in option),
    "model.dropout=0.1",
    "data.token_budget=900",
    "trainer.max_steps=8",
    "trainer.accumulate_grad_batches=3",
    "trainer.val_check_interval=12",  # batches: 4 steps
    "trainer.log_every_n_steps=1",
    "ckpt_path=auto",
]
ANY = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2]
EACH = [pytest.param(number, marks=pytest.mark.slow) if number in (ANY[0], ANY[2]) else number for number in ANY]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, corpus_path: Path) -> Callable[..., int]:
    """Trains in this process, with signals at the start of the n-th batch of a kind; returns the exit code."""
    monkeypatch.chdir(tmp_path)

    def here(
        *options: str,
        folder: str = "run",
        kind: str = "training",
        batch: int = -1,
        numbers: tuple[int, ...] = (),
    ) -> int:
        method, count = getattr(LanguageModelTask, f"{kind}_step"), 0

        def step(self: LanguageModelTask, *arguments: Any) -> Any:
            nonlocal count
            count += 1
            if count == batch:
                for number in numbers:
                    os.kill(os.getpid(), number)
            return method(self, *arguments)

        where = [f"data.corpus={corpus_path}", f"hydra.run.dir={folder}/run"]
        with monkeypatch.context() as patched:
            patched.setattr(LanguageModelTask, f"{kind}_step", step)
            try:
                run_training(*SMALL, *where, *options)
            except SystemExit as stopped:
                return int(stopped.code or 0)
        return 0

    return here


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, corpus_path: Path) -> Path:
    """The folder of an uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    run_training(*SMALL, f"data.corpus={corpus_path}", f"hydra.run.dir={folder}/run")
    return folder


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The environment of a SLURM job; the calls of scontrol are logged in the returned file."""
    calls, command = tmp_path / "scontrol.txt", tmp_path / "bin" / "scontrol"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\necho "$@" >> {calls}\nls run/run/checkpoints/last.ckpt >> {calls}\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")
    for name, value in {
        "JOB_ID": "123",
        "JOB_NAME": "x",
        "NTASKS": "1",
        "PROCID": "0",
        "LOCALID": "0",
        "NODEID": "0",
    }.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    return calls


@pytest.mark.parametrize("number", EACH)
def test_a_signal_within_an_accumulated_step_loses_no_batch(
    number: signal.Signals, here: Callable[..., int], whole: Path, slurm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The step is finished, SLURM requeues the job, and the resumed run ends like an uninterrupted one."""
    before = [signal.getsignal(each) for each in ANY[2:]]
    capsys.readouterr()
    assert here(batch=8, numbers=(number,)) == 128 + number
    first, line = capsys.readouterr().err.splitlines()
    assert first == "stopping after this step; press Ctrl-C again to stop at once"
    assert line == f"stopped at step 3; to resume: ckpt_path={Path('run/run/checkpoints/last.ckpt').resolve()}"
    assert checkpoint(Path("run"), "last.ckpt")["global_step"] == 3
    requeued = number in (signal.SIGUSR1, signal.SIGUSR2)
    assert slurm.exists() == requeued
    if requeued:  # once, after the checkpoint was written
        assert slurm.read_text().splitlines() == ["requeue 123", "run/run/checkpoints/last.ckpt"]
    assert here() == 0
    assert differences(*(checkpoint(x, "last.ckpt") for x in (Path("run"), whole))) == []
    assert curve(Path("run")) == curve(whole)
    assert [signal.getsignal(each) for each in ANY[2:]] == before


def test_an_array_job_is_requeued_by_its_own_number(
    here: Callable[..., int], slurm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "77")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "4")
    assert here(batch=1, numbers=(signal.SIGUSR1,)) == 128 + signal.SIGUSR1
    assert slurm.read_text().splitlines()[0] == "requeue 77_4"


def test_a_failed_requeue_is_reported_and_leaves_the_checkpoint(
    here: Callable[..., int], slurm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = slurm.parent / "bin" / "scontrol"
    command.write_text("#!/bin/sh\nexit 1\n")
    assert here(batch=1, numbers=(signal.SIGUSR1,)) == 128 + signal.SIGUSR1
    assert "job 123 could not be requeued" in capsys.readouterr().err
    assert checkpoint(Path("run"), "last.ckpt")["global_step"] == 1


@pytest.mark.parametrize("kind", [pytest.param("validation", marks=pytest.mark.slow), "training"])
def test_a_run_finishes_a_validation_that_has_started_or_is_due_before_it_stops(
    kind: str, here: Callable[..., int], whole: Path
) -> None:
    """Its result is in the checkpoint and the curve."""
    assert here(kind=kind, batch=12 if kind == "training" else 1, numbers=(signal.SIGTERM,)) == 143
    stopped = checkpoint(Path("run"), "last.ckpt")
    assert stopped["global_step"] == 4
    best = next(value for name, value in stopped["callbacks"].items() if name.startswith("ModelCheckpoint"))
    rows = [row for row in curve(Path("run")) if "valid/perplexity" in row]
    assert len(rows) == 1
    assert float(best["best_model_score"]) == pytest.approx(float(rows[0]["valid/perplexity"]))
    assert here() == 0
    assert differences(*(checkpoint(x, "last.ckpt") for x in (Path("run"), whole))) == []
    assert curve(Path("run")) == curve(whole)


@pytest.mark.parametrize("first", EACH[:2])
def test_a_second_ctrl_c_stops_at_once(first: int, here: Callable[..., int]) -> None:
    assert here(batch=11, numbers=(first, signal.SIGINT), kind="training") == 130
    assert not Path("run/run/checkpoints/last.ckpt").exists()
    assert here(batch=7, numbers=(signal.SIGTERM,)) == 143  # the folder can be used again
    assert checkpoint(Path("run"), "last.ckpt")["global_step"] == 3


@pytest.mark.parametrize("number", EACH[:2])
def test_a_run_stopped_during_its_test_resumes_to_the_same_results(
    number: int, here: Callable[..., int], whole: Path
) -> None:
    assert here(kind="test", batch=2, numbers=(number,)) == 128 + number
    assert not Path("run/run/results.json").exists()
    assert here() == 0
    one, two = (json.loads((x / "run" / "results.json").read_text()) for x in (Path("run"), whole))
    assert one == two
    assert curve(Path("run")) == curve(whole)


@pytest.mark.slow
def test_a_signal_before_a_validation_within_an_accumulated_step_loses_no_batch(here: Callable[..., int]) -> None:
    """The step is finished first."""
    options = ["trainer.val_check_interval=4"]  # batches, of which three make a step
    assert here(*options, folder="other") == 0
    assert here(*options, batch=4, numbers=(signal.SIGTERM,)) == 143
    assert here(*options) == 0
    one, two = (checkpoint(Path(x), "last.ckpt") for x in ("run", "other"))
    for name in ("state_dict", "optimizer_states", "TremblDataModule"):
        assert differences(one[name], two[name]) == []
