"""Options of the optimizer that a resumed run would not use are refused."""

import re
from functools import partial

import pytest
import torch
from torch.optim import lr_scheduler as torchs

from protlm.errors import UserError
from protlm.training.resumed_optimizer import check_resumed, check_scheduler
from tests.tiny import FAST, run_training


def test_changed_options_are_refused_and_the_same_resume(monkeypatch, capsys, tmp_path, corpus_path) -> None:
    monkeypatch.chdir(tmp_path)
    run = [*FAST, f"data.corpus={corpus_path}", "data.token_budget=900", "hydra.run.dir=run", "schedule=constant"]
    run_training(*run, "trainer.max_steps=1")
    for change, expected in (
        ("optimizer.lr=0.1", "optimizer.lr 0.005 is now 0.1"),
        ("optimizer.weight_decay=0.3", "optimizer.weight_decay 0.01 is now 0.3"),
        ("optimizer.betas=[0.8,0.9]", "optimizer.betas (0.9, 0.98) is now (0.8, 0.9)"),
        ("optimizer.query_key=1.0", "optimizer.query_key"),
        ("optimizer=adamw", "another optimizer than AdamW"),
        ("optimizer._target_=torch.optim.SGD", "another optimizer than SGD"),
    ):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            run_training(*run, "trainer.max_steps=2", "ckpt_path=auto", change)
        assert stopped.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert expected in line
        assert "resume with the same options" in line
    run_training(*run, "trainer.max_steps=2", "ckpt_path=auto")


def sequence(optimizer, gamma: float = 0.5, milestone: int = 3) -> torchs.SequentialLR:
    parts = [torchs.ConstantLR(optimizer), torchs.StepLR(optimizer, 4, gamma)]
    return torchs.SequentialLR(optimizer, parts, [milestone])


@pytest.mark.filterwarnings("ignore:The epoch parameter:UserWarning")  # of SequentialLR, at its milestone
@pytest.mark.parametrize(
    ("make", "changes"),
    [
        (partial(torchs.StepLR, step_size=4), {"step_size": 5, "gamma": 0.3}),
        (partial(torchs.MultiStepLR, milestones=[2, 9]), {"milestones": [3, 9]}),
        (partial(torchs.CosineAnnealingLR, T_max=9), {"T_max": 10, "eta_min": 0.1}),
        (partial(torchs.CosineAnnealingWarmRestarts, T_0=2), {"T_0": 3, "T_mult": 2}),
        (torchs.ReduceLROnPlateau, {"patience": 3, "factor": 0.3, "min_lr": 0.01, "mode": "max"}),
        (partial(torchs.OneCycleLR, max_lr=0.1, total_steps=20), {"total_steps": 30}),
        (sequence, {"gamma": 0.1, "milestone": 4}),
    ],
)
def test_changed_options_of_torchs_schedulers_are_refused(make, changes) -> None:
    def new(**options):
        given = {"total_steps": 20, **options} if getattr(make, "func", None) is torchs.OneCycleLR else options
        return make(torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.01, momentum=0.9), **given)

    stored = new()
    for _ in range(5):
        stored.optimizer.step()
        stored.step(*([1.0] if isinstance(stored, torchs.ReduceLROnPlateau) else []))
    state = stored.state_dict()
    check_scheduler(state, new())
    for option, value in changes.items():
        with pytest.raises(UserError, match=rf"schedule\.{option}s? .* is now .*; resume with the same options"):
            check_scheduler(state, new(**{option: value}))
    with pytest.raises(UserError, match="another schedule than LambdaLR"):
        check_scheduler(state, torchs.LambdaLR(stored.optimizer, lambda step: 1.0))


@pytest.mark.parametrize(
    ("scheduler", "options", "changes"),
    [
        (
            "OneCycleLR",
            {"max_lr": 0.01, "total_steps": 9, "base_momentum": 0.5, "max_momentum": 0.6},
            "max_lr=0.1 pct_start=0.2 anneal_strategy=linear final_div_factor=10.0 three_phase=true base_momentum=0.7",
        ),
        (
            "CyclicLR",
            {"base_lr": 0.01, "max_lr": 0.1, "step_size_up": 4, "cycle_momentum": False},
            "base_lr=0.02 max_lr=0.2 step_size_up=5 mode=exp_range",
        ),
        ("StepLR", {"step_size": 2}, "step_size=3"),
    ],
)
def test_changed_schedules_are_refused_at_resume(
    scheduler, options, changes, monkeypatch, capsys, tmp_path, corpus_path
) -> None:
    """Each option by its name; one that is given its default is not changed, nor is a run without changes refused."""
    monkeypatch.chdir(tmp_path)
    run = [*FAST, f"data.corpus={corpus_path}", "data.token_budget=900", "hydra.run.dir=run"]
    run += ["optimizer=adamw", f"schedule._target_=torch.optim.lr_scheduler.{scheduler}"]
    run += [f"schedule.{name}={value}" for name, value in options.items()]
    run_training(*run, "trainer.max_steps=1")
    for change in changes.split():
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            run_training(*run, "trainer.max_steps=2", "ckpt_path=auto", f"schedule.{change}")
        assert stopped.value.code == 2
        name, _, value = change.partition("=")
        expected = rf"the checkpoint's schedule\.{name} .* is now {value}; resume"
        assert re.search(expected, capsys.readouterr().err, re.IGNORECASE)
    default = {"StepLR": "gamma=0.1", "OneCycleLR": "pct_start=0.3", "CyclicLR": "gamma=1.0"}[scheduler]
    run_training(*run, "trainer.max_steps=2", "ckpt_path=auto", f"schedule.{default}")


def test_schedules_without_recorded_options_are_compared_by_what_the_optimizer_keeps() -> None:
    """As in checkpoints of earlier versions, and with a function that makes the schedule."""

    def made(**options):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=0.01, momentum=0.9)
        return optimizer, torchs.OneCycleLR(optimizer, **{"max_lr": 0.1, "total_steps": 20, **options})

    optimizer, scheduler = made()
    stored = {"optimizer_states": [optimizer.state_dict()], "lr_schedulers": [scheduler.state_dict()]}
    check_resumed(stored, optimizer, [scheduler])
    for option in ("max_lr", "base_momentum", "max_momentum"):
        changed, scheduler = made(**{option: 0.4})
        with pytest.raises(UserError, match=rf"checkpoint's schedule\.{option} .* is now 0\.4"):
            check_resumed(stored, changed, [scheduler])


@pytest.mark.parametrize(("before", "after"), [("constant", "null"), ("null", "constant")])
def test_a_schedule_that_comes_or_goes_is_refused(before, after, monkeypatch, capsys, tmp_path, corpus_path) -> None:
    monkeypatch.chdir(tmp_path)
    run = [*FAST, f"data.corpus={corpus_path}", "data.token_budget=900", "hydra.run.dir=run"]
    run_training(*run, "trainer.max_steps=1", f"schedule={before}")
    with pytest.raises(SystemExit) as stopped:
        run_training(*run, "trainer.max_steps=2", "ckpt_path=auto", f"schedule={after}")
    assert stopped.value.code == 2
    assert f"was made {'without' if before == 'null' else 'with'} a schedule; resume" in capsys.readouterr().err


def test_another_patience_is_refused(monkeypatch, capsys, tmp_path, corpus_path) -> None:
    """Lightning restores the checkpoint's."""
    monkeypatch.chdir(tmp_path)
    run = [*FAST, f"data.corpus={corpus_path}", "data.token_budget=900", "hydra.run.dir=run"]
    run += ["+callbacks.early._target_=pytorch_lightning.callbacks.EarlyStopping"]
    run += ["+callbacks.early.monitor=valid/perplexity", "trainer.val_check_interval=1"]
    run_training(*run, "trainer.max_steps=1", "+callbacks.early.patience=2")
    with pytest.raises(SystemExit) as stopped:
        run_training(*run, "trainer.max_steps=2", "ckpt_path=auto", "+callbacks.early.patience=3")
    assert stopped.value.code == 2
    assert "EarlyStopping: the checkpoint's patience 2 is now 3; resume" in capsys.readouterr().err
