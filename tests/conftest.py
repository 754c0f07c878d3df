"""Fixtures shared by all tests: the sample, a corpus of it, and a model small enough to build in milliseconds."""

import dataclasses
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from protlm.checkpoint import export
from protlm.cli import main
from protlm.cli.console import MODEL_VARIABLE
from protlm.corpus.prepare import prepare_corpus
from protlm.corpus.splits import SplitRule, read_ids
from protlm.performer import Performer, PerformerConfig
from tests.command import Outcome

DATA = Path(__file__).parents[1] / "data"
LAUNCHER = {"MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE"} - os.environ.keys()

# the same examples in every run, however slow the machine
settings.register_profile("protlm", deadline=None, derandomize=True, database=None)
settings.load_profile("protlm")

# of the kernels for GPUs: Triton reads these when it is imported, which torch.compile does, too
os.environ.setdefault("TRITON_INTERPRET", "1")
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

# neither workers nor the processes that tests start may compete for cores
os.environ["OMP_NUM_THREADS"] = "1"
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Starts with the slow tests, so that no worker has to wait at the end for a long test of another."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(autouse=True)
def _without_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests do not depend on the model of whoever runs them."""
    monkeypatch.delenv(MODEL_VARIABLE, raising=False)


@pytest.fixture(autouse=True)
def _without_launcher() -> Iterator[None]:
    """Removes what Lightning's launcher leaves in the environment, by which later processes become its ranks."""
    yield
    for name in LAUNCHER:
        os.environ.pop(name, None)


@pytest.fixture(autouse=True)
def _without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands do not start transformers to compare values, which takes seconds; tests of that do."""
    monkeypatch.setattr("protlm.exchange.comparison.installed", lambda: False)


@pytest.fixture(scope="session")
def sample() -> Path:
    """The FASTA file that comes with the project."""
    return DATA / "families.fasta.gz"


@pytest.fixture(scope="session")
def corpus_path(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of the sample, split as in the demo."""
    path = tmp_path_factory.mktemp("corpus") / "families.h5"
    rule = SplitRule(
        clusters=DATA / "families.clusters.tsv",
        whole_clusters=False,
        held_out=read_ids(DATA / "families.ood.txt"),
    )
    prepare_corpus([sample], path, rule)
    return path


@pytest.fixture
def tiny_model() -> Performer:
    """A bidirectional Performer with random weights, the same in every test."""
    config = PerformerConfig(
        vocab_size=33,
        pad_id=1,
        layers=2,
        heads=2,
        width=16,
        feed_forward=32,
        num_features=16,
        max_length=256,
        dropout=0.0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Performer(config).eval()


@pytest.fixture
def model_folder(tiny_model: Performer, tmp_path: Path) -> Path:
    """`tiny_model` as a model folder."""
    folder = tmp_path / "model"
    export(tiny_model, folder)
    return folder


@pytest.fixture
def causal_model(tiny_model: Performer) -> Performer:
    """A causal Performer of the same size as `tiny_model`."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return Performer(dataclasses.replace(tiny_model.config, causal=True)).eval()


@pytest.fixture
def protlm(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Runs the command in this process."""

    def run(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["protlm", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        return Outcome(code, *capsys.readouterr())

    return run


@pytest.fixture
def write_fasta(tmp_path: Path) -> Callable[..., Path]:
    """Writes (id, sequence) pairs as a FASTA file."""

    def write(records: Iterable[tuple[str, str]], name: str = "proteins.fasta") -> Path:
        path = tmp_path / name
        path.write_text("".join(f">{identifier}\n{sequence}\n" for identifier, sequence in records))
        return path

    return write


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    """Returns the same folder at each call, emptied."""
    folder = tmp_path_factory.mktemp("fresh")

    def emptied() -> Path:
        shutil.rmtree(folder)
        folder.mkdir()
        return folder

    return emptied
