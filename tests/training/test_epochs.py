"""An epoch is one pass over the sampled corpus: counted before training, seen once, resumed exactly."""

import csv
import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Callback

from protlm.performer import Performer
from protlm.training.datamodule import ConcatenatedTremblDataModule, TremblDataModule
from protlm.training.epochs import steps_per_epoch
from protlm.training.optimizer import adamw
from protlm.training.task import LanguageModelTask
from tests.tiny import FAST, run_training

RUN = [*FAST, "data.token_budget=20000", "hydra.run.dir=run", "trainer.log_every_n_steps=1"]


@pytest.fixture
def corpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, corpus_path: Path) -> str:
    monkeypatch.chdir(tmp_path)
    return f"data.corpus={corpus_path}"


class Seen(Callback):
    """Counts the proteins of the training batches, the epochs, and where each ends."""

    proteins: Counter[int] = Counter()
    ends: list[int] = []

    def on_train_start(self, *_: object) -> None:
        Seen.proteins, Seen.ends = Counter(), []

    def on_train_batch_end(self, trainer, task, outputs, batch, batch_idx) -> None:
        Seen.proteins.update(batch.key[:, 1].tolist())

    def on_train_epoch_end(self, trainer, task) -> None:
        Seen.ends.append(trainer.global_step)


SEEN = "+callbacks.seen._target_=tests.training.test_epochs.Seen"


def last(folder: str = "run") -> dict:
    return torch.load(f"{folder}/checkpoints/last.ckpt", weights_only=True)


def logged(folder: str = "run") -> list[dict[str, str]]:
    with open(f"{folder}/metrics/metrics.csv") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("steps", [["trainer.max_steps=-1"], []])
def test_an_epoch_sees_each_training_protein_once(steps: list[str], corpus: str, corpus_path, capsys) -> None:
    """`trainer.max_epochs` alone ends the run, and the schedule ends with it."""
    run_training(*RUN, corpus, SEEN, "trainer.max_epochs=1", *steps, "schedule.steps=2")
    data = TremblDataModule(str(corpus_path), max_length=64, token_budget=20000, seed=1)
    members = data.corpora.corpora[0].members("train")
    assert Counter(members.tolist()) == Seen.proteins
    assert Seen.ends == [data.epoch_batches()] == [6]
    assert "training on 1,699 proteins, 6 steps per epoch: 6 steps, 1 epoch\n" in capsys.readouterr().out
    assert yaml.safe_load(Path("run/config.yaml").read_text())["trainer"]["max_steps"] == 6
    rates = [float(row["train/learning_rate"]) for row in logged() if row["train/learning_rate"]]
    assert rates[1] == max(rates) == pytest.approx(5e-3)
    assert 0 < rates[-1] < 0.2 * max(rates)


EXPERIMENT = "# @package _global_\ntrainer: {max_epochs: 2}\n"
DERIVED = "# @package _global_\ndefaults: [shared]\nseed: 1\n"
BOTH = "# @package _global_\ntrainer: {max_epochs: 2, max_steps: 5}\n"
VALIDATING = "# @package _global_\ntrainer: {max_epochs: 2, check_val_every_n_epoch: 1, val_check_interval: 3}\n"


@pytest.mark.parametrize(
    ("files", "options", "expected"),
    [
        ({"experiment/own": EXPERIMENT}, ["+experiment=own"], (12, 250, None)),
        ({"experiment/own": DERIVED, "experiment/shared": EXPERIMENT}, ["+experiment=own"], (12, 250, None)),
        ({"trainer/own": "defaults: [default]\nmax_epochs: 2\n"}, ["trainer=own"], (12, 250, None)),
        ({"experiment/own": EXPERIMENT}, ["+experiment=own", "trainer.max_steps=4"], (4, 250, None)),
        ({"experiment/own": BOTH}, ["+experiment=own"], (5, 250, None)),
        ({"experiment/own": BOTH}, ["+experiment=own", "++trainer.max_epochs=1"], (6, 250, None)),
        ({"experiment/own": VALIDATING}, ["+experiment=own"], (12, 3, 1)),
        ({}, ["trainer.max_epochs=2", "trainer.check_val_every_n_epoch=1"], (12, 1.0, 1)),
    ],
)
def test_epochs_may_be_set_in_files_of_ones_own(files, options, expected, corpus, monkeypatch) -> None:
    """They replace the default steps; what is set later wins, and of two limits the first."""
    for name, text in files.items():
        path = Path("own", f"{name}.yaml")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(Trainer, "fit", lambda *_, **__: None)
    monkeypatch.setattr(Trainer, "test", lambda *_, **__: None)
    Path("own").mkdir(exist_ok=True)
    run_training("--config-dir", "own", *RUN, corpus, "logger=[]", *options)
    trainer = yaml.safe_load(Path("run/config.yaml").read_text())["trainer"]
    assert tuple(trainer[name] for name in ("max_steps", "val_check_interval", "check_val_every_n_epoch")) == expected


@pytest.mark.slow
def test_validation_at_the_end_of_epochs_and_at_fractions(corpus: str, capsys) -> None:
    def validations(*options: str) -> list[int]:
        run_training(*RUN, corpus, *options)
        lines = [line for line in capsys.readouterr().out.splitlines() if ": validation" in line]
        return [int(line.split()[1]) for line in lines]

    assert validations("trainer.max_epochs=4", "trainer.check_val_every_n_epoch=2") == [12, 24]
    assert validations("trainer.max_epochs=1", "trainer.val_check_interval=0.5") == [3, 6]
    assert validations("trainer.max_steps=8", "trainer.check_val_every_n_epoch=1") == [6]


@pytest.mark.slow
def test_accumulated_gradients_and_both_limits(corpus: str, capsys) -> None:
    run_training(*RUN, corpus, SEEN, "trainer.max_epochs=2", "trainer.accumulate_grad_batches=4")
    assert Seen.ends == [2, 4]  # 6 batches are 2 steps
    assert "2 steps per epoch: 4 steps, 2 epochs\n" in capsys.readouterr().out
    run_training(*RUN, corpus, SEEN, "trainer.max_epochs=2", "trainer.max_steps=7")
    assert last()["global_step"] == 7
    assert "6 steps per epoch: 7 steps, 1.17 epochs\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["trainer.max_epochs=0"], "trainer.max_epochs 0: expected a positive integer"),
        (["trainer.check_val_every_n_epoch=0"], "trainer.check_val_every_n_epoch 0: expected a positive integer"),
        (
            ["trainer.check_val_every_n_epoch=1", "trainer.val_check_interval=7"],
            "val_check_interval 7: an epoch has only 6 batches",
        ),
        (["trainer.max_steps=-1"], "a schedule with decay requires trainer.max_steps or max_epochs"),
    ],
)
def test_impossible_plans_are_refused(options: list[str], expected: str, corpus: str, capsys) -> None:
    with pytest.raises(SystemExit):
        run_training(*RUN, corpus, *options)
    assert expected in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_in_epochs_resumes_bit_for_bit(corpus: str) -> None:
    """Stopped within an epoch, at its end, and right after it."""
    common = [*RUN, corpus, "schedule=constant", "model.dropout=0.1", "trainer.max_epochs=3"]
    common += ["trainer.val_check_interval=0.5", "callbacks.redraw.every_n_steps=4"]
    run_training(*common, "hydra.run.dir=whole")
    for steps in (4, 6, 7, 9, 12, -1):
        run_training(*common, SEEN, f"trainer.max_steps={steps}", "ckpt_path=auto")
    assert Seen.ends == [18]
    assert last()["global_step"] == last("whole")["global_step"] == 18
    assert last()["epoch"] == last("whole")["epoch"]
    assert last()["TremblDataModule"] == last("whole")["TremblDataModule"]
    for name, weight in last("whole")["state_dict"].items():
        assert torch.equal(weight, last()["state_dict"][name]), name
    rows = [[row["step"] for row in logged(folder) if row["valid/perplexity"]] for folder in ("whole", "run")]
    assert rows[0] == rows[1] == ["2", "5", "8", "11", "14", "17"]
    results = [json.loads(Path(f"{folder}/results.json").read_text()) for folder in ("whole", "run")]
    assert results[0] == results[1]


@pytest.mark.parametrize(("ranks", "accumulate", "expected"), [(1, 1, 13), (2, 1, 7), (2, 3, 3), (4, 8, 1)])
def test_all_devices_share_an_epoch(ranks: int, accumulate: int, expected: int) -> None:
    trainer = SimpleNamespace(world_size=ranks, accumulate_grad_batches=accumulate)
    assert steps_per_epoch(trainer, 13) == expected


@pytest.mark.filterwarnings("ignore:::pytorch_lightning", "ignore:::torch.utils.data", "ignore::FutureWarning")
def test_a_trainer_of_ones_own_counts_epochs_too(tiny_model: Performer, corpus_path: Path, tmp_path: Path) -> None:
    data = TremblDataModule(str(corpus_path), max_length=64, token_budget=20000, seed=1)
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    options["enable_model_summary"] = False
    trainer = Trainer(max_epochs=1, accelerator="cpu", limit_val_batches=0, default_root_dir=tmp_path, **options)
    trainer.fit(LanguageModelTask(tiny_model, adamw), data)
    assert trainer.global_step == trainer.max_steps == 6


@pytest.mark.parametrize(("kind", "pools"), [(TremblDataModule, 5), (ConcatenatedTremblDataModule, 40)])
def test_the_estimate_for_a_large_corpus_is_close(kind: type[TremblDataModule], pools: int, corpus_path: Path) -> None:
    samples = kind(corpus=str(corpus_path), max_length=64, token_budget=64, seed=1)._training_batches()
    exact, estimated = samples.count(), samples.count(pools)
    assert exact == (sum(1 for _ in samples.plan(0)), True)
    assert estimated[1] is False
    assert estimated[0] == pytest.approx(exact[0], rel=0.1)
