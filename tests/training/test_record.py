"""The record in a run folder is enough to repeat the run."""

import importlib.metadata
import json
import os
import shlex
import signal
import time
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from protlm.corpus.reader import Corpus
from protlm.errors import UserError
from protlm.training.run import PACKAGES, is_first, lock_run_folder, write_run
from tests.tiny import FAST, run_training

OPTIONS = [
    *FAST,
    "model.dropout=0.2",
    "data.token_budget=900",
    "trainer.max_steps=3",
]


def test_the_recorded_command_makes_the_same_weights(monkeypatch, tmp_path, corpus_path) -> None:
    """Even with characters that are special in a shell."""
    monkeypatch.chdir(tmp_path)
    odd = tmp_path / "it's a corpus; $HOME (1).h5"
    odd.symlink_to(corpus_path)
    quoted = str(odd).replace("'", "\\'")
    run_training(*OPTIONS, f"data.corpus='{quoted}'", "seed=7", "optimizer=muon", "hydra.run.dir=one")
    about = json.loads(Path("one/run.json").read_text())
    python, m, module, *arguments = shlex.split(about["command"])
    assert (python, m, module) == ("python", "-m", "protlm.train")
    run_training(*[x for x in arguments if not x.startswith("hydra.run.dir")], "hydra.run.dir=two")
    one, two = (torch.load(f"{x}/checkpoints/last.ckpt", weights_only=True)["state_dict"] for x in ("one", "two"))
    assert all(torch.equal(weight, two[name]) for name, weight in one.items())
    run_training(*OPTIONS, f"data.corpus='{quoted}'", "seed=8", "optimizer=muon", "hydra.run.dir=three")
    three = torch.load("three/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert not torch.equal(one["model.head.weight"], three["model.head.weight"])


def test_a_run_records_its_configuration_versions_and_data(monkeypatch, tmp_path, corpus_path) -> None:
    monkeypatch.chdir(tmp_path)
    common = [*OPTIONS, f"data.corpus={corpus_path}", "hydra.run.dir=run"]
    run_training(*common, "seed=5")
    about = json.loads(Path("run/run.json").read_text())
    assert about["seed"] == about["config"]["seed"] == 5
    assert about["versions"] == {
        **about["versions"],
        **{name: importlib.metadata.version(name) for name in PACKAGES},
    }
    assert about["corpus_fingerprint"] == [Corpus(corpus_path).fingerprint]
    assert about["config"]["optimizer"]["betas"] == [0.9, 0.98]
    assert about["resumed_from"] is None
    config = OmegaConf.to_container(OmegaConf.load("run/config.yaml"))
    assert config == about["config"]  # fully resolved
    assert config["model"]["feature_seed"] == 5
    assert about["earlier"] == []


def test_a_resumed_run_keeps_the_earlier_records(monkeypatch, tmp_path, corpus_path) -> None:
    monkeypatch.chdir(tmp_path)
    common = [*OPTIONS, f"data.corpus={corpus_path}", "schedule=constant", "hydra.run.dir=run", "ckpt_path=auto"]
    for steps in (1, 2, 3):
        run_training(*common, f"trainer.max_steps={steps}")
    about = json.loads(Path("run/run.json").read_text())
    assert about["resumed_from"].endswith("run/checkpoints/last.ckpt")
    assert [before["config"]["trainer"]["max_steps"] for before in about["earlier"]] == [1, 2]
    assert all("earlier" not in before for before in about["earlier"])


@pytest.mark.parametrize("change", ["optimizer.lr=0.5", "model.width=32", "optimizer=adamw"])
def test_a_refused_resume_keeps_the_records(change, monkeypatch, tmp_path, corpus_path) -> None:
    """They say what ran."""
    monkeypatch.chdir(tmp_path)
    common = [*OPTIONS, f"data.corpus={corpus_path}", "hydra.run.dir=run", "ckpt_path=auto"]
    run_training(*common)
    records = {name: Path("run", name).read_bytes() for name in ("run.json", "config.yaml")}
    with pytest.raises(SystemExit) as stopped:
        run_training(*common, "trainer.max_steps=9", change)
    assert stopped.value.code == 2
    assert {name: Path("run", name).read_bytes() for name in records} == records


def test_a_run_without_steps_left_is_recorded(monkeypatch, tmp_path, corpus_path) -> None:
    monkeypatch.chdir(tmp_path)
    common = [*OPTIONS, f"data.corpus={corpus_path}"]
    run_training(*common, "hydra.run.dir=one")
    run_training(*common, "hydra.run.dir=two", "ckpt_path=one/checkpoints/last.ckpt")
    about = json.loads(Path("two/run.json").read_text())
    assert (about["steps"], about["resumed_from"]) == (3, "one/checkpoints/last.ckpt")


@pytest.mark.parametrize("content", ["", '{"seed": 1'])
def test_a_record_truncated_by_a_kill_is_replaced(content: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(content)
    write_run({"seed": 2, "resumed_from": "last.ckpt"}, tmp_path)
    assert json.loads((tmp_path / "run.json").read_text()) == {"seed": 2, "resumed_from": "last.ckpt", "earlier": []}


def test_the_run_folder_holds_no_secrets_of_the_environment(monkeypatch, tmp_path, corpus_path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_API_KEY", "hush" * 10)
    run_training(*OPTIONS, f"data.corpus={corpus_path}", "logger=[]", "hydra.run.dir=run")
    texts = [path.read_bytes() for path in Path("run").rglob("*") if path.is_file()]
    assert len(texts) > 3
    assert not any(b"hushhush" in text for text in texts)


def test_a_second_run_is_kept_out_of_a_folder_and_removes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / ".hydra").mkdir(parents=True)
    with lock_run_folder(folder, remove_unused=True):
        with (
            pytest.raises(UserError, match="another run is writing there"),
            lock_run_folder(folder, remove_unused=True),
        ):
            pass
        assert (folder / ".hydra").exists()
        (folder / "run.json").touch()
    with lock_run_folder(folder, remove_unused=True):  # the lock ends with the run
        (folder / "run.json").unlink()
    assert not folder.exists()


def test_a_worker_that_survives_its_run_does_not_keep_the_lock(tmp_path: Path) -> None:
    heard, says = os.pipe()
    with lock_run_folder(tmp_path, remove_unused=False):
        worker = os.fork()
        if not worker:
            os.write(says, b"here")
            time.sleep(60)
            os._exit(0)
        os.read(heard, 4)
    try:
        with lock_run_folder(tmp_path, remove_unused=False):
            pass
    finally:
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)


@pytest.mark.parametrize(
    ("environment", "first"),
    [
        ({}, True),
        ({"RANK": "0", "LOCAL_RANK": "0", "SLURM_PROCID": "1"}, True),  # torchrun decides
        ({"RANK": "8", "LOCAL_RANK": "0"}, False),
        ({"LOCAL_RANK": "1", "NODE_RANK": "0", "SLURM_PROCID": "0"}, False),  # in a SLURM shell
        ({"NODE_RANK": "1"}, False),
        ({"SLURM_PROCID": "3"}, False),
    ],
)
def test_only_rank_zero_is_first(environment: dict[str, str], first: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert is_first() == first
