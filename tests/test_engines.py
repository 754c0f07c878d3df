"""The examples for engines run as they are; each needs its engine, which protlm does not install."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import protlm

EXAMPLES = Path(__file__).parents[1] / "examples"
RECORDS = {
    "id": ["a", "b", "c"],
    "organism": ["x", "y", "z"],
    "sequence": ["MKT", "MKTAYIAKQR", "GAVLIMCFYW" * 3],
}


def engine(name: str) -> None:
    pytest.importorskip(name, reason=f"the engine {name} is not a dependency of protlm; pip install {name}")


def run(*command: object, folder: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent)}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [*map(str, command)], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3_000:]


@pytest.fixture
def proteins(tmp_path: Path) -> Path:
    path = tmp_path / "proteins.parquet"
    pd.DataFrame(RECORDS).to_parquet(path)
    return path


def assert_embedded(folder: Path, model: Path) -> None:
    found = pd.read_parquet(folder).set_index("id").sort_index()
    assert found.index.tolist() == RECORDS["id"]
    expected = protlm.load(model).embed(RECORDS["sequence"])
    np.testing.assert_allclose(np.stack(found["embedding"].tolist()), expected, atol=1e-5)


@pytest.mark.slow
def test_ray_data(proteins: Path, model_folder: Path, tmp_path: Path) -> None:
    engine("ray")
    run(sys.executable, EXAMPLES / "embed_ray.py", proteins, tmp_path / "out", "model", 1, folder=tmp_path)
    assert_embedded(tmp_path / "out", model_folder)


@pytest.mark.slow
def test_spark(proteins: Path, model_folder: Path, tmp_path: Path) -> None:
    engine("pyspark")
    run(sys.executable, EXAMPLES / "embed_spark.py", proteins, tmp_path / "out", "model", folder=tmp_path)
    assert_embedded(tmp_path / "out", model_folder)


@pytest.mark.slow
def test_snakemake(write_fasta, model_folder: Path, tmp_path: Path) -> None:
    engine("snakemake")
    write_fasta(zip(RECORDS["id"], RECORDS["sequence"], strict=True))
    options = ["fasta=proteins.fasta", "model=model", "shards=2", "output=out.parquet"]
    run("snakemake", "-s", EXAMPLES / "Snakefile", "--cores", 1, "--config", *options, folder=tmp_path)
    assert_embedded(tmp_path / "out.parquet", model_folder)
