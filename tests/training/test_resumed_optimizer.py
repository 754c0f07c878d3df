"""Options of the optimizer that a resumed run would not use are refused."""

from functools import partial

import pytest
import torch
from torch.optim import lr_scheduler as torchs

from protlm.errors import UserError
from protlm.training.resumed_optimizer import check_scheduler
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


def test_a_changed_scheduler_is_refused_at_resume(monkeypatch, capsys, tmp_path, corpus_path) -> None:
    monkeypatch.chdir(tmp_path)
    run = [*FAST, f"data.corpus={corpus_path}", "data.token_budget=900", "hydra.run.dir=run"]
    run += ["schedule._target_=torch.optim.lr_scheduler.StepLR"]
    run_training(*run, "schedule.step_size=2", "trainer.max_steps=1")
    with pytest.raises(SystemExit) as stopped:
        run_training(*run, "schedule.step_size=3", "trainer.max_steps=2", "ckpt_path=auto")
    assert stopped.value.code == 2
    assert "checkpoint's schedule.step_size 2 is now 3; resume" in capsys.readouterr().err
    run_training(*run, "schedule.step_size=2", "trainer.max_steps=2", "ckpt_path=auto")
