"""Distillation as users run it: a student in a folder, resumed when the command is repeated, and its gap."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from protlm.checkpoint import export, load
from protlm.distillation.run import sampled
from protlm.performer.hybrid import Hybrid
from tests.command import assert_refused

OPTIONS = [
    "--block",
    8,
    "--features",
    8,
    "--max-length",
    100,
    "--token-budget",
    400,
    "--steps",
    6,
    "--match",
    4,
    "--device",
    "cpu",
]
OPTIONS += ["--set", "trainer.val_check_interval=3", "--set", "trainer.limit_val_batches=1"]


BUDGET = ["--exact-heads", 0.25, "--window-layers", 0.5]


@pytest.fixture
def fasta(write_fasta, proteins, monkeypatch):
    path = write_fasta(proteins[20:])
    monkeypatch.chdir(path.parent)  # the corpus is made there
    return path


@pytest.fixture
def others(write_fasta, proteins):
    return write_fasta(proteins[:20], "others.fasta")


def test_a_student_is_made_and_compared(protlm, teacher_folder, fasta, others, tmp_path) -> None:
    run = ["linearise", teacher_folder, "-o", tmp_path / "student"]
    outcome = protlm(*run, "--fasta", fasta, *OPTIONS, *BUDGET, "--check", others, "--lengths", "64")
    assert outcome.code == 0, outcome.err
    student = load(tmp_path / "student")
    assert isinstance(student.config.kind, Hybrid)
    assert sum(map(len, student.config.kind.exact_heads)) == 1  # of four
    assert sorted(map(len, student.config.kind.window_heads)) == [0, 2]
    assert load(tmp_path / "student" / "stages" / "match").config == student.config
    card = (tmp_path / "student" / "README.md").read_text()
    assert "8 learned features (positive) beyond" in card
    assert "exact heads: 1; layer" in card
    assert "heads without features, which see near residues only: 2; layer" in card
    assert "| layer | 1 | 2 |" in card
    assert "exact heads: 1; layer" in outcome.err
    assert "window heads: 2; layer" in outcome.err
    assert ": all" in outcome.err
    assert "lowest error on validation: step" in outcome.err
    assert "match: leaves out" not in outcome.err  # all have more than two blocks of 8
    for name in ("config.yaml", "run.json", "results.json"):
        assert (tmp_path / "student" / "training" / name).exists()
    assert not (tmp_path / ".student.run").exists()
    gap = json.loads((tmp_path / "student" / "gap.json").read_text())
    assert list(gap) == ["untrained", "match", "student"]
    errors = [report["errors"]["all"]["layers"][-1] for report in gap.values()]
    assert errors[0] > errors[1]
    assert errors[0] > errors[2]
    final = gap["student"]
    assert final["proteins"] == 20
    assert 0 <= final["neighbours"]["ten"] <= 1
    assert final["masked"]["residues"] > 0
    assert set(final["seconds"]) == {"64"}
    assert "student, near keys only" in outcome.out
    assert "times as fast" in outcome.out
    again = protlm(*run, "--check", others, "--lengths", "")
    assert again.code == 0
    assert again.out.split("\n\n")[0] == outcome.out.split("\n\n")[0]
    assert_refused(protlm(*run, "--fasta", fasta), "student: already exists")
    before = (tmp_path / "student" / "gap.json").read_text()
    other = load(teacher_folder)
    other.config = replace(other.config, norm_eps=1e-3)
    export(other, tmp_path / "settings")
    other = load(teacher_folder)
    with torch.no_grad():
        other.embedding.weight += 1.0
    export(other, tmp_path / "weights")
    for name, words in (("settings", "differ in model.norm_eps"), ("weights", "was made from another teacher")):
        asked = ["linearise", tmp_path / name, "-o", tmp_path / "student", "--check", others, "--lengths", ""]
        assert_refused(protlm(*asked), words)
    assert (tmp_path / "student" / "gap.json").read_text() == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--map", "cosine"], "map 'cosine': expected one of positive, hedgehog, relu"),
        (["--exact-heads", 1], "--exact-heads 1.0: expected a fraction"),
        (["--window-layers", 0.1], "--window-layers 0.1: none of 2 layers; one is 0.5"),
        (["--exact-heads", 0.5, "--choose-by", "luck"], "--choose-by 'luck': expected one of error, kl"),
        (["--match", 3000], "match 3,000 and tune 0: more than 2,000 steps in all"),
        (["--tune", 5, "--tune-method", "qlora"], "--tune-method 'qlora': expected one of full, lora"),
        (["--tune-method", "lora"], "--tune-method lora: there is no last stage; set --tune"),
        (
            ["--tune", 5, "--tune-method", "lora", "--set", "task.rank=0"],
            "task.rank 0: expected an integer of at least 1",
        ),
        (["--max-length", 128], "--max-length 128: at most two blocks of 64"),
        (["--set", "model.exact_heads=[[9]]"], "exact_heads: layer 0 has 2 heads, numbered from 0; got 9"),
        (["--set", "model.window_heads=[[],[],[0]]"], "window_heads: has heads of 3 layers; the model has 2"),
        (["--set", "optimizer.speed=1"], "optimizer"),
        (["--token-budget", 500], "--max-length 1,024: more than --token-budget, 500"),
        (["--lengths", "0"], "lengths '0': expected numbers of tokens"),
        (["--fasta", "missing.fasta"], "missing.fasta"),
        (["--attention-backend", "gpu"], "--attention-backend 'gpu': expected one of"),
        (["--attention-backend", "triton"], "random features only; the model's is 'hybrid'"),
    ],
)
def test_wrong_options_are_refused_and_leave_nothing(options, words, protlm, teacher_folder, fasta, tmp_path) -> None:
    outcome = protlm("linearise", teacher_folder, "-o", tmp_path / "student", "--fasta", fasta, *options)
    assert_refused(outcome, words)
    assert not (tmp_path / "student").exists()
    assert not (tmp_path / ".student.run").exists()


def test_a_model_that_is_no_teacher_is_refused(protlm, tiny_model, fasta, others, tmp_path) -> None:
    export(tiny_model, tmp_path / "relu")
    run = ["linearise", tmp_path / "relu", "-o", tmp_path / "student"]
    assert_refused(protlm(*run, "--fasta", fasta), "has relu attention; expected a teacher with exact attention")
    assert_refused(protlm(*run), "--fasta: give the proteins to train on")
    (tmp_path / "empty.fasta").write_text("")
    assert_refused(protlm(*run, "--fasta", fasta, "--check", tmp_path / "empty.fasta"), "empty.fasta")


def test_the_same_proteins_are_sampled_in_any_order(write_fasta, proteins) -> None:
    one, other = write_fasta(proteins, "one.fasta"), write_fasta(proteins[::-1], "other.fasta")
    found = sampled([one], 10, 40, 60)
    assert found == sampled([other], 10, 40, 60) == sampled([other, one], 10, 40, 60)
    assert len(found) == 10
    assert all(40 <= len(protein) <= 60 for protein in found)


def test_short_proteins_are_left_out_of_the_first_stage(protlm, teacher_folder, fasta, tmp_path) -> None:
    run = ["linearise", teacher_folder, "--fasta", fasta, *OPTIONS, "--block"]
    outcome = protlm(*run, 20, "-o", tmp_path / "student")
    assert outcome.code == 0, outcome.err
    assert re.search(r"match: leaves out \d\d of \d\d training proteins, those of at most 38 residues", outcome.err)
    refused = protlm(*run, 45, "-o", tmp_path / "other")
    assert refused.code == 2
    assert "no training protein has more than 88 residues, two blocks" in refused.err.splitlines()[-1]
    assert not (tmp_path / ".other.run").exists()


@pytest.mark.slow
def test_a_killed_and_a_stopped_run_resume_when_the_command_is_repeated(teacher_folder, fasta, tmp_path) -> None:
    """SIGKILL in the first stage, then Ctrl-C in the last one, then to the end: the same bits as without."""
    command = [sys.executable, "-m", "protlm", "linearise", str(teacher_folder), "--fasta", str(fasta)]
    command += [*map(str, OPTIONS), "--steps", "60", "--match", "8", "--tune", "50", "--tune-method", "lora"]
    command += ["--exact-heads", "0.25", "--set", "callbacks.checkpoint.every_n_train_steps=5"]
    command += ["--set", "callbacks.best=null"]  # the student of the last step
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
    assert "repeat the command to resume" in errors
    for name in ("parts", "whole"):
        subprocess.run([*command, "-o", name], cwd=tmp_path, check=True, capture_output=True)
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert one.keys() == other.keys()
    assert all((one[name] == other[name]).all() for name in one)
    assert "match 8, distil 2, tune 50 by low-rank adapters, merged" in (tmp_path / "parts" / "README.md").read_text()
    assert json.loads((tmp_path / "parts/training/run.json").read_text())["config"]["task"]["tune_method"] == "lora"
    before = load_file(tmp_path / "parts" / "stages" / "distil" / "model.safetensors")
    changed = {name.split(".", 2)[-1] for name in one if (one[name] != before[name]).any()}
    assert changed == {"attention.qkv.weight", "attention.out.weight", "feed_forward.0.weight", "feed_forward.2.weight"}
    shutil.rmtree(tmp_path / "parts")


def test_the_student_after_tuning_is_written(protlm, teacher_folder, fasta, tmp_path) -> None:
    options = ["--steps", 6, "--match", 2, "--tune", 2, "--set", "optimizer.lr=0.1"]  # which worsens representations
    outcome = protlm("linearise", teacher_folder, "-o", tmp_path / "student", "--fasta", fasta, *OPTIONS, *options)
    assert outcome.code == 0, outcome.err
    assert "after the last stage: step 6 (tune)" in outcome.err
    assert "after the last stage: step 6 (tune)" in (tmp_path / "student" / "README.md").read_text()
    assert sorted(path.name for path in (tmp_path / "student" / "stages").iterdir()) == ["distil", "match"]


def test_an_unfinished_run_with_other_options_is_not_resumed(protlm, teacher_folder, fasta, tmp_path) -> None:
    unfinished = tmp_path / ".student.run"
    unfinished.mkdir()
    (unfinished / "options.json").write_text('["seed=5"]')
    run = ["linearise", teacher_folder, "-o", tmp_path / "student", "--fasta", fasta, *OPTIONS]
    assert_refused(protlm(*run), "an unfinished distillation with other options")
