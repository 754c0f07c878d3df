"""Curves on disk: a resumed run has one curve, whatever a kill has left; wandb never disturbs training."""

import csv
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from hypothesis import given
from hypothesis import strategies as st
from lightning_fabric.utilities.rank_zero import rank_zero_only
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from protlm.checkpoint import KEY, PREFIX, description, load
from protlm.training import from_config  # noqa: F401 - it registers the schema
from protlm.training.loggers import CsvLogger, RunLogger, TensorBoardLogger, WandbLogger
from protlm.training.options import CONF

RESULTS = {
    split: {"accuracy": 0.1, "unigram_accuracy": 0.09, "perplexity": 17.0, "unigram_perplexity": 18.0}
    for split in ("test", "ood")
}
PARAMS = {"config": {"model": {"layers": 2}}, "git_commit": "0123abc", "corpus_fingerprint": "f00"}


def log(logger: RunLogger, steps: range, offset: float = 0.0) -> None:
    for step in steps:
        logger.log_metrics({"train/loss": step + offset}, step)
        logger.save()


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


@given(cut=st.integers(0, 200), start=st.integers(0, 12))
def test_a_csv_truncated_anywhere_continues_as_one_curve(cut: int, start: int, fresh: Callable[[], Path]) -> None:
    folder = fresh()
    log(CsvLogger(folder), range(10))
    path = folder / "metrics.csv"
    whole = path.read_text()
    path.write_text(whole[:cut])
    left = whole[:cut].count("\n") - 1
    log(CsvLogger(folder), range(start, start + 3), 0.5)
    steps = [int(row["step"]) for row in rows(folder)]
    assert steps == [*range(min(max(left, 0), start)), *range(start, start + 3)]
    assert all(float(row["train/loss"]) == int(row["step"]) + 0.5 * (int(row["step"]) >= start) for row in rows(folder))
    assert [path.name for path in folder.iterdir()] == ["metrics.csv"]


def test_csv_rows_are_on_disk_at_once_and_survive_new_columns(tmp_path) -> None:
    logger = CsvLogger(tmp_path / "metrics")
    assert not list(tmp_path.iterdir())
    logger.log_metrics({"train/loss": 3.0}, 0)
    assert rows(logger.folder) == [{"step": "0", "train/loss": "3.0"}]
    logger.log_metrics({"valid/accuracy": 0.1}, 1)
    logger.log_metrics({"train/loss": 2.0}, 2)
    expected = [("0", "3.0", ""), ("1", "", "0.1"), ("2", "2.0", "")]
    assert [tuple(row.values()) for row in rows(logger.folder)] == expected
    logger = CsvLogger(logger.folder)
    logger.log_metrics({"test/accuracy": 0.2}, 2)
    assert list(rows(logger.folder)[0]) == ["step", "train/loss", "valid/accuracy", "test/accuracy"]
    assert [tuple(row.values()) for row in rows(logger.folder)] == [
        ("0", "3.0", "", ""),
        ("1", "", "0.1", ""),
        ("2", "", "", "0.2"),
    ]


def test_a_csv_restarted_at_its_first_step_is_replaced(tmp_path) -> None:
    CsvLogger(tmp_path).log_metrics({"old": 1.0}, 5)
    CsvLogger(tmp_path).log_metrics({"new": 1.0}, 5)
    assert rows(tmp_path) == [{"step": "5", "new": "1.0"}]


def test_tensorboard_shows_one_curve(tmp_path) -> None:
    folder = tmp_path / "tensorboard"
    for steps, offset in ((range(10), 0.0), (range(6, 12), 0.5)):
        logger = TensorBoardLogger(folder)
        logger.log_hyperparams(PARAMS)
        logger.save()
        log(logger, steps, offset)
        logger.finalize("success")
        time.sleep(1.1)  # TensorBoard orders the files by name, which has a resolution of one second
    logger.log_metrics({"test/accuracy": 0.2}, 12)  # Lightning closes the logger before a test
    logger.finalize("success")
    events = EventAccumulator(str(folder)).Reload()
    curve = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert curve == [(step, step + 0.5 * (step >= 6)) for step in range(12)]
    assert [event.step for event in events.Scalars("test/accuracy")] == [12]
    assert any(b"0123abc" in event.tensor_proto.string_val[0] for event in events.Tensors("run/text_summary"))


@pytest.fixture
def no_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("NETRC", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name))


def records(folder: Path) -> Iterator[object]:
    """The records in wandb's files: protocol buffers in the log format of LevelDB."""
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    wandb.teardown()  # waits until the file is complete
    for path in sorted(folder.glob("wandb/*run-*/*.wandb")):
        data, at, message = path.read_bytes(), 7, b""
        while at + 7 <= len(data):
            if 32768 - at % 32768 < 7:
                at += 32768 - at % 32768
            size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
            message += data[at + 7 : at + 7 + size]
            at += 7 + size
            if kind in (1, 4):  # a full record, or its last part
                yield Record.FromString(message)
                message = b""


def history(folder: Path) -> list[dict[str, object]]:
    return [
        {(item.key or item.nested_key[0]): json.loads(item.value_json) for item in record.history.item}
        for record in records(folder)
        if record.WhichOneof("record_type") == "history"
    ]


@pytest.mark.slow
def test_wandb_without_a_login_keeps_everything_on_disk(tmp_path, capsys, no_login, tiny_model) -> None:
    checkpoint = tmp_path / "best.ckpt"
    weights = {PREFIX + name: tensor for name, tensor in tiny_model.state_dict().items()}
    torch.save({KEY: description(tiny_model.config), "state_dict": weights}, checkpoint)
    logger = WandbLogger(tmp_path / "run", log_model=True)
    logger.log_hyperparams(PARAMS)
    assert not (tmp_path / "run").exists()
    log(logger, range(5))
    logger.finalize("success")  # as Lightning does after training
    logger.log_metrics({"test/accuracy": 0.1}, 5)
    logger.finalize("success")
    logger.log_results(RESULTS, str(checkpoint))
    printed = capsys.readouterr().out
    assert printed.count("\n") == 1
    assert printed.startswith("wandb: offline (no login); upload the run later with: wandb sync ")
    curve = [(row["_step"], row["train/loss"]) for row in history(tmp_path / "run") if "train/loss" in row]
    assert curve == [(step, float(step)) for step in range(5)]
    assert history(tmp_path / "run")[-1]["test/accuracy"] == 0.1
    config = {
        update.key or update.nested_key[0]: json.loads(update.value_json)
        for record in records(tmp_path / "run")
        for update in [*record.config.update, *record.run.config.update]
    }
    assert config.items() >= PARAMS.items()
    (table,) = (tmp_path / "run").glob("wandb/offline-run-*/files/media/table/*.json")
    content = json.loads(table.read_text())
    assert content["columns"] == ["split", *RESULTS["test"]]
    assert content["data"] == [[split, *row.values()] for split, row in RESULTS.items()]
    models = [record.artifact for record in records(tmp_path / "run") if record.artifact.type == "model"]
    files = {entry.path: entry.local_path for entry in models[0].manifest.contents}
    assert set(files) == {"config.json", "golden.safetensors", "model.safetensors"}
    copy = tmp_path / "copy"
    copy.mkdir()
    for name, path in files.items():
        (copy / name).write_bytes(Path(path).read_bytes())
    assert load(copy).config == tiny_model.config


@pytest.mark.slow
def test_wandb_resumes_the_run_of_the_folder(tmp_path, no_login) -> None:
    def part(steps: range) -> str:
        logger = WandbLogger(tmp_path)
        log(logger, steps)
        logger.finalize("failed")
        return json.loads((tmp_path / "wandb" / "run.json").read_text())["id"]

    first, second = part(range(2, 8)), part(range(4, 11))
    assert first == second
    steps = [row["_step"] for row in history(tmp_path)]
    assert steps == [*range(2, 8), *range(4, 11)]  # twice, since a kill may lose rows that wandb has not written yet
    assert part(range(2, 4)) != first  # started from scratch


@pytest.mark.slow
def test_an_error_of_wandb_is_reported_once(tmp_path, capsys, monkeypatch, no_login) -> None:
    import wandb

    logger = WandbLogger(tmp_path)
    log(logger, range(2))
    capsys.readouterr()

    def broken(*args: object, **kwargs: object) -> None:
        raise BrokenPipeError("no more\nlines")

    monkeypatch.setattr(wandb.Run, "log", broken)
    log(logger, range(2, 5))
    monkeypatch.setattr(wandb.Run, "_atexit_cleanup", broken)
    logger.log_results(RESULTS, None)
    assert capsys.readouterr().out.startswith("wandb: stopped (no more); training continues")
    monkeypatch.setattr(wandb, "init", broken)
    other = WandbLogger(tmp_path / "other")
    log(other, range(3))
    other.finalize("failed")
    assert capsys.readouterr().out.count("\n") == 1


SCRIPT = """
import sys, time
from protlm.training.loggers import WandbLogger
began = time.monotonic()
logger = WandbLogger(sys.argv[1], init_timeout=2, finish_timeout=2)
for step in range(3):
    logger.log_metrics({"train/loss": 1.0}, step)
logger.log_results({"test": {"accuracy": 0.1}}, None)
assert time.monotonic() - began < 20
"""


@pytest.mark.slow
def test_wandb_continues_offline_if_the_server_does_not_answer(tmp_path, no_login, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        processes = {}
        for name, port in (("refused", 9), ("silent", silent.getsockname()[1])):
            environment = {**os.environ, "WANDB_BASE_URL": f"http://127.0.0.1:{port}"}
            environment.pop("WANDB_SERVICE", None)  # wandb's service process of this one
            processes[name] = subprocess.Popen(
                [sys.executable, "-c", SCRIPT, str(tmp_path / name)],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        for name, process in processes.items():
            printed, _ = process.communicate(timeout=60)
            assert process.returncode == 0, printed
            assert "Traceback" not in printed
            assert printed.count("wandb: offline (") == 1
            assert [row["_step"] for row in history(tmp_path / name)] == [0, 1, 2]


def test_nothing_happens_on_other_ranks(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    for logger in (CsvLogger(tmp_path), TensorBoardLogger(tmp_path), WandbLogger(tmp_path)):
        logger.log_hyperparams(PARAMS)
        log(logger, range(3))
        logger.log_results(RESULTS, None)
        logger.finalize("failed")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("csv", [CsvLogger]),
        ("tensorboard", [TensorBoardLogger]),
        ("[csv,wandb]", [CsvLogger, WandbLogger]),
        ("[csv,tensorboard,wandb]", [CsvLogger, TensorBoardLogger, WandbLogger]),
        ("[]", []),
    ],
)
def test_any_combination_can_be_chosen(choice: str, expected: list[type], tmp_path) -> None:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        config = compose("config", [f"logger={choice}", "++hydra.runtime.output_dir=x"], return_hydra_config=True)
    config.hydra.runtime.output_dir = str(tmp_path)
    from hydra.core.hydra_config import HydraConfig

    HydraConfig.instance().set_config(config)
    loggers = [instantiate(node) for node in (config.get("logger") or {}).values() if node]
    assert [type(logger) for logger in loggers] == expected
    assert all(Path(logger.save_dir).is_relative_to(tmp_path) for logger in loggers)
    assert not list(tmp_path.iterdir())
