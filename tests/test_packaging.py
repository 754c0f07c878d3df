"""Set-up, import laws and the wheel."""

import copy
import hashlib
import re
import subprocess
import sys
import tomllib
import zipfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import grimp
import importlinter.configuration
import pytest
import yaml
from importlinter.contracts.forbidden import ForbiddenContract
from importlinter.contracts.layers import LayersContract
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def name_of(requirement: str) -> str:
    return re.split(r"[\[<>=!~ ]", requirement)[0].lower().replace("_", "-")


@pytest.mark.slow
def test_importing_protlm_loads_neither_lightning_nor_wandb_nor_hydra() -> None:
    heavy = ("pytorch_lightning", "wandb", "hydra")
    code = f"import sys, protlm, protlm.cli; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_dependency_is_pinned_within_its_range() -> None:
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line)
    pins = {name_of(name): version for name, version in pins.items()}
    required = PROJECT["project"]["dependencies"] + PROJECT["project"]["optional-dependencies"]["dev"]
    for requirement in required:
        assert Requirement(requirement).specifier.contains(pins[name_of(requirement)]), requirement


def test_environment_yml_agrees_with_pyproject() -> None:
    """conda installs Python; pip installs this project with its own metadata and constraints."""
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, listed = environment["dependencies"]
    assert pip == "pip"
    assert listed == {"pip": ["-c constraints.txt", "-e .[dev]"]}
    version = python.removeprefix("python=")
    assert f">={version}" == PROJECT["project"]["requires-python"]
    assert f"python{version}" in (ROOT / "Makefile").read_text()


LINTER = PROJECT["tool"]["importlinter"]
NEW = "unlisted"
"""Name of a new file, which no contract mentions."""


def contract_of(options: dict[str, Any]) -> Any:
    """The contract that import-linter makes from an entry of pyproject.toml."""
    importlinter.configuration.configure()
    kind = {"forbidden": ForbiddenContract, "layers": LayersContract}[options["type"]]
    session = {"root_packages": [LINTER["root_package"]], "include_external_packages": "True"}
    given = {key: str(value) if isinstance(value, bool) else value for key, value in options.items()}
    return kind(options["name"], session, {key: value for key, value in given.items() if key not in ("name", "type")})


def violations(options: dict[str, Any]) -> list[tuple[str, str]]:
    """(new file, import) pairs that a contract has to reject; a new file is in each folder that the contract covers."""
    if options["type"] == "forbidden":
        folders = options["source_modules"]
        if folders == ["protlm"]:
            exempt = {line.partition(".**")[0] for line in options["ignore_imports"] if ".**" in line}
            packages = [f"protlm.{path.parent.name}" for path in (ROOT / "protlm").glob("*/__init__.py")]
            folders = ["protlm", *(package for package in packages if package not in exempt)]
        return [(f"{folder}.{NEW}", module) for folder in folders for module in options["forbidden_modules"]]
    layers = [[f"protlm.{name.strip()}" for name in layer.split("|")] for layer in options["layers"]]
    pairs = [(low, high) for upper, lower in pairwise(layers) for low in lower for high in upper]
    siblings = [pair for layer in layers for pair in pairwise(layer)]
    packages = {name for layer in layers for name in layer if (ROOT / name.replace(".", "/")).is_dir()}
    inside = [(f"{low}.{NEW}" if low in packages else low, high) for low, high in pairs + siblings]
    return [*inside, (f"protlm.{NEW}", "protlm.errors")]  # the last has no layer


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("protlm", include_external_packages=True, cache_dir=None)


@pytest.mark.parametrize("options", LINTER["contracts"], ids=lambda options: options["name"])
def test_each_import_law_holds_and_rejects_a_new_file_that_breaks_it(options: dict, graph: grimp.ImportGraph) -> None:
    contract = contract_of(options)
    assert contract.check(graph=copy.deepcopy(graph), verbose=False).kept
    for importer, imported in violations(options):
        broken = copy.deepcopy(graph)
        broken.add_module(importer)
        broken.add_import(importer=importer, imported=imported)
        assert not contract.check(graph=broken, verbose=False).kept, (importer, imported)


@pytest.mark.slow
def test_a_wheel_contains_conf_and_no_model_and_trains(tmp_path: Path, corpus_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("protlm-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
        packed = {name for name in archive.namelist() if name.endswith(".yaml")}
    shipped = {f"protlm/{path.relative_to(ROOT)}" for path in (ROOT / "conf").rglob("*.yaml")}
    assert packed == shipped
    assert (tmp_path / "site" / "protlm" / "py.typed").is_file()
    assert not list((tmp_path / "site").rglob("*.safetensors"))
    options = ["trainer.accelerator=cpu", "trainer.max_steps=1", "model.layers=1", "trainer.limit_test_batches=1"]
    corpus = [f"data.corpus={corpus_path}", "hydra.run.dir=run"]
    for arguments in (
        ["-c", f"import protlm; assert protlm.__file__.startswith({str(tmp_path)!r})"],  # not that of the checkout
        ["-m", "protlm.train", "+experiment=demo", *corpus, *options],  # without the sample of a checkout
        ["-m", "protlm", "embed", "proteins.fasta", "-o", "out.h5", "-m", "run/checkpoints/last.ckpt"],
    ):
        (tmp_path / "proteins.fasta").write_text(">a\nMKTAYIAKQR\n")
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path,
            env={"PYTHONPATH": str(tmp_path / "site"), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()
    assert (tmp_path / "out.h5").exists()


def test_the_sample_has_its_published_checksums() -> None:
    """As in data/README.md, which names the source of the sample."""
    text = (ROOT / "data" / "README.md").read_text()
    for name in ("families.fasta.gz", "families.clusters.tsv", "families.ood.txt"):
        assert f"{hashlib.sha256((ROOT / 'data' / name).read_bytes()).hexdigest()}  {name}" in text
