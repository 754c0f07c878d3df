"""Unknown options, choices and parts of the command line: what is said about them."""

from pathlib import Path

import pytest

from protlm.training.command import accepted
from protlm.training.options import CONF, explained, known_options
from tests.tiny import FAST, run_training


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["optimizer.lrr=1"], "unknown option 'optimizer.lrr'; did you mean optimizer.lr?"),
        (["optimizr.lr=1"], "unknown option 'optimizr.lr'; did you mean optimizer.lr?"),
        (["+optimizr.lr=1"], "unknown option 'optimizr'; did you mean optimizer?"),
        (["+data.masking.shre=1"], "unknown option 'data.masking.shre'; did you mean data.masking.share?"),
        (["~model.layer"], "unknown option 'model.layer'; did you mean model.layers?"),
        (["lr=0.1"], "unknown option 'lr'; did you mean optimizer.lr?"),
        (["epochs=3"], "unknown option 'epochs'; did you mean trainer.max_epochs?"),
        (
            ["callbacks.ema.decay=0.9"],
            "callbacks.ema.decay: not in this configuration; it is an option of c",
        ),
        (["schedule=null", "schedule.floor=0.1"], "schedule.floor: not in this configuration; it is an option of"),
        (["nonsense=3"], "unknown option 'nonsense'; 'python -m protlm.train --help' lists all"),
        (
            ["trainer.detect_anomaly=true"],
            "is not in the configuration; to add it, write +trainer.detect_anomaly=VALUE",
        ),
        (
            ["optimizer=adam"],
            "optimizer 'adam': did you mean adamw? expected one of adamw, distillation, finetune, muon, paper",
        ),
        (
            ["+experiment=demos"],
            "experiment 'demos': did you mean demo? expected one of demo, finetune, image64, linearise, quality,",
        ),
        (["logger=[csv,tensorbord]"], "logger 'tensorbord': did you mean tensorboard? expected one of csv,"),
        (["model/attention=rel"], "model/attention 'rel': did you mean relu?"),
        (["experiment=demo"], "experiment: has no default; use +experiment=NAME"),
        (
            ["optimizer=null"],
            "optimizer=null: expected optimizer=NAME, with one of adamw, distillation, finetune, muon, paper",
        ),
        (["--data.fasta=x"], "--data.fasta=x: options have no dashes; write data.fasta=x"),
        (["hydra.job.name=a/b"], "hydra.job.name=a/b: expected a name without '/'; the run's folder is hydra.run.dir"),
        (["data.fasta", "=x"], "'data.fasta': expected OPTION=VALUE, without spaces"),
        (["seed=abc"], "seed=abc: Value 'abc' of type 'str' could not be converted to Integer"),
        (
            ["optimizer=adamw", "optimizer._target_=torch.optim.AdamW"],
            "takes no option 'decay'; leave it out with ~opt",
        ),
        (["model.attention=nonsense"], "error: model.attention 'nonsense': expected one of"),
        (["model.dropout=2"], "error: model.dropout 2: expected a number"),
        (["model/attention=relu", "model.attention.epsilon=abc"], "epsilon 'abc': expected a number of at least 0"),
        (["data.causal=maybe"], "data.causal 'maybe': expected true or false"),
        (["data.packed=maybe"], "data.packed 'maybe': expected true or false, or auto"),
        (["data.token_budget=1e3"], "data.token_budget 1000.0: expected a non-negative integer"),
        (["data.masking.mask=abc"], "data.masking mask 'abc': expected a number"),
        (["trainer.enable_progress_bar=maybe"], "trainer.enable_progress_bar 'maybe': expected true or false"),
        (["optimizer.momentum=2"], "optimizer.momentum 2: expected a number of at least 0 and below 1"),
        (["optimizer.betas=0.9"], "optimizer.betas 0.9: expected two numbers"),
        (["schedule.floor=high"], "schedule.floor 'high': expected a number from 0 to 1"),
        (["+callbacks.x=abc"], "callbacks.x: expected an object with a _target_, as in +callbacks.x._target_=CLASS"),
        (["+logger.x.every=3"], "logger.x: expected an object with a _target_"),
    ],
)
def test_a_mistake_is_named_with_what_was_meant(
    arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str], monkeypatch, tmp_path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        run_training(*FAST, "data.corpus=none.h5", *arguments)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert expected in line


def test_the_configuration_itself_is_the_list_of_names() -> None:
    known = dict(known_options(CONF))
    assert known["trainer.log_every_n_steps"] == 10
    assert {"data.masking.share", "model.attention", "logger.csv.folder", "seed", "trainer"} <= known.keys()
    assert not [name for name in known if name.startswith(("hydra", "experiment", "defaults"))]


def test_other_messages_stay(tmp_path: Path) -> None:
    assert explained("two\n  lines", CONF) == "two lines"
    assert "pip install -e '.[slurm]'" in explained("Could not load 'hydra/launcher/submitit_slurm'", CONF)


def test_help_lists_what_can_be_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_training("--help")
    printed = capsys.readouterr().out
    assert "experiment: demo, finetune, image64, linearise, quality, swissprot, text, trembl," in printed
    assert "_small," in printed
    assert " _small" not in printed
    assert "3 to 5 minutes" in printed


def test_flags_of_hydra_may_stand_between_options(capsys: pytest.CaptureFixture[str]) -> None:
    """Its parser takes the options after them for unknown arguments."""
    assert accepted(["seed=1,2", "-m", "model.layers=1"]) == ["-m", "seed=1,2", "model.layers=1"]
    assert accepted(["seed=1", "--config-dir", "conf", "model=mine"]) == [
        "--config-dir",
        "conf",
        "seed=1",
        "model=mine",
    ]
    run_training("seed=7", "--cfg", "job", "model.layers=3")
    printed = capsys.readouterr().out
    assert "seed: 7" in printed
    assert "layers: 3" in printed


@pytest.mark.parametrize(("experiment", "option"), [("finetune", "model.path"), ("linearise", "model.teacher")])
def test_an_experiment_without_its_model_says_how_to_get_one(
    experiment: str, option: str, capsys: pytest.CaptureFixture[str], monkeypatch, tmp_path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        run_training(f"+experiment={experiment}")
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: no model given; expected {option}=MODEL, ")
    assert "protlm import facebook/esm2_t6_8M_UR50D esm2-8m" in line
    missing = "Missing mandatory value: data.path\n    full_key: data.path\n    object_type=dict"
    assert explained(missing, CONF) == "data.path: none given, and there is no default; write data.path=VALUE"
