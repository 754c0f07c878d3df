"""The user's own loggers, callbacks, optimizers and schedules, as in docs/extending/training.md, and those of torch."""

import csv
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from pytorch_lightning.callbacks import Callback

from protlm.checkpoint import load
from protlm.corpus.reader import Corpus
from protlm.inference.evaluate import evaluate
from tests.tiny import FAST, run_training

PAGE = Path(__file__).parents[2] / "docs" / "extending" / "training.md"
RUN = [*FAST, "data.token_budget=600", "trainer.log_every_n_steps=1", "hydra.run.dir=run"]


@pytest.fixture
def corpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, corpus_path: Path) -> str:
    """The option that names it, in an empty working directory."""
    monkeypatch.chdir(tmp_path)
    return f"data.corpus={corpus_path}"


@pytest.fixture
def my_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The page's files, in the folder that it names, on the path of modules."""
    folder, before = tmp_path / "my_run", set(sys.modules)
    blocks = re.findall(r"^```(?:python|yaml)\n# (\S+)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    for name, text in blocks:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.syspath_prepend(folder)
    yield folder
    for name in {Path(name).stem for name, _ in blocks} - before:
        sys.modules.pop(name, None)


def last() -> dict:
    return torch.load("run/checkpoints/last.ckpt", weights_only=True)


def test_the_pages_examples_train_resume_and_evaluate(my_run: Path, corpus: str, corpus_path: Path) -> None:
    """A resumed run ends bit for bit like an uninterrupted one; the model needs none of the files."""
    noise = ["+callbacks.noise._target_=gradient_noise.GradientNoise", "+callbacks.noise.every_n_steps=2"]
    options = ["--config-dir", my_run / "conf", *RUN, corpus, "logger=[csv,jsonl]", "optimizer=lion", *noise]
    options += ["schedule=inverse_sqrt", "schedule.warmup=2", "optimizer.lr=1e-2"]
    run_training(*options, "trainer.max_steps=4", "hydra.run.dir=whole")
    run_training(*options, "trainer.max_steps=2")
    run_training(*options, "trainer.max_steps=4", "ckpt_path=auto")
    whole = torch.load("whole/checkpoints/last.ckpt", weights_only=True)
    assert last()["global_step"] == whole["global_step"] == 4
    assert all(torch.equal(weight, whole["state_dict"][name]) for name, weight in last()["state_dict"].items())
    assert {tuple(state) for state in last()["optimizer_states"][0]["state"].values()} == {("momentum",)}
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    rates = [row["train/learning_rate"] for row in rows if "train/learning_rate" in row]
    assert rates == pytest.approx([0.5e-2, 1e-2, 1e-2 * (2 / 3) ** 0.5, 1e-2 * 0.5**0.5])
    assert len([row for row in rows if "train/gradient_noise" in row]) == 2
    assert rows[-1]["results"].keys() == {"test", "ood"}
    model = load("run/checkpoints/last.ckpt")
    assert evaluate(model, Corpus(corpus_path), max_length=64, seed=1)["test"]["perplexity"] > 1
    cycle = ["--config-dir", my_run / "conf", "schedule=one_cycle", "trainer.max_steps=2", "hydra.run.dir=cycle"]
    run_training(*RUN, corpus, *cycle)
    assert Path("cycle/checkpoints/last.ckpt").exists()


@pytest.mark.parametrize(
    ("schedule", "factors"),
    [
        ("{_target_: torch.optim.lr_scheduler.StepLR, step_size: 1, gamma: 0.5}", [1, 0.5, 0.25, 0.125]),
        ("{_target_: torch.optim.lr_scheduler.StepLR, _partial_: true, step_size: 2, gamma: 0.5}", [1, 1, 0.5, 0.5]),
        (
            "{_target_: torch.optim.lr_scheduler.ReduceLROnPlateau, patience: 0, factor: 0.5, threshold: 0.9}",
            [1, 1, 0.5, 0.25],
        ),
    ],
)
@pytest.mark.parametrize("optimizer", ["{_target_: torch.optim.SGD, lr: 0.1, momentum: 0.9}"])
def test_torchs_optimizers_and_schedulers_train_and_resume(
    schedule: str, factors: list[float], optimizer: str, corpus: str, tmp_path: Path
) -> None:
    for group, text in (("optimizer", optimizer), ("schedule", schedule)):
        (tmp_path / "conf" / group).mkdir(parents=True)
        (tmp_path / "conf" / group / "other.yaml").write_text(text)
    options = ["--config-dir", tmp_path / "conf", *RUN, corpus, "optimizer=other", "schedule=other"]
    options += ["trainer.val_check_interval=1"]
    run_training(*options, "trainer.max_steps=2")
    run_training(*options, "trainer.max_steps=4", "ckpt_path=auto")
    with open("run/metrics/metrics.csv") as file:
        rates = [float(row["train/learning_rate"]) for row in csv.DictReader(file) if row["train/learning_rate"]]
    assert rates == pytest.approx([0.1 * factor for factor in factors])


ADAMW = ["optimizer=adamw", "optimizer._target_=torch.optim.AdamW", "~optimizer.decay"]
SGD = ["optimizer._target_=torch.optim.SGD", "optimizer.lr=0.1", "optimizer.nesterov=true", "optimizer.momentum=0.9"]
STEP = ["schedule._target_=torch.optim.lr_scheduler.StepLR", "schedule.step_size=1"]
COSINE = ["schedule={_target_: torch.optim.lr_scheduler.CosineAnnealingLR, T_max: 4}"]
CSV = ["logger=[]", "+logger.theirs._target_=pytorch_lightning.loggers.CSVLogger", "+logger.theirs.save_dir=theirs"]
TARGET = ["logger._target_=pytorch_lightning.loggers.CSVLogger", "logger.save_dir=theirs"]
BOARD = ["logger={_target_: pytorch_lightning.loggers.TensorBoardLogger, save_dir: theirs}"]
RATES = ["+callbacks.rates._target_=pytorch_lightning.callbacks.LearningRateMonitor"]


@pytest.mark.parametrize(
    ("options", "first", "second"),
    [
        ([*SGD, *TARGET], 1e-3, 2e-3),
        ([*SGD, *STEP, *CSV], 0.1, 0.01),
        ([*ADAMW, *COSINE, *BOARD, *RATES], 2e-3, 1.707e-3),
    ],
)
def test_parts_of_torch_and_lightning_named_on_the_command_line_get_only_the_given_options(
    options: list[str], first: float, second: float, corpus: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run_training(*RUN, corpus, *options, "trainer.max_steps=2", "callbacks.lines.every_n_steps=1")
    rates = re.findall(r"learning rate (\S+),", capsys.readouterr().out)
    assert list(map(float, rates)) == pytest.approx([first, second], rel=1e-2)
    assert ("theirs" in " ".join(options)) == Path("theirs").exists()


@pytest.mark.parametrize("removed", ["schedule=null", "callbacks=null", "logger=null", "logger=false"])
def test_parts_can_be_left_out(removed: str, corpus: str, capsys: pytest.CaptureFixture[str]) -> None:
    own = [option for option in RUN if not option.startswith("callbacks.")] if "callbacks" in removed else RUN
    run_training(*own, corpus, removed, "trainer.max_steps=2")
    assert Path("run/checkpoints/last.ckpt").exists() == ("callbacks" not in removed)
    assert ("use the model as" in capsys.readouterr().out) == ("callbacks" not in removed)
    assert not Path("checkpoints").exists()
    assert not Path("lightning_logs").exists()


class Counter(Callback):
    """Counts steps, also those before a resume."""

    steps = 0

    def on_train_batch_end(self, *_: object) -> None:
        self.steps += 1
        type(self).last = self.steps

    def state_dict(self) -> dict:
        return {"steps": self.steps}

    def load_state_dict(self, state_dict: dict) -> None:
        self.steps = state_dict["steps"]


def test_lightnings_loggers_and_a_group_with_a_single_part(corpus: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "counting", sys.modules[__name__])
    for group, text in (
        ("callbacks", "defaults: [default]\ncounter: {_target_: counting.Counter}"),
        ("logger", "_target_: pytorch_lightning.loggers.CSVLogger\nsave_dir: theirs"),
    ):
        (tmp_path / "conf" / group).mkdir(parents=True)
        (tmp_path / "conf" / group / "other.yaml").write_text(text)
    options = ["--config-dir", tmp_path / "conf", *RUN, corpus, "callbacks=other", "logger=other"]
    run_training(*options, "trainer.max_steps=2")
    run_training(*options, "trainer.max_steps=3", "ckpt_path=auto")
    assert Counter.last == 3
    assert len(list(Path("theirs").glob("lightning_logs/version_*/metrics.csv"))) == 2


@pytest.mark.parametrize(
    ("group", "text", "expected"),
    [
        (
            "optimizer",
            "{_target_: torch.optim.SGD, lrr: 0.1}",
            "unknown option 'optimizer.lrr'; did you mean optimizer.lr?",
        ),
        ("optimizer", "{_target_: torch.optim.SGD, lr: -1}", "optimizer: Invalid learning rate: -1"),
        (
            "optimizer",
            "{_target_: builtins.print}",
            "optimizer: expected a torch.optim.optimizer.Optimizer, got NoneType",
        ),
        ("schedule", "{_target_: torch.optim.lr_scheduler.StepLR}", "schedule: StepLR.__init__() missing"),
        ("schedule", "{_target_: nowhere.Nothing}", "nowhere"),
        ("schedule", "{_target_: torch.optim.lr_scheduler.ReduceLROnPlateau}", "requires validation"),
        ("logger", "{_target_: nowhere.Nothing}", "nowhere"),
    ],
)
def test_user_errors_are_reported_in_one_line(
    group: str, text: str, expected: str, corpus: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "conf" / group).mkdir(parents=True)
    (tmp_path / "conf" / group / "other.yaml").write_text(text)
    with pytest.raises(SystemExit) as stopped:
        run_training("--config-dir", tmp_path / "conf", *RUN, corpus, f"{group}=other", "trainer.limit_val_batches=0")
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert expected in line
