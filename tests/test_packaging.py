"""Set-up, wheel and import laws: what a newcomer meets first."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from importlinter.cli import EXIT_STATUS_ERROR, EXIT_STATUS_SUCCESS, lint_imports

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def name_of(requirement: str) -> str:
    return re.split(r"[\[<>=!~ ]", requirement)[0].lower().replace("_", "-")


def test_import_brings_neither_lightning_nor_wandb_nor_hydra() -> None:
    heavy = ("pytorch_lightning", "wandb", "hydra")
    code = f"import sys, protlm, protlm.cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_dependency_is_pinned_within_its_range() -> None:
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    pins = {name_of(name): version for name, version in pins.items()}
    required = PROJECT["project"]["dependencies"] + PROJECT["project"]["optional-dependencies"]["dev"]
    for requirement in required:
        from packaging.requirements import Requirement

        assert Requirement(requirement).specifier.contains(pins[name_of(requirement)]), requirement


def test_environment_yml_installs_what_pyproject_says() -> None:
    """conda brings Python; everything else comes from this project's own metadata under its own constraints."""
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, listed = environment["dependencies"]
    assert pip == "pip"
    assert listed == {"pip": ["-c constraints.txt", "-e .[dev]"]}
    version = python.removeprefix("python=")
    assert f">={version}" == PROJECT["project"]["requires-python"]
    assert f"python{version}" in (ROOT / "Makefile").read_text()


def lint(config: Path) -> int:
    return lint_imports(config_filename=str(config), no_cache=True)


def test_import_laws_hold_and_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.chdir(ROOT)
    assert lint(ROOT / "pyproject.toml") == EXIT_STATUS_SUCCESS
    law = '[tool.importlinter]\nroot_package = "protlm"\n[[tool.importlinter.contracts]]\nname = "turned round"\n'
    law += 'type = "layers"\nlayers = ["protlm.sequence", "protlm.cli"]\n'
    (tmp_path / "pyproject.toml").write_text(law)
    assert lint(tmp_path / "pyproject.toml") == EXIT_STATUS_ERROR
    assert "turned round BROKEN" in capsys.readouterr().out


def test_a_wheel_carries_conf_and_models_and_trains_from_it(tmp_path: Path, corpus_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("protlm-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
        packed = {name for name in archive.namelist() if name.endswith(".yaml")}
    shipped = {f"protlm/{path.relative_to(ROOT)}" for path in (ROOT / "conf").rglob("*.yaml")}
    assert packed == shipped
    assert (tmp_path / "site" / "protlm" / "py.typed").is_file()
    models = tmp_path / "site" / "protlm" / "models"
    carried, kept = (
        {path.relative_to(top): path.read_bytes() for path in top.rglob("*") if path.is_file()}
        for top in (models, ROOT / "models")
    )
    assert carried == kept
    options = ["trainer.accelerator=cpu", "trainer.max_steps=1", "model.layers=1", "trainer.limit_test_batches=1"]
    done = subprocess.run(
        [sys.executable, "-m", "protlm.train", f"data.corpus={corpus_path}", "hydra.run.dir=run", *options],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path / "site"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()
    where = "import protlm; print(protlm.__file__); from protlm.bundled import FOLDERS; print(FOLDERS[0])"
    found = subprocess.run(
        [sys.executable, "-c", where], cwd=tmp_path, env={"PYTHONPATH": str(tmp_path / "site")}, capture_output=True
    )
    package, box = map(Path, found.stdout.decode().splitlines())
    assert package.parent == tmp_path / "site" / "protlm"  # the wheel ran, not the checkout
    assert box == models


def test_the_sample_is_the_published_one() -> None:
    """Checksums in data/README.md, which says where the sample comes from."""
    import hashlib

    text = (ROOT / "data" / "README.md").read_text()
    for name in ("families.fasta.gz", "families.clusters.tsv", "families.ood.txt"):
        assert f"{hashlib.sha256((ROOT / 'data' / name).read_bytes()).hexdigest()}  {name}" in text
