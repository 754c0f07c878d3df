"""Starts the runs of a comparison in order, several at a time, stops and resumes them, and reads what they wrote."""

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from benchmarks.quality.recipe import EFFORT, Comparison, Run
from protlm.errors import counted

ROOT = Path(__file__).parents[2]
"""`benchmarks` can be imported from here."""
POLL = 0.1
"""Seconds between two checks of the running processes."""


class Effort(Callback):
    """Writes the seconds of all training steps, without validation and data loading, and the number of parameters.

    Args:
        path: the JSON file, written when training ends.
    """

    def __init__(self, path: str) -> None:
        self.path, self._seconds, self._start = Path(path), 0.0, 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self._seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._seconds = state_dict["seconds"]

    def on_train_batch_start(self, *_: Any) -> None:
        self._start = time.perf_counter()

    def on_train_batch_end(self, *_: Any) -> None:
        self._seconds += time.perf_counter() - self._start

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        parameters = sum(weight.numel() for weight in pl_module.parameters())
        self.path.write_text(json.dumps({"seconds": self._seconds, "parameters": parameters}) + "\n")


def run_all(runs: Sequence[Run], comparison: Comparison, jobs: int = 1) -> int:
    """Trains the runs that are not done, in order. A signal stops them at a checkpoint; the same call resumes them.

    Args:
        runs: all of them in the comparison.
        comparison: their recipes and the work folder.
        jobs: number of runs at a time, which share the threads.

    Returns:
        0, or 1 if a run failed, or 128 + the number of the signal.
    """
    failed, left, work = 0, list(runs), comparison.work
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // jobs))}
    running: dict[str, subprocess.Popen[bytes]] = {}
    stopped: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handled = [number for number in numbers if signal.getsignal(number) != signal.SIG_IGN]  # nohup ignores SIGHUP
    before = {number: signal.signal(number, lambda number, frame: stopped.append(number)) for number in handled}
    try:
        while (left or running) and not stopped:
            while left and len(running) < jobs and not stopped:
                run = left.pop(0)
                if comparison.is_done(run.name):
                    print(f"{run.name}: already done", flush=True)
                else:
                    resume = not comparison.changes(run.name)
                    running[run.name] = _start(run, (work / run.name).resolve(), resume, environment)
            for name, process in list(running.items()):
                if process.poll() is not None:
                    del running[name]
                    failed += _ended(name, work / name, process.returncode)
            time.sleep(POLL)
        if stopped and (left or running):
            print(f"stopping; {counted(len(left) + len(running), 'run')} left; the same command resumes", flush=True)
            for process in running.values():
                process.send_signal(signal.SIGTERM)
            for process in running.values():
                process.wait()
            return 128 + stopped[0]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return min(1, failed)


def _start(run: Run, folder: Path, resume: bool, environment: dict[str, str]) -> "subprocess.Popen[bytes]":
    folder.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "protlm.train", *run.arguments(folder)]
    if resume:  # otherwise protlm.train sets the files of an earlier run aside
        command.append("ckpt_path=auto")
    print(f"{run.name}: {'resumes' if resume else 'starts'}", flush=True)
    with folder.with_suffix(".log").open("ab") as log:
        # a separate session, so that only `run_all` receives Ctrl-C and passes it on once
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)


def _ended(name: str, folder: Path, code: int) -> bool:
    """Prints how a run ended; true if it failed."""
    if code:
        log = folder.with_suffix(".log")
        said = log.read_text(errors="replace").strip().splitlines() or [""]
        print(f"{name}: failed with code {code}: {said[-1]} ({log})", flush=True)
        return True
    results = json.loads((folder / "results.json").read_text())
    seconds = json.loads((folder / EFFORT).read_text())["seconds"]
    figures = ", ".join(f"{split} {100 * row['accuracy']:.2f} %" for split, row in results.items())
    print(f"{name}: {figures}; {seconds:.0f} s of training", flush=True)
    return False


def read_curve(folder: Path) -> list[dict[str, float]]:
    """The validations of a run: steps, accuracy, perplexity, and the same of the unigram baseline.

    Raises:
        OSError, ValueError, LookupError: if the metrics are missing or damaged.
    """
    with (folder / "metrics" / "metrics.csv").open(newline="") as file:
        reader = csv.DictReader(file)
        if "step" not in (reader.fieldnames or ()):
            raise ValueError("metrics.csv has no column step")
        rows = [row for row in reader if row.get("valid/accuracy")]
    names = ("accuracy", "perplexity", "unigram_accuracy", "unigram_perplexity")
    # Lightning numbers steps from 0
    return [{"step": int(row["step"]) + 1, **{name: float(row[f"valid/{name}"]) for name in names}} for row in rows]


def residues_seen(folder: Path) -> float:
    """Residues trained on, as last logged; NaN if none were."""
    with (folder / "metrics" / "metrics.csv").open(newline="") as file:
        values = [row["train/residues"] for row in csv.DictReader(file) if row.get("train/residues")]
    return float(values[-1]) if values else math.nan
