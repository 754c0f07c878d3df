"""Multiruns through plugins: SLURM, with stand-ins for its commands, and Optuna's search."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir

from protlm.training import from_config  # noqa: F401 - it registers the schema
from protlm.training.options import CONF
from tests.tiny import FAST, run_training

OPTIONS = [*FAST, "data.token_budget=2000", "hydra.sweep.dir=sweep"]

SLURM = {
    # keeps the script, replies like SLURM, and runs the array here; requeued jobs run again
    "sbatch": """
cp "$1" "$FAKE/submitted.sh"
echo "Submitted batch job 123"
export SLURM_ARRAY_JOB_ID=123 SLURM_JOB_NUM_NODES=1 SLURM_NNODES=1 SLURM_JOB_NODELIST=localhost SLURM_NODEID=0
export SLURM_NTASKS=1 SLURM_NTASKS_PER_NODE=1 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_JOB_NAME=protlm
last=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\)%.*/\\1/p' "$1")
for task in $(seq 0 "$last"); do
  (
    export SLURM_ARRAY_TASK_ID=$task SLURM_JOB_ID=$((124 + task))
    bash "$FAKE/submitted.sh"
    while rm "$FAKE/requeue_123_$task"; do bash "$FAKE/submitted.sh"; done
  ) > /dev/null 2>&1 &
done
""",
    # srun --unbuffered --output FILE --error FILE COMMAND
    "srun": """
file() { echo "$1" | sed "s/%A/123/g; s/%a/$SLURM_ARRAY_TASK_ID/g; s/%t/0/g"; }
mkdir -p "$(dirname "$(file "$3")")"
echo $$ >> "$FAKE/processes_$SLURM_ARRAY_TASK_ID"
exec "${@:6}" >> "$(file "$3")" 2>> "$(file "$5")"
""",
    # scontrol requeue JOB; keeps a copy of the current checkpoint
    "scontrol": """
cp sweep/0/checkpoints/last.ckpt "$FAKE/stopped.ckpt"
touch "$FAKE/requeue_$2"
""",
    "sacct": "echo 'JobID|State|NodeList'",
}


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Puts the stand-ins on the PATH; returns the folder with their records."""
    commands, folder = tmp_path / "bin", tmp_path / "slurm"
    commands.mkdir()
    folder.mkdir()
    for name, text in SLURM.items():
        (commands / name).write_text(f"#!/bin/bash\n{text}")
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE", str(folder))
    return folder


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, corpus_path: Path) -> list[str]:
    """A multirun of a tiny model."""
    monkeypatch.chdir(tmp_path)
    return [sys.executable, "-m", "protlm.train", "-m", *OPTIONS, f"data.corpus={corpus_path}"]


def launcher(*overrides: str) -> dict:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return compose("config", list(overrides), return_hydra_config=True).hydra.launcher


def test_slurm_has_one_process_per_device() -> None:
    config = launcher("hydra/launcher=slurm")
    assert config._target_.endswith("SlurmLauncher")
    assert (config.nodes, config.gpus_per_node, config.tasks_per_node) == (1, 1, 1)
    assert config.max_num_timeout > 0 < config.signal_delay_s
    config = launcher("hydra/launcher=slurm", "trainer.num_nodes=2", "hydra.launcher.gpus_per_node=8")
    assert (config.nodes, config.gpus_per_node, config.tasks_per_node) == (2, 8, 8)
    assert launcher("hydra/launcher=local")._target_.endswith("LocalLauncher")


@pytest.mark.slow
def test_slurm_jobs_train_and_resume_after_a_signal(slurm: Path, command: list[str]) -> None:
    """The first of two jobs gets SIGUSR2, as before its time limit, and finishes like the other."""
    options = ["hydra/launcher=slurm", "seed=1,2", "trainer.max_steps=100", "trainer.val_check_interval=100"]
    options += ["hydra.launcher.partition=gpu", "+hydra.launcher.additional_parameters.nice=5", "ckpt_path=auto"]
    options += ["trainer.log_every_n_steps=1"]
    with subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True) as process:
        while not Path("sweep/0/metrics/metrics.csv").exists() and process.poll() is None:
            time.sleep(0.02)
        assert process.poll() is None, process.communicate()
        os.kill(int((slurm / "processes_0").read_text()), signal.SIGUSR2)
        _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    lines = (slurm / "submitted.sh").read_text().splitlines()
    expected = "array=0-1%2 job-name=protlm nodes=1 gpus-per-node=1 ntasks-per-node=1 cpus-per-task=4 mem=32GB"
    for option in (*expected.split(), "time=1440", "signal=USR2@300", "requeue", "partition=gpu", "nice=5"):
        assert f"#SBATCH --{option}" in lines
    steps = [torch.load(f"sweep/{job}/checkpoints/last.ckpt", weights_only=True)["global_step"] for job in (0, 1)]
    assert steps == [100, 100]
    assert 0 < torch.load(slurm / "stopped.ckpt", weights_only=True)["global_step"] < 100
    assert [len((slurm / f"processes_{job}").read_text().split()) for job in (0, 1)] == [2, 1]


@pytest.mark.slow
def test_an_error_in_a_job_is_reported(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_training(*command[3:], "hydra/launcher=local", "model.heads=3")
    assert stopped.value.code == 2
    errors = capsys.readouterr().err
    assert "heads" in errors.splitlines()[-1]
    assert "Traceback" not in errors


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # from Optuna
def test_optuna_finds_the_lowest_perplexity(command: list[str]) -> None:
    options = ["hydra/sweeper=search", "hydra.sweeper.n_trials=2", "hydra.sweeper.storage=sqlite:///search.db"]
    options += ["hydra.sweeper.study_name=test", "trainer.max_steps=2", "trainer.val_check_interval=2"]
    run_training(*command[3:], *options)
    perplexity = {}
    for trial in (0, 1):
        overrides = yaml.safe_load(Path(f"sweep/{trial}/.hydra/overrides.yaml").read_text())
        values = dict(override.split("=") for override in overrides)
        values = {name: float(values[name]) for name in ("optimizer.lr", "model.dropout")}
        assert 3e-4 <= values["optimizer.lr"] <= 1e-2
        assert 0 <= values["model.dropout"] <= 0.2
        with open(f"sweep/{trial}/metrics/metrics.csv") as file:
            (row,) = (row for row in csv.DictReader(file) if row["valid/perplexity"])
        perplexity[float(row["valid/perplexity"])] = values
    best = yaml.safe_load(Path("sweep/optimization_results.yaml").read_text())
    assert best["best_value"] == pytest.approx(min(perplexity))
    assert best["best_params"] == perplexity[min(perplexity)]
    assert Path("search.db").exists()


@pytest.mark.slow
def test_a_missing_extra_is_named_in_one_line(command: list[str]) -> None:
    code = """
import contextlib, sys
sys.modules["hydra_plugins"] = None
from protlm.train import main
for choice in ("hydra/launcher=slurm", "hydra/sweeper=search"):
    sys.argv[1:] = ["-m", choice]
    with contextlib.suppress(SystemExit):
        main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    launcher, sweeper = done.stderr.splitlines()
    assert launcher.startswith("error: ")
    assert "submitit" in launcher
    assert sweeper.startswith("error: ")
    assert "optuna" in sweeper
