"""benchmarks/embed.py in small: every part runs and measures what it says."""

import csv
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import embed as benchmark
from protlm.checkpoint import export
from protlm.sequence.alphabet import encode, with_ends

SIZES = ["--layers", "1", "--width", "64"]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["embed", *map(str, arguments)])
    benchmark.main()


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_compare(monkeypatch, write_fasta, tmp_path: Path) -> None:
    short = write_fasta([("a", "MKT"), ("b", "MKTAYIAK"), ("c", "MK")], "short.fasta")
    long = write_fasta([("d", "MKTAYIAKQR" * 9), ("e", "MKTAYIAKQR")], "long.fasta")
    table = tmp_path / "table.csv"
    run(monkeypatch, "compare", short, long, "--proteins", 3, "--repeats", 1, *SIZES, "--csv", table)
    found = rows(table)
    assert [(row["set"], row["what"]) for row in found] == [
        (name, kind) for name in ("3 proteins", "the 2 of long.fasta", "d") for kind in benchmark.KINDS
    ]
    assert [int(row["residues"]) for row in found[::3]] == [13, 100, 90]
    assert all(
        float(row["seconds"]) > 0 and int(row["peak MiB"]) > 50 for row in found if row["what"] == "protlm embed"
    )


def test_invariance(monkeypatch, write_fasta, tmp_path: Path) -> None:
    fasta = write_fasta([("a", "MKTAYIAKQR" * 3), ("b", "MKT"), ("c", "GAVLI" * 5)])
    run(monkeypatch, "invariance", fasta, "--proteins", 3, *SIZES, "--csv", tmp_path / "table.csv")
    differences = {row["precision"]: float(row["largest difference"]) for row in rows(tmp_path / "table.csv")}
    assert differences["float32"] < 1e-5
    assert set(differences) == {"float32", "bfloat16"}


@pytest.mark.parametrize("kind", benchmark.KINDS[1:])
def test_both_forwards_give_a_vector_for_each_token(tmp_path: Path, kind: str) -> None:
    export(benchmark.performer(1, 64), tmp_path / "model")
    forward = benchmark.forward_function(kind, tmp_path / "model", 1, 64)
    tokens = torch.from_numpy(np.stack([with_ends(encode("MKTAY")), with_ends(encode("GAVLI"))])).long()
    with torch.inference_mode():
        assert forward(tokens).shape == (2, 7, 64)
