"""What Lightning offers and cannot work here is refused at once, in one line."""

from pathlib import Path

import pytest
from pytorch_lightning.callbacks import Callback, EarlyStopping, EMAWeightAveraging, ModelCheckpoint

from protlm.errors import UserError
from protlm.training.supported import METRICS, check_callbacks, check_loggers, check_options
from tests.tiny import FAST, run_training

THEIRS = "pytorch_lightning.callbacks"


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ({"max_time": 8}, "trainer.max_time 8: expected DD:HH:MM:SS"),
        ({"max_time": "8:00:00"}, "trainer.max_time 8:00:00: expected DD:HH:MM:SS"),
        ({"overfit_batches": 2}, "trainer.overfit_batches: is not supported"),
        ({"use_distributed_sampler": True}, "trainer.use_distributed_sampler: expected false"),
        ({"strategy": "ddp_spawn"}, "trainer.strategy ddp_spawn: expected ddp"),
        ({"strategy": "ddp_find_unused_parameters_true_fork"}, "expected ddp"),
    ],
)
def test_options_of_the_trainer(option: dict, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        check_options(1, option)


@pytest.mark.parametrize("option", [{"max_time": "00:08:00:00"}, {"max_time": {"hours": 8}}, {"strategy": "ddp"}])
def test_valid_options_pass(option: dict) -> None:
    check_options(1, option)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([f"_target_={THEIRS}.LearningRateFinder"], "LearningRateFinder is not supported; compare learning rates"),
        ([f"_target_={THEIRS}.BatchSizeFinder"], "set the size of a batch with data.token_budget"),
        ([f"_target_={THEIRS}.StochasticWeightAveraging", "swa_lrs=0.1"], "average weights with callbacks=ema"),
        ([f"_target_={THEIRS}.EMAWeightAveraging"], "set callbacks.mine.use_buffers=false"),
        ([f"_target_={THEIRS}.EarlyStopping", "monitor=val_loss"], "callbacks.mine.monitor 'val_loss': is not logged"),
        ([f"_target_={THEIRS}.EarlyStopping", "monitor=valid/perplexty"], "did you mean valid/perplexity?"),
    ],
)
def test_callbacks(options: list[str], expected: str, capsys, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        run_training(*FAST, "data.corpus=none.h5", *(f"+callbacks.mine.{option}" for option in options))
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert expected in line


class Other(Callback):
    """Could log anything."""


def test_metrics_that_a_callback_of_ones_own_may_log_can_be_monitored() -> None:
    check_callbacks({"mine": EarlyStopping("mine"), "other": Other()})
    check_callbacks({"best": ModelCheckpoint(monitor=None), "stop": EarlyStopping(METRICS[0])})


def test_sharded_weights_are_not_averaged() -> None:
    average = {"ema": EMAWeightAveraging(use_buffers=False)}
    check_callbacks(average)
    with pytest.raises(UserError, match="callbacks.ema: weights cannot be averaged with trainer=fsdp"):
        check_callbacks(average, sharded=True)


def test_a_metric_that_is_never_logged_ends_the_run_in_one_line(monkeypatch, capsys, tmp_path, corpus_path) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["trainer.max_steps=2", "trainer.val_check_interval=1", f"data.corpus={corpus_path}"]
    options += ["+callbacks.other._target_=tests.training.test_supported.Other"]
    options += [f"+callbacks.early._target_={THEIRS}.EarlyStopping", "+callbacks.early.monitor=mine"]
    with pytest.raises(SystemExit) as stopped:
        run_training(*FAST, *options)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "`mine` which is not available" in line


def test_what_is_monitored_is_logged(monkeypatch, tmp_path, corpus_path) -> None:
    """Early stopping works, and a summary and a profile are printed on request."""
    monkeypatch.chdir(tmp_path)
    options = ["trainer.max_steps=4", "trainer.val_check_interval=1", f"data.corpus={corpus_path}", "hydra.run.dir=run"]
    stop = [f"+callbacks.early._target_={THEIRS}.EarlyStopping", "+callbacks.early.monitor=valid/accuracy"]
    stop += ["+callbacks.early.mode=max", "+callbacks.early.stopping_threshold=0", "+trainer.profiler=simple"]
    run_training(*FAST, *options, *stop, "trainer.log_every_n_steps=1", "task.skip_nonfinite=1")
    logged = Path("run/metrics/metrics.csv").read_text().splitlines()
    assert set(METRICS) <= set(logged[0].split(","))
    assert max(int(row.partition(",")[0]) for row in logged[1:]) == 1  # tested after one step
    assert "FIT Profiler Report" in Path("run/train.log").read_text()


def test_objects_that_are_not_callbacks_or_loggers_are_refused() -> None:
    """Lightning would fail at the first hook."""
    with pytest.raises(UserError, match=r"callbacks\.mine: expected a pytorch_lightning\.Callback, got dict"):
        check_callbacks({"mine": {}})
    with pytest.raises(UserError, match=r"logger: expected a pytorch_lightning\.loggers\.Logger, got dict"):
        check_loggers({"": {}})


@pytest.mark.parametrize("target", ["builtins.dict", "builtins.len"])
@pytest.mark.parametrize("name", ["model", "data", "task", "trainer", "optimizer", "schedule"])
def test_any_other_class_or_function_is_refused_in_one_line(name, target, monkeypatch, tmp_path, capsys) -> None:
    """Before anything is read or written."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        run_training(*FAST, f"{name}._target_={target}", "data.corpus=none.h5", "hydra.run.dir=run")
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {name}: ")
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_wrong_option_of_the_optimizer_leaves_the_folder_alone(monkeypatch, tmp_path, capsys, corpus_path) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    Path("run/results.json").write_text("{}")
    with pytest.raises(SystemExit):
        run_training(*FAST, "optimizer.lr=-1", f"data.corpus={corpus_path}", "hydra.run.dir=run")
    assert capsys.readouterr().err == "error: optimizer.lr -1: expected a non-negative number\n"
    assert Path("run/results.json").read_text() == "{}"
