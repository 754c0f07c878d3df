"""Fine-tuning as users run it: it learns what a probe cannot, resumes bit for bit, and keeps the better of the two."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas
import pytest
from safetensors.torch import load_file

import protlm
from protlm.checkpoint import export
from protlm.errors import UserError
from protlm.supervised.fit_options import FitOptions
from protlm.supervised.predictor_folder import load_predictor
from protlm.supervised.tuning.run import fine_tune, options_of, overrides_of
from protlm.training.composed import run_composed
from protlm.training.unfinished import run_folder

LETTERS = np.array(list("ADFGIKLMNPQRSTVY"))


def motifs(count: int = 300) -> pandas.DataFrame:
    """Proteins with HCW or WCH: composition, and mostly the mean of representations, does not tell which."""
    draw = np.random.default_rng(0)
    sequences = []
    for number in range(count):
        letters = draw.choice(LETTERS, 24)
        place = int(draw.integers(2, 20))
        letters[place : place + 3] = list(("HCW", "WCH")[number % 2])
        sequences.append("".join(letters))
    labels = [("forward", "backward")[number % 2] for number in range(count)]
    parts = (["train", "train", "train", "train", "valid", "valid", "test", "test"] * count)[:count]
    return pandas.DataFrame({"sequence": sequences, "label": labels, "split": parts})


@pytest.fixture
def base(tiny_model, tmp_path):
    export(tiny_model, tmp_path / "base")
    return tmp_path / "base"


def accuracy(predictor, method: str) -> float:
    return predictor.report["targets"][0]["metrics"][method]["accuracy"]["value"]


@pytest.mark.parametrize("method", ["head", *(pytest.param(one, marks=pytest.mark.slow) for one in ("lora", "full"))])
def test_it_learns_what_a_probe_cannot(method, base, tmp_path):
    if method == "lora":
        pytest.importorskip("peft", reason="peft, which trains adapters, is not installed")
    table = motifs()
    settings = ["data.token_budget=1000", "schedule=constant", "optimizer.head_lr=0.01", "optimizer.lr=0.003"]
    found = protlm.fit(table, tmp_path / "out", base, method, relatives=False, epochs=12, settings=settings)
    assert accuracy(found, method) > accuracy(found, "probe") + 0.1
    assert found.report["training"]["kept"] is True
    assert len(found.report["targets"][0]["learning_curve"]) > 1
    how = {"head": "frozen", "lora": "with low-rank adapters", "full": "from which all weights were trained"}[method]
    for page in ("README.md", "report.html"):
        assert how in (tmp_path / "out" / page).read_text()
    assert (
        f"score on validation {found.report['training']['start']:.3f} before"
        in (tmp_path / "out" / "report.html").read_text()
    )
    loaded = protlm.load(tmp_path / "out")
    tested = table[table["split"] == "test"]
    np.testing.assert_array_equal(found.predict(tested), loaded.predict(tested))
    right = float((loaded.predict(tested) == tested["label"]).mean())
    assert right == pytest.approx(accuracy(found, method), abs=0.02)  # float16 for the head's training
    assert (tmp_path / "out" / "training" / "config.yaml").exists()
    assert not run_folder(tmp_path / "out").exists()


def test_a_probe_that_validation_does_not_improve_on_is_kept(base, tmp_path):
    options = ["optimizer.head_lr=0.0", "task.balanced=true"]
    found = protlm.fit(motifs(80), None, base, "head", relatives=False, epochs=1, settings=options)
    assert found.report["training"]["kept"] is False
    assert accuracy(found, "head") == accuracy(found, "probe")
    assert "the probe is kept" in found.report["warnings"][-1]
    assert "only 20 proteins for validation" in found.report["warnings"][-2]
    with pytest.raises(UserError, match="expected a file or a pandas DataFrame"):
        protlm.fit(["MKT"], None, base, "head")
    with pytest.raises(UserError, match="takes the path of a model"):
        protlm.fit(motifs(80), None, protlm.load(base), "head")


@pytest.mark.slow
def test_an_interrupted_fit_resumes_bit_for_bit(base, tmp_path):
    """Stopped by a limit of steps in the middle of the second epoch, in place of a signal."""
    table = tmp_path / "labels.csv"
    motifs(160).to_csv(table, index=False)
    options = options_of((table, None, None, (), None, None, None), FitOptions(relatives=False), base, "cpu")
    options |= {"data.token_budget": 400, "trainer.max_epochs": 3}
    fine_tune(tmp_path / "whole", "head", options)
    part = run_folder(tmp_path / "parts")
    given = overrides_of("head", options, ())
    run_composed([*given, "trainer.limit_test_batches=0", "trainer.max_steps=9"], part)
    shutil.rmtree(part / "model", ignore_errors=True)
    (part / "options.json").write_text(json.dumps(given))
    fine_tune(tmp_path / "parts", "head", options)
    one, other = (load_file(tmp_path / name / "head.safetensors") for name in ("whole", "parts"))
    assert one.keys() == other.keys()
    assert all((one[name] == other[name]).all() for name in one)
    shutil.rmtree(tmp_path / "parts")
    part.mkdir()
    (part / "options.json").write_text(json.dumps(given))
    with pytest.raises(UserError, match="unfinished fit with other options .*seed=5"):
        fine_tune(tmp_path / "parts", "head", {**options, "seed": 5})


def test_predictors_on_disk(base, tmp_path):
    protlm.fit(motifs(80), tmp_path / "out", base, "head", relatives=False, epochs=2, copy_base=True)
    shutil.rmtree(base)
    assert load_predictor(tmp_path / "out").predict(["MKTHCWAAAA"]).shape == (1,)


@pytest.mark.slow
def test_a_killed_and_a_stopped_fit_resume_when_the_command_is_repeated(base, tmp_path):
    """SIGKILL after a checkpoint, then Ctrl-C, then to the end: the same bits as without."""
    motifs(160).to_csv(tmp_path / "labels.csv", index=False)
    command = [sys.executable, "-m", "protlm", "fit", "labels.csv", "--model", str(base), "--method", "head"]
    command += ["--no-relatives", "--device", "cpu", "--epochs", "12", "--token-budget", "200"]
    command += ["--set", "callbacks.checkpoint.every_n_train_steps=5", "--set", "callbacks.early.patience=12"]
    options = {"cwd": tmp_path, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    last = tmp_path / ".parts.run" / "checkpoints" / "last.ckpt"
    for number in (signal.SIGKILL, signal.SIGINT):
        before = last.stat().st_mtime_ns if last.exists() else 0
        with subprocess.Popen([*command, "-o", "parts"], **options) as process:
            while process.poll() is None and not (last.exists() and last.stat().st_mtime_ns > before):
                time.sleep(0.02)
            os.killpg(process.pid, number)
            _, errors = process.communicate(timeout=120)
        assert process.returncode == (-signal.SIGKILL if number == signal.SIGKILL else 130)
        assert "Traceback" not in errors
    assert "stopped at step" in errors
    assert "repeat the command to resume" in errors
    for name in ("parts", "whole"):
        done = subprocess.run([*command, "-o", name], **{**options, "check": False})
        assert done.returncode == 0, done.stderr
    one, other = (load_file(tmp_path / name / "head.safetensors") for name in ("whole", "parts"))
    assert all((one[name] == other[name]).all() for name in one)
    assert (tmp_path / "whole" / "report.json").read_text() == (tmp_path / "parts" / "report.json").read_text()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("task.rnk=4", "task.rnk"),
        ("task.rank=0", "task.rank 0: expected a positive integer"),
        ("data.max_length=none", "data.max_length"),
        ("optimizer.layer_decay=2", "expected at most 1"),
        ("callbacks.early.patiense=3", "callbacks.early.patiense"),
    ],
)
def test_wrong_settings_are_reported_before_labels_are_read(setting, message):
    with pytest.raises(UserError, match=message):
        protlm.fit("missing.csv", model="missing", method="head", settings=[setting])
