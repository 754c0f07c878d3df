"""Options of the optimizer that a resumed run would not use are refused."""

import pytest

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
