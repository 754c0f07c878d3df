"""The examples of docs/extending/attention.md, from training to transformers."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import h5py
import pytest
import torch

import protlm
from protlm.errors import UserError

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "extending" / "attention.md").read_text()
MODULES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
CONFIGS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
TARGETS = [re.findall(r"_target_: (\w+)\.(\w+)", config)[0] for config in CONFIGS]
CALLS = """
import importlib
import json
import sys
for module, *arguments in json.loads(sys.argv[1]):
    sys.argv = [module, *arguments]
    importlib.import_module(module).main()
"""
"""Calls commands one after the other, to import PyTorch once."""
TRANSFORMERS = """
import sys
sys.modules["protlm"] = None
import torch
from transformers import AutoModelForMaskedLM
for name in sys.argv[1:]:
    model = AutoModelForMaskedLM.from_pretrained(f"{name}/hf", trust_remote_code=True).eval()
    with torch.inference_mode():
        torch.save(model(torch.load("tokens.pt")).logits, f"{name}/theirs.pt")
"""

pytestmark = pytest.mark.slow


def test_the_page_defines_two_modules_and_their_configurations() -> None:
    assert len(MODULES) == len(CONFIGS) == 2
    assert all(len(module.splitlines()) < 45 for module in MODULES)


def test_the_examples_train_resume_evaluate_embed_and_export(
    tmp_path: Path, corpus_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules, conf = tmp_path / "modules", tmp_path / "my_conf" / "model" / "attention"
    modules.mkdir()
    conf.mkdir(parents=True)
    for (name, _), module, config in zip(TARGETS, MODULES, CONFIGS, strict=True):
        (modules / f"{name}.py").write_text(module)
        (conf / f"{name}.yaml").write_text(config)
        (tmp_path / name).mkdir()
    (tmp_path / "p.fasta").write_text(">a\nMKTAYIAKQR\n>b\nGAVLIMCF\n")
    tokens = torch.tensor([[0, 20, 15, 32, 5, 19, 2]])
    torch.save(tokens, tmp_path / "tokens.pt")

    def call(code: str, *arguments: str, path: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{path}", "HF_HUB_OFFLINE": "1"}
        environment["HF_HOME"] = str(tmp_path / "cache")
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    options = ["model.layers=2", "model.width=16", "model.heads=2", "model.feed_forward=16", "model.num_features=8"]
    options += ["data.max_length=64", "data.token_budget=256", "trainer.accelerator=cpu"]
    options += [f"data.corpus={corpus_path}", "trainer.limit_val_batches=1", "trainer.limit_test_batches=1"]
    training, others = [], []
    for name, _ in TARGETS:
        checkpoint = f"{name}/checkpoints/last.ckpt"
        train = [
            "protlm.train",
            "--config-dir",
            "my_conf",
            f"model/attention={name}",
            *options,
            f"hydra.run.dir={name}",
        ]
        training += [[*train, "trainer.max_steps=2"], [*train, "trainer.max_steps=4", f"ckpt_path={checkpoint}"]]
        others += [
            ["evaluate", str(corpus_path), "--model", checkpoint, "--split", "test", "--max-length", "64"],
            ["embed", "p.fasta", "-o", f"{name}/e.h5", "--model", checkpoint],
            ["export", f"{name}/folder", "--model", checkpoint],
            ["export", f"{name}/hf", "--model", f"{name}/folder", "--format", "hf"],
        ]
    call(CALLS, json.dumps(training), path=modules)
    # in a process that has not imported the classes
    call(CALLS, json.dumps([["protlm.cli", *command] for command in others]), path=modules)
    call(TRANSFORMERS, *(name for name, _ in TARGETS), path=ROOT)
    for name, cls in TARGETS:
        assert torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 4
        with h5py.File(tmp_path / name / "e.h5") as file:
            assert {protein: file[protein].shape for protein in file} == {"a": (16,), "b": (16,)}
        attention = json.loads((tmp_path / name / "folder" / "config.json").read_text())["model"]["attention"]
        assert f"{name}.{cls}" in attention.values()
        with pytest.raises(UserError, match=f"no module named '{name}' is installed"):
            protlm.load(tmp_path / name / "folder")
    monkeypatch.syspath_prepend(str(modules))
    for name, _ in TARGETS:
        with torch.inference_mode():
            ours = protlm.load(tmp_path / name / "folder")(tokens)
        torch.testing.assert_close(torch.load(tmp_path / name / "theirs.pt"), ours)
